"""ICE restart (RFC 8445, section 9) for aiortc, which has none.

aiortc keeps one `aioice.Connection` for the life of a transport. Here a stand-in takes its place and can go
over to a new one: make before break, so that media flows on the old path until the new one is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import structlog
from aioice import Connection
from aioice.ice import ConnectionClosed, ConnectionEvent

log = structlog.get_logger()

_TIMEOUT = 30.0  # seconds that a restart may take


def make_restartable(transport: Any, options: Mapping[str, Any]) -> RestartableConnection | None:
    """Put the stand-in into an RTCIceTransport that has not started, or return the one that is there.

    Returns None where this version of aiortc keeps its connection elsewhere.
    """
    present = getattr(transport, "_connection", None)
    if isinstance(present, RestartableConnection):
        return present
    if not isinstance(present, Connection) or not hasattr(transport, "_recv") or not hasattr(transport, "_send"):
        log.warning("ice_restart_not_available", reason="this version of aiortc is not known")
        return None
    connection = RestartableConnection(present, options, transport.iceGatherer)
    transport._connection = transport.iceGatherer._connection = connection
    transport._recv, transport._send = connection.recv, connection.send
    return connection


class RestartableConnection:
    """Stands for an `aioice.Connection`: what it does not do itself the newest one does.

    Args:
        connection: the first one.
        options: what to make others with (STUN and TURN servers).
        gatherer: the RTCIceGatherer, which refuses candidates behind the end of them.
    """

    _active: Connection
    _next: Connection | None
    _restart: asyncio.Task[None] | None
    _closed: bool
    _gatherer: Any
    _options: Mapping[str, Any]

    def __init__(self, connection: Connection, options: Mapping[str, Any], gatherer: Any) -> None:
        own: dict[str, Any] = {"_active": connection, "_next": None, "_restart": None, "_closed": False}
        self.__dict__.update(own, _options=options, _gatherer=gatherer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._next or self._active, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        else:
            setattr(self._next or self._active, name, value)

    async def prepare(self) -> None:
        """Begin a restart: gather under new credentials, which the next description will carry."""
        await self.cancel()
        self._next = connection = Connection(ice_controlling=self._active.ice_controlling, **self._options)
        self._gatherer._remote_candidates_end = False
        await connection.gather_candidates()

    async def cancel(self) -> None:
        """Give up a restart that is not through."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
            self._restart = None
        pending, self._next = self._next, None
        if pending is not None:
            await pending.close()

    def go_over(self, username: str, password: str) -> None:
        """Check the new path with the client's new credentials, and use it when it is there."""
        connection = self._next
        if connection is None:
            return
        connection.remote_username = username
        connection.remote_password = password
        self._restart = asyncio.create_task(self._go_over(connection), name="ice-restart")

    async def _go_over(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await connection.connect()
        except (ConnectionError, TimeoutError) as error:
            log.warning("ice_restart_failed", error=str(error) or type(error).__name__)
            self._next = None
            await connection.close()
            return
        old, self._active = self._active, connection
        self._next = None
        await old.close()

    async def _replaced(self, connection: Connection) -> bool:
        """Whether the connection that has just failed has a successor; waits for a restart under way."""
        if self._restart is not None:
            await asyncio.wait([self._restart])
        return self._active is not connection and not self._closed

    async def connect(self) -> None:
        """See aioice."""
        await self._active.connect()

    async def recv(self) -> bytes:
        """See aioice; goes on with the next connection when the present one is given up."""
        while True:
            connection = self._active
            try:
                return await connection.recv()
            except ConnectionError:
                if not await self._replaced(connection):
                    raise

    async def send(self, data: bytes) -> None:
        """See aioice; what is sent while there is no path is lost, as on any network."""
        try:
            await self._active.send(data)
        except ConnectionError:
            if self._closed or self._restart is None or self._restart.done():
                raise

    async def get_event(self) -> ConnectionEvent | None:
        """See aioice; a connection that has a successor has not closed."""
        while True:
            connection = self._active
            event = await connection.get_event()
            if not isinstance(event, ConnectionClosed) or not await self._replaced(connection):
                return event

    async def close(self) -> None:
        """See aioice."""
        self._closed = True
        await self.cancel()
        with contextlib.suppress(ConnectionError):
            await self._active.close()
