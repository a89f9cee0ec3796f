"""One running bridge: its listener, its sessions and pools, and the order in which they start and stop."""

import asyncio
from collections.abc import Mapping

import structlog

from rtcbridge.config import Config
from rtcbridge.core.errors import CloseCode
from rtcbridge.core.extension import SUBPROTOCOL
from rtcbridge.gateway.actions import Actions
from rtcbridge.gateway.admin import Admin
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.clients import ClientSocket
from rtcbridge.gateway.extended import ExtendedSocket
from rtcbridge.gateway.http import make_app
from rtcbridge.gateway.listener import Listener, Request, tls_context
from rtcbridge.gateway.metrics import Metrics
from rtcbridge.gateway.nodes import NodeSocket
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.desk import Desk
from rtcbridge.gateway.shared.figures import SharedFigures
from rtcbridge.gateway.shared.leaving import hand_over_nodes, send_away
from rtcbridge.gateway.shared.moves import Moves
from rtcbridge.gateway.shared.nodes import SharedNodeSocket
from rtcbridge.gateway.shared.reconciler import SharedReconciler
from rtcbridge.gateway.visits import Visits
from rtcbridge.gateway.websocket import Limits, SocketGroup, WebSocket
from rtcbridge.gateway.windows import Windows
from rtcbridge.ports import Authenticator, IceServers, Ledger, LedgerError, Provider
from rtcbridge.ports_engine import Engine

log = structlog.get_logger(__name__)

_USES = 60.0  # seconds between two times that it is written which keys were used
_NODE_MESSAGE = 4  # a node's REGISTER and heartbeats name all its sessions: so many times a client's largest message


class Server:
    """Make it in a running event loop, `start` it, and `stop` it.

    Args:
        config: The configuration.
        auth: Says whom a credential belongs to.
        ledger: Keeps nodes and sessions across restarts.
        providers: The provider of each pool, by the pool's name.
        demo_credential: A key that the page is given without being asked for one, over loopback only.
        engine: What several bridges share; None for one that is alone.
        ice: The STUN and TURN servers that clients and nodes are told; None for none.

    Attributes:
        actions: What people may do to nodes; there once it is started.
        visits: The clients of the extension.
        metrics: What Prometheus is told, if it is.
    """

    actions: Actions

    def __init__(
        self,
        config: Config,
        auth: Authenticator,
        ledger: Ledger,
        providers: Mapping[str, Provider],
        demo_credential: str = "",
        engine: Engine | None = None,
        ice: IceServers | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self._ledger = ledger
        self._providers = providers
        self._ready = False
        group = SocketGroup(loop)
        self._engine = engine
        self.bridge = (
            Bridge(config, auth, ledger, group.wheel, loop.time)
            if engine is None
            else SharedBridge(config, auth, ledger, group.wheel, loop.time, engine)
        )
        self.bridge.ice = ice
        self.visits = Visits(self.bridge)
        self._moves = Moves(self.bridge, self.visits) if isinstance(self.bridge, SharedBridge) else None
        self._admin = Admin(self.bridge)
        self._client_limits, self._node_limits = _limits(config)
        self.listener = Listener(
            {"/client": self._client, "/node": self._node},
            make_app(self.bridge, lambda: self._ready, demo_credential, self._admin.app()),
            group=group,
            trusted_proxies=config.server.trusted_proxies,
            handshake_timeout=config.server.handshake_timeout,
            max_connections=config.server.max_connections,
        )
        self._reconciler: Reconciler | None = None
        self._windows = Windows(self.bridge)
        more = [SharedFigures(self.bridge)] if isinstance(self.bridge, SharedBridge) else []
        self._uses: asyncio.Task[None] | None = None
        metrics = config.server.metrics
        self.metrics = Metrics(metrics, self.bridge, lambda: self._ready, *more) if metrics else None

    async def start(self) -> None:
        """Listen, take up what an earlier life left, and begin to work.

        Raises:
            OSError: An address is taken or not ours, or a TLS file is not usable.
            EngineError: What is shared cannot be reached.
        """
        server = self.config.server
        tls = tls_context(server.tls_cert, server.tls_key) if server.tls_cert else None
        if self.metrics is not None:
            await self.metrics.start()
        if self.bridge.ice is not None:
            await self.bridge.ice.start()
        self._admin.overrides.restore()
        self.bridge.restore()
        if isinstance(self.bridge, SharedBridge):
            await self.bridge.join()
        await self.listener.start(server.host, server.port, tls)
        url = self.config.node_url(self.listener.port)
        self._reconciler = (
            SharedReconciler(self.bridge, self._providers, url)
            if isinstance(self.bridge, SharedBridge)
            else Reconciler(self.bridge, self._providers, url)
        )
        self.actions = Actions(self.bridge, self._reconciler)
        self._admin.actions = self.actions
        if isinstance(self.bridge, SharedBridge):
            self._admin.desk = Desk(self.bridge, self.actions)
        self._windows.start()
        self._reconciler.start()
        if isinstance(self.bridge, SharedBridge):
            self.bridge.do(self._admin.overrides.follow())
            await self.bridge.leaders.all(list(self.bridge.pools))
        self._uses = asyncio.create_task(self._write_uses())
        self._ready = True
        metrics = {} if self.metrics is None else {"metrics": self.metrics.port}
        log.info("listening", host=server.host, port=self.listener.port, tls=tls is not None, **metrics)

    def reload_tls(self) -> None:
        """Read the certificate and key files again; a pair that is not usable is logged, and the old one stays."""
        server = self.config.server
        if not server.tls_cert:
            return
        try:
            self.listener.reload_tls(server.tls_cert, server.tls_key)
            log.info("certificate reloaded", file=server.tls_cert)
        except OSError as error:
            log.error("certificate not reloaded", file=server.tls_cert, error=str(error))

    async def stop(self) -> None:
        """Close all sockets with 1012 and stop. Nodes and live media go on.

        Before that, `server.drain_timeout` lets a load balancer see it coming, and `server.shutdown_timeout` lets
        sessions that are being set up come to their media, where there is another bridge that may have the others.
        """
        self._ready = False
        if isinstance(self.bridge, SharedBridge):
            await asyncio.sleep(self.config.server.drain_timeout)
            self.listener.stop_accepting()
            await send_away(self.bridge, self.config.server.shutdown_timeout)
            await hand_over_nodes(self.bridge)
        self._admin.actions = None
        self.bridge.close()
        self._windows.stop()
        if self._reconciler is not None:
            await self._reconciler.stop()
        self.visits.say_reconnect()
        await self.listener.close(CloseCode.RESTART, self.config.server.shutdown_timeout)
        if isinstance(self.bridge, SharedBridge):
            assert self._moves is not None
            await self._moves.leave(self.config.server.shutdown_timeout)
            await self.bridge.part()
        if self.metrics is not None:
            await self.metrics.stop()
        if self.bridge.ice is not None:
            await self.bridge.ice.close()
        if self._uses is not None:
            self._uses.cancel()
            await asyncio.gather(self._uses, return_exceptions=True)
            await self._write_uses_once()
        await self._ledger.flush()
        for provider in self._providers.values():
            await provider.close()
        log.info("stopped")

    async def _write_uses(self) -> None:
        """Write down now and then which keys were used."""
        while True:
            await asyncio.sleep(_USES)
            await self._write_uses_once()

    async def _write_uses_once(self) -> None:
        try:
            await asyncio.to_thread(self.bridge.auth.write_uses)
        except LedgerError as error:
            log.warning("when keys were last used is not written", error=str(error))

    def _client(self, request: Request) -> WebSocket:
        if request.subprotocols and SUBPROTOCOL in request.subprotocols:
            request.subprotocol = SUBPROTOCOL
            return ExtendedSocket(self.bridge, self._client_limits, self.visits, request.raw)
        return ClientSocket(self.bridge, self._client_limits, request.raw)

    def _node(self, request: Request) -> WebSocket:
        if isinstance(self.bridge, SharedBridge):
            return SharedNodeSocket(self.bridge, self._node_limits)
        assert self._reconciler is not None
        return NodeSocket(self.bridge, self._reconciler, self._node_limits)


def _limits(config: Config) -> tuple[Limits, Limits]:
    """The bounds of a client's socket, and of a node's."""
    server = config.server
    client = Limits(
        max_message=server.max_message,
        max_outbox=server.client_outbox,
        message_rate=server.message_rate,
        message_burst=server.message_burst,
        ping_interval=server.ping_interval,
        ping_timeout=server.ping_timeout,
    )
    node = Limits(
        max_message=_NODE_MESSAGE * server.max_message,
        max_outbox=server.node_outbox,
        ping_interval=server.ping_interval,
        ping_timeout=server.ping_timeout,
    )
    return client, node
