"""A bridge in the test's own event loop: on a real port and a real store, with short times."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rtcbridge.config import Config, Nodes, Pool, Store
from rtcbridge.config import Server as ServerConfig
from rtcbridge.drivers.ice import make_ice_servers
from rtcbridge.drivers.ledger import KeyStore, SessionLedger, open_store
from rtcbridge.drivers.providers import make_provider
from rtcbridge.gateway.server import Server
from rtcbridge.ports import IceServers, Provider
from rtcbridge.testing import FakeClient, FakeNode

STATIC = Pool(provider="static", lost_timeout=30.0)
BEAT = 0.1  # seconds


@dataclass
class Running:
    """A bridge that runs, with a key for clients, one for nodes of the pool `default`, and one for operators."""

    server: Server
    keys: KeyStore
    client_key: str
    node_key: str
    admin_key: str

    @property
    def port(self) -> int:
        return self.server.listener.port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def admin(self, key: str | None = None) -> httpx.AsyncClient:
        """A client of the admin API."""
        headers = {"authorization": f"Bearer {self.admin_key if key is None else key}"}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}/v1/admin",
            headers=headers,
            trust_env=False,
            verify=False,  # loads no certificates
            timeout=15.0,
        )

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
    turn: IceServers | None = None,
    **sections: Any,
) -> AsyncIterator[Running]:
    """Run a bridge with a static pool, unless `sections` of the configuration say otherwise.

    `providers`: those of its pools, in place of what the configuration names; `turn`: the same of `[ice]`.
    """
    sections = {"pools": (STATIC,), "nodes": Nodes(heartbeat=BEAT, missed=5)} | sections
    sections.setdefault("server", ServerConfig(host=host, port=0))
    store = folder / "bridge.db"
    config = Config(store=Store(url=f"sqlite:///{store}"), **sections)
    with open_store(f"sqlite:///{store}") as database:
        keys, ledger = KeyStore(database), SessionLedger(database)
        client_key, node_key = keys.create_client_key("TEST01"), keys.create_node_key("default")
        admin_key = keys.create_admin_key()
        made = providers or {pool.name: make_provider(pool) for pool in config.pools}
        server = Server(config, keys, ledger, made, demo, ice=turn or make_ice_servers(config.ice))
        await server.start()
        try:
            yield Running(server, keys, client_key, node_key, admin_key)
        finally:
            await server.stop()
            await ledger.close()
            keys.close()
