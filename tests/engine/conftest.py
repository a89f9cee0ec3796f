"""What the tests of engines share: the server, and engines over it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from engine.valkey import MISSING, Server, program
from rtcbridge.drivers.engine import MemoryEngine, MemoryHub, parse_engine_url
from rtcbridge.ports_engine import News, Wake

POOL = "default"


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that many tests share; each finds it empty."""
    if program() is None:
        pytest.skip(MISSING)
    server = Server(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path: Any) -> Iterator[Server]:
    """A server that this test may kill."""
    if program() is None:
        pytest.skip(MISSING)
    server = Server(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


class Replica:
    """An engine with what it was told."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.wakes: list[Any] = []
        self.packets: list[Any] = []
        self.told: Callable[[Wake], None] = lambda wake: None
        self.heard = asyncio.Event()

    async def start(self) -> "Replica":
        await self.engine.start([POOL], self._woken, self._received)
        return self

    @property
    def address(self) -> str:
        return str(self.engine.replica)

    @property
    def store(self) -> Any:
        return self.engine.store(POOL)

    def _woken(self, pool: str, wake: Any) -> None:
        assert pool == POOL
        self.wakes.append(wake)
        self.told(wake)
        self.heard.set()

    def _received(self, origin: str, packet: Any) -> None:
        self.packets.append((origin, packet))
        self.heard.set()

    def news(self, *kinds: News) -> list[Wake]:
        """What it was told of these kinds."""
        return [wake for wake in self.wakes if wake.news in kinds]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for news until a condition holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.heard.clear()
                await self.heard.wait()


async def until(replica: Replica, condition: Callable[[Any], bool]) -> Any:
    """Look at the pool until a condition holds; return what there is then. Nothing tells of all that changes there."""
    async with asyncio.timeout(10):
        while not condition(view := await replica.store.look()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return view


Maker = Callable[..., Awaitable[Replica]]


def flush(server: Server) -> None:
    """Empty the server."""
    import redis

    with redis.Redis(port=server.port) as client:
        client.flushall()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.slow)])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Maker]:
    """Makes replicas that share one engine, of memory or over a real server."""
    made: list[Replica] = []
    if request.param == "redis":
        server = request.getfixturevalue("shared_server")
        flush(server)
    hub = MemoryHub()

    async def new(**options: Any) -> Replica:
        if request.param == "memory":
            engine: Any = MemoryEngine(hub, **options)
        else:
            from rtcbridge.drivers.engine.redis_engine import RedisEngine

            engine = RedisEngine(parse_engine_url(server.url), **{"lease": 0.3, **options})
        made.append(replica := Replica(engine))
        return await replica.start()

    if request.param == "redis":
        # The first to join an empty engine waits for one lease, since others may hold something; not so here.
        first = await new()
        await first.engine.pipe.call("HDEL", f"{first.store.prefix}meta", "recover")
        await first.engine.close()
    yield new
    for replica in made:
        await replica.engine.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one loud line that there is no server."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    if count := Counter(reason for reason in skipped if MISSING in reason).total():
        terminalreporter.write_line(f"{MISSING}: {count} of them", red=True, bold=True)
