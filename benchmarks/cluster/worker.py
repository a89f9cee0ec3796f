"""One process of the benchmark: `python -m benchmarks.cluster.worker MODE …`. Prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Callable

import hiredis
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import Connection

from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.drivers.engine.redis_engine import RedisEngine
from rtcbridge.drivers.engine.redis_store import SHA
from rtcbridge.ports_engine import Grant

POOL = "default"
AT_ONCE = 16  # reservations that a process has under way
TAIL_S = 5.0  # seconds that the receiver waits for the last messages
_DUE = struct.Struct("d")


def _ready() -> None:
    """Tell the parent; go on when it says so."""
    print("ready", flush=True)
    sys.stdin.readline()


async def reserve(port: int, number: int, seconds: float) -> dict[str, float]:
    """Through the driver, as the bridge does."""
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), lease=30.0)
    await engine.start([POOL], lambda *_: None, lambda *_: None)
    store = engine.store(POOL)
    await asyncio.to_thread(_ready)
    done, until = 0, time.monotonic() + seconds

    async def client(index: int) -> None:
        nonlocal done
        turn = 0
        while time.monotonic() < until:
            turn += 1
            session = f"{number}.{index}.{turn}"
            if not isinstance(await store.reserve(session), Grant):
                raise RuntimeError("the pool is too small")
            await store.release(session)
            done += 1

    began = time.monotonic()
    await asyncio.gather(*[client(index) for index in range(AT_ONCE)])
    rate = done / (time.monotonic() - began)
    await engine.close()
    return {"rate": rate}


async def bare(port: int, number: int, seconds: float) -> dict[str, float]:
    """The same calls of the same script, packed beforehand, over one socket; the answers are only counted."""
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), lease=30.0)
    await engine.start([POOL], lambda *_: None, lambda *_: None)
    store, pack = engine.store(POOL), Connection().pack_command
    guard = (store.epoch, store.me, engine.generation)
    turns = []
    for command, rest in (("reserve", (0, 0, "", 1, "", "", 0)), ("release", ())):
        calls = [
            b"".join(pack("EVALSHA", SHA, 1, store.prefix, command, *guard, f"{number}.{index}", *rest))
            for index in range(AT_ONCE)
        ]
        turns.append(b"".join(calls))
    await asyncio.to_thread(_ready)
    rate = await asyncio.to_thread(_bare_loop, port, turns, seconds)
    await engine.close()
    return {"rate": rate}


def _bare_loop(port: int, turns: list[bytes], seconds: float) -> float:
    done, began = 0, time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.monotonic() < began + seconds:
            for turn in turns:
                connection.sendall(turn)
                reader, missing = hiredis.Reader(), AT_ONCE
                while missing:
                    reader.feed(connection.recv(65536))
                    while (answer := reader.gets()) is not False:
                        if answer[0] not in (b"grant", b"OK"):
                            raise RuntimeError(f"the script answered {answer!r}")
                        missing -= 1
            done += AT_ONCE
    return done / (time.monotonic() - began)


async def _open_loop(send: Callable[[bytes], None], rate: float, seconds: float, size: int) -> int:
    """Send at instants that do not depend on how it goes; each message carries the instant that it was due."""
    count, began, rest = int(rate * seconds), time.monotonic() + 0.05, bytes(size - _DUE.size)
    for number in range(count):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        send(_DUE.pack(due) + rest)
    return count


async def send(port: int, to: str, rate: float, seconds: float, size: int) -> dict[str, float]:
    """Send over the bus."""
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), lease=30.0)
    await engine.start([POOL], lambda *_: None, lambda *_: None)
    await asyncio.to_thread(_ready)
    sent = await _open_loop(lambda data: void(engine.bus.send(to, "s", "up", data)), rate, seconds, size)
    await asyncio.sleep(TAIL_S / 5)
    await engine.close()
    return {"sent": sent}


async def receive(port: int, count: int) -> dict[str, float]:
    """Take from the bus; the address comes before the figures."""
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), lease=30.0)
    delays: list[float] = []
    done = asyncio.Event()

    def take(data: bytes) -> None:
        delays.append(time.monotonic() - _DUE.unpack_from(data)[0])
        if len(delays) == count:
            done.set()

    await engine.start([POOL], lambda *_: None, lambda _, packet: take(packet.data))
    print(engine.replica, flush=True)
    await done.wait()
    await engine.close()
    return percentiles(delays)


async def bare_send(port: int, to: str, rate: float, seconds: float, size: int) -> dict[str, float]:
    """One XADD a message, one after the other, by redis-py alone."""
    client = Redis(port=port)
    await client.ping()
    await asyncio.to_thread(_ready)
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def write() -> None:
        while True:
            await client.xadd(to, {"d": await queue.get()})
            queue.task_done()

    writer = asyncio.create_task(write())
    sent = await _open_loop(queue.put_nowait, rate, seconds, size)
    await queue.join()
    writer.cancel()
    await client.aclose()
    return {"sent": sent}


async def bare_receive(port: int, count: int) -> dict[str, float]:
    """XREAD in a loop, by redis-py alone."""
    client, key, last = Redis(port=port), f"bare.{count}.{time.monotonic_ns()}", "0"
    await client.ping()
    print(key, flush=True)
    delays: list[float] = []
    while len(delays) < count:
        for _, entries in await client.xread({key: last}, block=1000) or ():
            now, last = time.monotonic(), entries[-1][0]
            delays += [now - _DUE.unpack_from(fields[b"d"])[0] for _, fields in entries]
    await client.aclose()
    return percentiles(delays)


def void(taken: bool) -> None:
    """Fail when the bus takes nothing any more."""
    if not taken:
        raise RuntimeError("the bus is over its limit")


def percentiles(delays: list[float]) -> dict[str, float]:
    """Milliseconds."""
    delays.sort()
    return {"p50": delays[len(delays) // 2] * 1000, "p99": delays[int(len(delays) * 0.99)] * 1000, "got": len(delays)}


MODES = {
    "reserve": lambda a: reserve(int(a[0]), int(a[1]), float(a[2])),
    "bare": lambda a: bare(int(a[0]), int(a[1]), float(a[2])),
    "send": lambda a: send(int(a[0]), a[1], float(a[2]), float(a[3]), int(a[4])),
    "receive": lambda a: receive(int(a[0]), int(a[1])),
    "bare_send": lambda a: bare_send(int(a[0]), a[1], float(a[2]), float(a[3]), int(a[4])),
    "bare_receive": lambda a: bare_receive(int(a[0]), int(a[1])),
}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(MODES[sys.argv[1]](sys.argv[2:]))), flush=True)
