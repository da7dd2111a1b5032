-- wrk's part of a closed loop: every request is the next body of a file, answers are counted once the loop runs evenly,
-- and the result is one line of JSON. Arguments after "--": the file, one JSON document a line; the number of the first
-- one to send; the seconds at the beginning that do not count; the number of connections.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long us; } sluice_time; int gettimeofday(sluice_time *at, void *zone);")
local clock = ffi.new("sluice_time")
local requests, next_request, begun, warm = {}, 0, nil, 0
local threads = {}
counted, connections = 0, 0 -- global: `done` asks the thread for them

local function now()
  ffi.C.gettimeofday(clock, nil)
  return tonumber(clock.s) + tonumber(clock.us) / 1e6
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  local headers = {["Content-Type"] = "application/json"}
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, line)
  end
  next_request = tonumber(arguments[2])
  warm = tonumber(arguments[3])
  connections = tonumber(arguments[4])
end

function request()
  begun = begun or now()
  next_request = next_request + 1
  return requests[(next_request - 1) % #requests + 1]
end

function response(status)
  if status == 200 and now() - begun >= warm then
    counted = counted + 1
  end
end

-- wrk has put samples of its own among the measured ones: for each answer of n us, n - i, n - 2i, ... down to the mean
-- interval i, as if requests had come at a constant rate. Taken out again, from the largest down, what was measured is left.
local function measured(summary, latency, connections)
  local interval = math.floor(summary.duration / math.floor(summary.requests / connections))
  local counts, values = {}, {}
  for index = 1, #latency do
    local value, count = latency(index)
    counts[value], values[#values + 1] = count, value
  end
  table.sort(values, function(a, b) return a > b end)
  for _, value in ipairs(values) do
    local added = value >= 2 * interval and value - interval or 0
    while added > interval do
      counts[added] = counts[added] - counts[value]
      added = added - interval
    end
  end
  return counts, values
end

local function percentile_ms(counts, values, share)
  local total, seen = 0, 0
  for _, value in ipairs(values) do
    total = total + counts[value]
  end
  for index = #values, 1, -1 do
    seen = seen + counts[values[index]]
    if seen >= share * total then
      return values[index] / 1e3, total
    end
  end
  return 0, total
end

function done(summary, latency, _)
  local errors = summary.errors
  local counts, values = measured(summary, latency, threads[1]:get("connections"))
  local p50_ms, samples = percentile_ms(counts, values, 0.50)
  local p99_ms = percentile_ms(counts, values, 0.99)
  io.write(string.format(
    'RESULT {"requests":%d,"samples":%d,"counted":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,' ..
    '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, samples, threads[1]:get("counted"), summary.duration / 1e6, p50_ms, p99_ms,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
