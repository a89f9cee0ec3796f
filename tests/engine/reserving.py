"""A process that reserves and releases as fast as it can, with an oracle outside: counts in shared memory."""

import asyncio
import sys
from mmap import mmap
from pathlib import Path

from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.ports_engine import Grant

SLOT = 64  # bytes of a process and node: so no two processes write to the same line of the cache


class Oracle:
    """How many sessions each process has on each node now; each process writes its own counts only.

    A session is counted after it was granted its slot and until before it gives it back, so that the sum of the
    counts is never above what there is.
    """

    def __init__(self, name: str, processes: int, nodes: int, number: int) -> None:
        with Path(name).open("r+b") as file:
            self.memory = mmap(file.fileno(), 0)
        self.processes, self.nodes, self.number = processes, nodes, number

    def _at(self, process: int, node: int) -> int:
        return (process * self.nodes + node) * SLOT

    def add(self, node: int, by: int) -> None:
        self.memory[self._at(self.number, node)] += by

    def count(self, node: int) -> int:
        return sum(self.memory[self._at(process, node)] for process in range(self.processes))


async def main() -> None:
    """Arguments: port, oracle's file, processes, nodes, capacity, number of this one, reservations, at once."""
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    port, name, *numbers = sys.argv[1:]
    processes, nodes, capacity, number, count, at_once = map(int, numbers)
    oracle = Oracle(name, processes, nodes, number)
    engine = RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), lease=10.0, patience=20.0)
    await engine.start(["default"], lambda *_: None, lambda *_: None)
    store = engine.store("default")
    done = over = granted = 0

    async def client(index: int) -> None:
        nonlocal done, over, granted
        while done < count:
            done += 1
            session = f"p{number}.{index}.{done}"
            standing = await store.reserve(session, patient=False)
            if isinstance(standing, Grant):
                node = int(standing.node)
                granted += 1
                oracle.add(node, 1)
                over += oracle.count(node) > capacity
                await asyncio.sleep(0)
                oracle.add(node, -1)
                await store.release(session)

    await asyncio.gather(*[client(index) for index in range(at_once)])
    await engine.close()
    oracle.memory.close()
    print(done, granted, over)


if __name__ == "__main__":
    asyncio.run(main())
