"""Two bridges in the test's own event loop that share their pools: one engine in memory, one store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.bridges import BEAT, STATIC
from rtcbridge.config import Config, Nodes, Store
from rtcbridge.config import Server as ServerConfig
from rtcbridge.drivers.engine import MemoryEngine, MemoryHub
from rtcbridge.drivers.ice import make_ice_servers
from rtcbridge.drivers.ledger import KeyStore, SessionLedger, open_store
from rtcbridge.drivers.providers import make_provider
from rtcbridge.gateway.server import Server
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.testing import FakeClient, FakeNode, Message
from rtcbridge.testing.extended import ExtendedClient


def candidate(text: str) -> Message:
    """A candidate of either side."""
    return {"sdpMid": "0", "sdpMLineIndex": 0, "candidate": text}


async def until(condition: Callable[[], object]) -> None:
    """Wait for something inside the bridges of which nobody is told."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(BEAT / 10)


@dataclass
class Replica:
    """One of the bridges."""

    server: Server
    engine: MemoryEngine
    client_key: str
    node_key: str

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.listener.port}"

    @property
    def bridge(self) -> SharedBridge:
        assert isinstance(self.server.bridge, SharedBridge)
        return self.server.bridge

    def extended(self, key: str = "") -> ExtendedClient:
        """A client of the extension that dials this one."""
        return ExtendedClient(self.url, key or self.client_key)

    def client(self) -> FakeClient:
        return FakeClient(self.url, self.client_key)

    def node(self, **options: Any) -> FakeNode:
        return FakeNode(self.url, self.node_key, **options)

    async def stop(self) -> None:
        """As on SIGTERM."""
        await self.server.stop()

    def kill(self) -> None:
        """As with `kill -9`: others see and hear no more of it, and all its sockets are cut."""
        self.engine.hub.engines.pop(self.engine.replica)
        self.engine.bus.send = lambda *_, **__: True  # type: ignore[method-assign]
        for pool in self.bridge.shared_pools():
            pool.calls.add = lambda *_: None  # type: ignore[method-assign]
        for link in self.bridge.links.values():
            if link.socket is not None:
                link.socket.abort()
        for visit in list(self.server.visits):
            if visit.socket is not None:
                visit.socket.abort()
            self.server.visits.drop(visit)


@dataclass
class Replicas:
    """Those that run, with the keys of all."""

    all: Sequence[Replica]
    keys: KeyStore
    hub: MemoryHub

    def bury(self, replica: Replica) -> None:
        """The lease of one that was killed has run out."""
        for pool in self.hub.pools():
            pool.bury(replica.engine.replica, replica.engine.grace)


@asynccontextmanager
async def replicas(folder: Path, count: int = 2, **sections: Any) -> AsyncIterator[Replicas]:
    """Run bridges over one store and one engine, with a static pool unless `sections` of the configuration differ."""
    sections = dict[str, Any](pools=(STATIC,), nodes=Nodes(heartbeat=BEAT, missed=30)) | sections
    sections.setdefault("server", ServerConfig(port=0, shutdown_timeout=5.0))
    url, hub = f"sqlite:///{folder / 'bridge.db'}", MemoryHub()
    config = Config(store=Store(url=url), **sections)
    with open_store(url) as database:
        keys, ledger = KeyStore(database), SessionLedger(database)
        client_key, node_key = keys.create_client_key("TEST01"), keys.create_node_key("default")
        running = []
        try:
            for number in range(count):
                engine = MemoryEngine(hub, f"bridge-{number}")
                providers = {pool.name: make_provider(pool) for pool in config.pools}
                server = Server(config, keys, ledger, providers, engine=engine, ice=make_ice_servers(config.ice))
                await server.start()
                running.append(Replica(server, engine, client_key, node_key))
            yield Replicas(running, keys, hub)
        finally:
            for replica in running:
                await replica.server.stop()
            await ledger.close()
            keys.close()
