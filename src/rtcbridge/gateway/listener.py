"""One port for everything: WebSocket routes get our sockets, all other requests an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final
from urllib.parse import unquote

import httptools
from starlette.datastructures import Headers
from starlette.types import ASGIApp

from .drain import Drain
from .handshake import PlainUpgrade, Refused, Request, accept_response, check_upgrade, plain_upgrade
from .http_adapter import DRAIN_TIMEOUT, MAX_HEAD, HttpConnection, HttpService
from .proxies import Origin, TrustedProxies
from .websocket import SocketGroup, WebSocket

__all__ = ["Listener", "Refused", "Request", "Route", "tls_context"]

log = logging.getLogger(__name__)

Route = Callable[[Request], WebSocket]
"""Makes the socket for a request whose handshake is in order; may set its `subprotocol`, or raise Refused."""

_BACKLOG: Final = 4096


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's TLS context from two PEM files.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: They hold no certificate chain and its key (an OSError as well).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key)
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # Without a password OpenSSL would ask for one on the terminal.
    context.load_cert_chain(certificate, key, password=lambda: "")


class Listener:
    """Accepts connections on one port. To be made in a running event loop.

    Args:
        routes: Sockets by path.
        app: ASGI application for all other paths.
        group: The sockets of the event loop; a new one if left out. Used by one listener only.
        trusted_proxies: Addresses and CIDR networks whose `Forwarded` and `X-Forwarded-…` are believed.
        handshake_timeout: Seconds until the head of a request that has begun, or the TLS handshake, is done.
        max_connections: Open connections of any kind; one more is answered 503.
        keep_alive: Seconds that an HTTP connection may stay open between requests.
        request_timeout: Seconds in which an HTTP request must arrive whole, and its response make progress.

    Raises:
        ValueError: `trusted_proxies` holds something else; the text names it.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        app: ASGIApp,
        *,
        group: SocketGroup | None = None,
        trusted_proxies: Iterable[str] = (),
        handshake_timeout: float = 10.0,
        max_connections: int = 65536,
        keep_alive: int = 15,
        request_timeout: float = 30.0,
    ) -> None:
        self.routes = dict(routes)
        self.group = SocketGroup(asyncio.get_running_loop()) if group is None else group
        self.proxies = TrustedProxies(trusted_proxies)
        self.handshake_timeout = handshake_timeout
        self.max_connections = max_connections
        self.http = HttpService(
            app,
            self.group,
            self.proxies,
            routes=self.routes,
            next_request=self._next_request,
            keep_alive=keep_alive,
            request_timeout=request_timeout,
        )
        self.closing = False
        self.waiting = self.group.wheel.lane(handshake_timeout, _Accept.overdue)
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Port 0 takes a free one, see `port`.

        Raises:
            OSError: The address cannot be had.
        """
        self._tls = tls
        self._server = await self.group.loop.create_server(
            lambda: _Accept(self),
            host,
            port,
            backlog=_BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=self.handshake_timeout if tls else None,
            ssl_shutdown_timeout=DRAIN_TIMEOUT if tls else None,
        )

    def _next_request(self, transport: asyncio.Transport, data: bytes) -> None:
        accept = _Accept(self)
        transport.set_protocol(accept)
        accept.connection_made(transport)
        accept.data_received(data)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None, "start() first"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def reload_tls(self, certificate: str, key: str) -> None:
        """Use another certificate for the connections that come from now on.

        Raises:
            OSError: The pair is not usable (`ssl.SSLError` among these); the old one stays in use.
        """
        assert self._tls is not None, "not started with TLS"
        tls_context(certificate, key)  # a context that fails to load is left with half of the new pair
        _load(self._tls, certificate, key)

    def stop_accepting(self) -> None:
        """Take no new connections; those that are there go on."""
        if self._server is not None:
            self._server.close()

    async def close(self, code: int = 1012, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - it cuts, it does not raise
        """Stop listening, close all sockets with `code`, and wait for the peers to close, or for `timeout`.

        HTTP requests that are being answered are finished. What is left at the end is cut off.
        """
        self.closing = True
        self.stop_accepting()
        for connection in list(self.group.connections):
            if isinstance(connection, WebSocket):
                connection.close(code)
            elif isinstance(connection, HttpConnection):
                connection.shutdown()
            elif isinstance(connection, _Accept):
                connection.abort()
        try:
            await asyncio.wait_for(self.group.wait_empty(), timeout)
        except TimeoutError:
            for connection in list(self.group.connections):
                if isinstance(connection, (WebSocket, HttpConnection, Drain, _Accept)):
                    connection.abort()
            await self.group.wait_empty()


def _whence(proxies: TrustedProxies, transport: asyncio.Transport, headers: list[tuple[bytes, bytes]]) -> Origin:
    peer = transport.get_extra_info("peername") or ("", 0)
    scheme = "https" if transport.get_extra_info("sslcontext") else "http"
    return proxies.origin((peer[0], peer[1]), scheme, Headers(raw=headers))


class _Accept(asyncio.Protocol):
    """Reads the head of a request that finds its connection idle, and hands the connection on."""

    __slots__ = ("_head", "_headers", "_listener", "_open", "_parser", "_transport", "_url", "complete")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._head = bytearray()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._open = False
        self._parser: httptools.HttpRequestParser | None = None
        self.complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is TCP or TLS
        self._transport = transport
        listener = self._listener
        group = listener.group
        if listener.closing:  # its TLS handshake was under way
            transport.abort()
            return
        if len(group.connections) >= listener.max_connections:
            transport.write(Refused(503, "Too many connections.").response())
            transport.close()
            return
        group.connections.add(self)
        self._open = True
        listener.waiting.add(self)

    def overdue(self) -> None:
        self._refuse(Refused(408, "The request took too long."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()

    def abort(self) -> None:
        self._transport.abort()

    def on_url(self, url: bytes) -> None:
        if not self.complete:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True

    def data_received(self, data: bytes) -> None:
        if not self._open:  # refused above
            return
        parser = self._parser
        if parser is None:
            plain = plain_upgrade(data, MAX_HEAD)
            if plain is not None and (route := self._listener.routes.get(plain.path)) is not None:
                self._take_plain(route, plain, data)
                return
            parser = self._parser = httptools.HttpRequestParser(self)
        rest = b""
        self._head += data
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError:
            if not self.complete:
                self._refuse(Refused(400, "Not an HTTP request."))
                return
        if len(self._head) > MAX_HEAD and not self.complete:
            self._refuse(Refused(431, "The head of the request is too long."))
        elif self.complete:
            self._dispatch(parser, rest)

    def _take_plain(self, route: Route, plain: PlainUpgrade, data: bytes) -> None:
        request = Request("GET", "1.1", plain.path, "", plain.headers, self._whence(plain.headers), plain.subprotocols)
        try:
            self._to_websocket(route, request, plain.key, data[plain.size :])
        except Refused as refusal:
            self._refuse(refusal)

    def _dispatch(self, parser: httptools.HttpRequestParser, rest: bytes) -> None:
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            self._refuse(Refused(400, "Not an address."))
            return
        path = unquote((url.path or b"/").decode("latin-1"))
        route = self._listener.routes.get(path)
        if route is None:
            self._to_http()
            return
        try:
            request = self._request(parser, path, url.query or b"")
            self._to_websocket(route, request, check_upgrade(request), rest)
        except Refused as refusal:
            self._refuse(refusal)

    def _request(self, parser: httptools.HttpRequestParser, path: str, query: bytes) -> Request:
        return Request(
            method=parser.get_method().decode("latin-1"),
            version=parser.get_http_version(),
            path=path,
            query=query.decode("latin-1"),
            raw=self._headers,
            whence=self._whence(self._headers),
        )

    def _whence(self, headers: list[tuple[bytes, bytes]]) -> Callable[[], Origin]:
        return partial(_whence, self._listener.proxies, self._transport, headers)

    def _to_websocket(self, route: Route, request: Request, key: bytes, rest: bytes) -> None:
        try:
            socket = route(request)
            chosen = request.subprotocol
            if chosen is not None and chosen not in request.subprotocols:
                raise ValueError(f"subprotocol {chosen!r} was not offered")
        except Refused:
            raise
        except Exception:
            log.exception("the route of %s failed", request.path)
            raise Refused(500, "Internal error.") from None
        transport, group = self._transport, self._listener.group
        self._release()
        socket.start(group, transport, accept_response(key, chosen))
        if rest:
            transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]  # it may have closed itself

    def _to_http(self) -> None:
        http = self._listener.http.connection()
        transport, head = self._transport, bytes(self._head)
        self._release()
        http.connection_made(transport)
        transport.set_protocol(http)
        http.data_received(head)

    def _refuse(self, refusal: Refused) -> None:
        head_only = self._parser is not None and self._parser.get_method() == b"HEAD"
        self._transport.write(refusal.response(head_only=head_only))
        transport, group = self._transport, self._listener.group
        self._release()
        group.connections.add(Drain(transport, group.wheel, DRAIN_TIMEOUT, group.forget))

    def _release(self) -> None:
        """Have nothing more to do with the connection."""
        self._open = False
        self._parser = None  # it refers back to this object
        self._listener.group.forget(self)
        self._listener.waiting.discard(self)
