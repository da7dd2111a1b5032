"""A closed-loop HTTP/1.1 driver, light enough not to be what is measured: raw asyncio streams, bodies made beforehand.

Run as `python -m benchmarks.driver` in a process of its own; imports nothing of ours. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def client(
    host: str, port: int, requests: list[bytes], first: int, step: int, until: float, latencies_s: list[float]
) -> int:
    """One keep-alive connection sending requests first, first + step, … until the time is over. Returns failures."""
    reader, writer = await asyncio.open_connection(host, port)
    failures, number = 0, first
    try:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            writer.write(requests[number % len(requests)])
            number += step
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                latencies_s.append(time.perf_counter() - begun)
            else:
                failures += 1
    finally:
        writer.close()
    return failures


async def drive(url: str, bodies: list[bytes], clients: int, seconds: float, offset: int) -> dict[str, object]:
    """`clients` connections for `seconds`; every request is another body until they are used up."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    latencies_s: list[float] = []
    begun = time.perf_counter()
    until = begun + seconds
    tasks = [client(host, port, requests, offset + n, clients, until, latencies_s) for n in range(clients)]
    failures = sum(await asyncio.gather(*tasks))
    took_s = time.perf_counter() - begun
    latencies_s.sort()
    return {
        "requests_per_s": len(latencies_s) / took_s,
        "p50_ms": latencies_s[len(latencies_s) // 2] * 1000 if latencies_s else None,
        "p99_ms": latencies_s[int(len(latencies_s) * 0.99)] * 1000 if latencies_s else None,
        "requests": len(latencies_s),
        "failures": failures,
    }


def main(arguments: list[str]) -> int:
    """Bodies come on stdin, one JSON document a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--offset", type=int, default=0, help="index of the first body")
    options = parser.parse_args(arguments)
    bodies = [line.strip() for line in sys.stdin.buffer if line.strip()]
    result = asyncio.run(drive(options.url, bodies, options.clients, options.seconds, options.offset))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
