"""A bridge in the test's own event loop: on a real port and a real store, with short times."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtcbridge.config import Config, Nodes, Pool, Store
from rtcbridge.config import Server as ServerConfig
from rtcbridge.drivers.ledger import Database, SqliteKeys, SqliteLedger
from rtcbridge.drivers.providers import make_provider
from rtcbridge.gateway.server import Server
from rtcbridge.ports import Provider
from rtcbridge.testing import FakeClient, FakeNode

STATIC = Pool(provider="static", lost_timeout=30.0)
BEAT = 0.1  # seconds


@dataclass
class Running:
    """A bridge that runs, with a key for clients and one for nodes of the pool `default`."""

    server: Server
    keys: SqliteKeys
    client_key: str
    node_key: str

    @property
    def port(self) -> int:
        return self.server.listener.port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> FakeClient:
        return FakeClient(self.url, self.client_key, **options)

    def node(self, **options: Any) -> FakeNode:
        return FakeNode(self.url, self.node_key, **options)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    demo: str = "",
    host: str = "127.0.0.1",
    providers: Mapping[str, Provider] | None = None,
    **sections: Any,
) -> AsyncIterator[Running]:
    """Run a bridge with a static pool, unless `sections` of the configuration say otherwise.

    `providers`: those of its pools, in place of what the configuration names.
    """
    sections = {"pools": (STATIC,), "nodes": Nodes(heartbeat=BEAT, missed=5)} | sections
    sections.setdefault("server", ServerConfig(host=host, port=0))
    store = folder / "bridge.db"
    config = Config(store=Store(url=f"sqlite:///{store}"), **sections)
    with Database(store) as database:
        keys, ledger = SqliteKeys(database), SqliteLedger(database)
        client_key, node_key = keys.create_client_key("TEST01"), keys.create_node_key("default")
        made = providers or {pool.name: make_provider(pool) for pool in config.pools}
        server = Server(config, keys, ledger, made, demo)
        await server.start()
        try:
            yield Running(server, keys, client_key, node_key)
        finally:
            await server.stop()
            await ledger.close()
            keys.close()
