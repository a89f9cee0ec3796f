"""The whole configuration as one struct."""

import re

from msgspec import Struct

from rtcbridge.config.pool import Pool
from rtcbridge.config.shape import ProjectSettings
from rtcbridge.config.tables import Auth, Engine, Ice, Log, Nodes, Server, Sessions, Store
from rtcbridge.core.spec import PoolSpec, ProjectSpec

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a wildcard is dialled as


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration. Build it with `load()`; a bare `Config()` is the defaults."""

    server: Server = Server()
    auth: Auth = Auth()
    sessions: Sessions = Sessions()
    nodes: Nodes = Nodes()
    store: Store = Store()
    engine: Engine = Engine()
    ice: Ice = Ice()
    log: Log = Log()
    pools: tuple[Pool, ...] = (Pool(),)
    projects: tuple[ProjectSettings, ...] = ()

    def pool(self, name: str) -> Pool | None:
        """The pool of this name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def pool_for(self, project: str) -> str:
        """The name of the pool of a project's clients: its own, else the first that is nobody's, else the first."""
        own = [each.pool for each in self.projects if each.id == project and each.pool]
        own += [pool.name for pool in self.pools if project in pool.projects]
        shared = [pool.name for pool in self.pools if not pool.projects]
        return next(iter([*own, *shared, self.pools[0].name]))

    def pool_specs(self) -> tuple[PoolSpec, ...]:
        """The pools as the pure core wants them, in the order of the file."""
        return tuple(pool.spec() for pool in self.pools)

    def local_url(self, port: int) -> str:
        """Where this machine reaches the bridge by HTTP, without a path.

        Args:
            port: the port really bound.
        """
        host = _LOOPBACK.get(self.server.host, self.server.host)
        return f"{'https' if self.server.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def project_specs(self) -> tuple[ProjectSpec, ...]:
        """The projects that have a table of their own, as the pure core wants them."""
        return tuple(project.spec() for project in self.projects)

    def base_url(self, port: int | None = None) -> str:
        """Where nodes and clients reach the bridge, without a path: `ws://…` or `wss://…`.

        Args:
            port: the port really bound, when the configured one is 0.
        """
        server = self.server
        if server.public_url:
            return re.sub(r"^http", "ws", server.public_url).rstrip("/")
        host = _LOOPBACK.get(server.host, server.host)
        scheme = "wss" if server.tls_cert else "ws"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or server.port}"

    def node_url(self, port: int | None = None) -> str:
        """Where nodes dial in: `base_url()` and `/node`."""
        return f"{self.base_url(port)}/node"
