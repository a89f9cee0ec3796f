"""Everything that is not a WebSocket: uvicorn's HTTP protocol on a connection that our listener accepted.

uvicorn bounds neither the head of a request, nor the time it takes, nor how many requests are queued up on
one connection; this adapter does. It relies on names of uvicorn that are not its public interface, which is
why a test drives all of them over real sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from email.utils import formatdate
from typing import Final

import httptools
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from .drain import Drain
from .handshake import UPGRADE_REQUIRED, WEBSOCKET_ONLY, Refused
from .proxies import TrustedProxies
from .timers import Timer
from .websocket import SocketGroup

MAX_HEAD: Final = 16 * 1024
"""Bytes in the head of a request; above it 431."""

MAX_QUEUED: Final = 16
"""Requests that may be queued up behind one that is being answered."""


DRAIN_TIMEOUT: Final = 2.0
"""Seconds that a client has to close its side after an error that ends the connection."""

_HEAD_TOO_LONG: Final = Refused(431, "The head of the request is too long.")
_BODY_TOO_LONG: Final = Refused(413, "The body of the request is too long.")


class HttpService:
    """What all HTTP connections of a listener share.

    Args:
        app: The ASGI application. It gets no lifespan events. `scope["client"]` and `scope["scheme"]` are the
            client's own behind a trusted proxy; `scope["state"]["proxied"]` says whether there is a proxy.
        group: The sockets of the event loop.
        proxies: Whose word about the client is believed.
        routes: Paths that speak WebSocket: a request that comes to the application for one of them gets 426.
        next_request: Called with a connection that was idle and its new input. A proxy that keeps connections
            may use any of them for a WebSocket, so each request has to be looked at.
        keep_alive: Seconds that a connection may stay open between requests.
        request_timeout: Seconds in which a request must arrive whole, and its response make progress.
    """

    def __init__(
        self,
        app: ASGIApp,
        group: SocketGroup,
        proxies: TrustedProxies,
        *,
        routes: Container[str],
        next_request: Callable[[asyncio.Transport, bytes], None],
        keep_alive: int = 15,
        request_timeout: float = 30.0,
    ) -> None:
        self.group = group
        self.proxies = proxies
        self.next_request = next_request
        self.request_timeout = request_timeout
        self.config = Config(
            _without_routes(app, routes),
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=keep_alive,
        )
        self.config.load()
        self.state = ServerState()
        self._dated = 0

    def connection(self) -> HttpConnection:
        """A protocol for one connection."""
        return HttpConnection(self)

    def stamp(self) -> None:
        """Bring the Date header of the responses up to date (RFC 9110, section 6.6.1)."""
        now = int(time.time())
        if now != self._dated:
            self._dated = now
            self.state.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    def __init__(self, service: HttpService) -> None:
        super().__init__(service.config, service.state, {}, service.group.loop)
        self._service = service
        self._head = 0  # bytes of an unfinished head
        self._in_head = True
        self._receiving = False  # a request has begun and is not there whole
        self._refused = False
        self._timer: Timer | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin."""
        super().connection_made(transport)
        self._service.group.connections.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone."""
        self._service.group.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take input. A head that goes on beyond MAX_HEAD ends the connection with 431."""
        if self._idle:
            self.connection_lost(ConnectionAbortedError("handed on"))
            self._service.next_request(self.transport, data)
            return
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MAX_HEAD:
            self._refuse(_HEAD_TOO_LONG)

    @property
    def _idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and not (self._receiving or self.pipeline)

    def on_message_begin(self) -> None:
        """Callback of the parser: a request begins."""
        self._receiving = True
        self._watch()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Callback of the parser: the head is there."""
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._refuse(_HEAD_TOO_LONG)
        elif len(self.pipeline) >= MAX_QUEUED:
            self._refuse(Refused(429, "Too many requests at once on one connection."))
        if self._refused:
            raise httptools.HttpParserError("refused")  # stops the parser
        peer = self.client or ("", 0)
        origin = self._service.proxies.origin(peer, self.scheme or "http", Headers(raw=self.headers))
        self.scope["client"] = origin.client
        self.scope["scheme"] = "https" if origin.scheme == "https" else "http"
        self.scope["state"] = {"proxied": origin.proxied}
        self._service.stamp()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Callback of the parser: the request is there, whole."""
        self._receiving = False
        self._in_head = True
        self._head = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(Refused(400, msg))

    def _unsupported_upgrade_warning(self) -> None:
        """Upgrades beside the WebSocket routes are ignored, as RFC 9110 allows; no reason to log each."""

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    def _refuse(self, refusal: Refused) -> None:
        """Answer and close; only close if a response is under way, since its end could not be told."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        self.transport.write(refusal.response())
        group = self._service.group
        group.connections.add(Drain(self.transport, group.wheel, DRAIN_TIMEOUT, group.forget))
        self.connection_lost(ConnectionAbortedError("refused"))

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wheel = self._service.group.wheel
        self._timer = wheel.call_later(self._service.request_timeout, self._check_progress)

    def _check_progress(self) -> None:
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._receiving:
            self._refuse(Refused(408, "The request took too long."))
        elif self._unsent and self._unsent == before:  # the client does not read
            self.transport.abort()
        elif self._unsent or answering or self.timeout_keep_alive_task is not None:
            self._watch()
        else:  # the client has sent blank lines, and nothing else
            self.transport.abort()


def _without_routes(app: ASGIApp, routes: Container[str]) -> ASGIApp:
    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in routes:
            await _respond(send, Refused(426, WEBSOCKET_ONLY, UPGRADE_REQUIRED))
        else:
            await app(scope, receive, send)

    return guarded


class LimitBody:
    """ASGI middleware: answers 413 to a request whose body is over `max_body` bytes."""

    def __init__(self, app: ASGIApp, max_body: int = 1024 * 1024) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > self.max_body:
            await _respond(send, _BODY_TOO_LONG)
            return
        taken = 0
        started = refused = False

        async def counted_receive() -> Message:
            nonlocal taken, refused
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_body:
                if not started:
                    refused = True
                    await _respond(send, _BODY_TOO_LONG)
                raise _TooLargeError
            return message

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            if not refused:  # after the refusal an application may try to report the exception it got
                await send(message)

        try:
            await self.app(scope, counted_receive, noted_send)
        except _TooLargeError:
            if not refused:
                raise


class _TooLargeError(Exception):
    pass


async def _respond(send: Send, refusal: Refused) -> None:
    body = f"{refusal.text}\n".encode()
    headers = [
        *((name.encode(), value.encode()) for name, value in refusal.headers),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
