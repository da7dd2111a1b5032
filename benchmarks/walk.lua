-- wrk's part of a closed loop: every request is the next body of a file, answers are counted once the loop runs evenly,
-- and the result is one line of JSON. Arguments after "--": the file, one JSON document a line; the number of the first
-- one to send; the seconds at the beginning that do not count.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long us; } sluice_time; int gettimeofday(sluice_time *at, void *zone);")
local clock = ffi.new("sluice_time")
local requests, next_request, begun, warm = {}, 0, nil, 0
local threads = {}
counted = 0 -- global: `done` asks the thread for it

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

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"counted":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,' ..
    '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, threads[1]:get("counted"), summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
