"""The opening handshake of a WebSocket (RFC 6455, section 4.2): the request, its check, the response."""

from __future__ import annotations

import base64
import binascii
import hashlib
import http
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.datastructures import Headers

from .proxies import Origin

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_ACCEPTED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_PLAIN: Final = re.compile(
    rb"GET (/[A-Za-z0-9/_-]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^`|~\w-]+: [!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
_PLAIN_CONNECTION: Final = frozenset({b"upgrade", b"keep-alive, upgrade"})
_PLAIN_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes in base64

UPGRADE_REQUIRED: Final = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
"""Headers of a 426 response."""

WEBSOCKET_ONLY: Final = "This address speaks WebSocket only."
"""Text of a 426 response."""


@dataclass(slots=True)
class Request:
    """A request for one of the WebSocket routes.

    Attributes:
        method: As sent, e.g. "GET".
        version: HTTP version, e.g. "1.1".
        path: Percent-decoded, without the query.
        query: As sent, without the question mark.
        raw: The headers as pairs, the names in lower case.
        whence: Finds out where it came from: to be asked only by those who want to know, for it takes time.
        subprotocols: What the client offers, in its order of preference.
        subprotocol: To be set by the route to one of them, or left None.
    """

    method: str
    version: str
    path: str
    query: str
    raw: list[tuple[bytes, bytes]]
    whence: Callable[[], Origin]
    subprotocols: tuple[str, ...] = ()
    subprotocol: str | None = None

    @property
    def headers(self) -> Headers:
        """Names in any case; `getlist` gives repeated ones."""
        return Headers(raw=self.raw)

    @property
    def client(self) -> tuple[str, int]:
        """Address and port of the client; behind a trusted proxy, as that proxy tells them."""
        return self.whence().client

    @property
    def scheme(self) -> str:
        """ "http" or "https"."""
        return self.whence().scheme

    @property
    def proxied(self) -> bool:
        """Whether a proxy seems to stand between, trusted or not."""
        return self.whence().proxied

    @property
    def origin(self) -> str | None:
        """The `Origin` that a browser sends."""
        return self.headers.get("origin")


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is answered with an HTTP status. A route may raise it, too.

    Attributes:
        status: HTTP status code.
        text: One line for people, the body of the response.
        headers: Headers beside those of the body and of the connection.
    """

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers

    def response(self, *, head_only: bool = False) -> bytes:
        """The response, after which the connection closes; without its body for a HEAD request."""
        body = f"{self.text}\n".encode()
        connection = "Upgrade, close" if self.status == 426 else "close"  # RFC 9110, section 7.8
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            *(f"{name}: {value}" for name, value in self.headers),
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"Connection: {connection}",
            "\r\n",
        ]
        return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else body)


def check_upgrade(request: Request) -> bytes:
    """Check an opening handshake and return its key; fill in `request.subprotocols`.

    Raises:
        Refused: 426 where it asks for no WebSocket, or for another version of it; 405 where the method is not
            GET; 400 where it breaks the RFC.
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in request.raw:
        fields.setdefault(name, []).append(value.strip())
    if b"upgrade" not in _tokens(fields, b"connection") or b"websocket" not in _tokens(fields, b"upgrade"):
        raise Refused(426, WEBSOCKET_ONLY, UPGRADE_REQUIRED)
    if request.version != "1.1":
        raise Refused(400, "A WebSocket needs HTTP/1.1.")
    if request.method != "GET":
        raise Refused(405, "A WebSocket opens with GET.", (("Allow", "GET"),))
    if b"transfer-encoding" in fields or fields.get(b"content-length", [b"0"]) != [b"0"]:
        raise Refused(400, "A WebSocket opens without a body.")
    if len(fields.get(b"host", ())) != 1:
        raise Refused(400, "Exactly one Host header is needed.")
    if fields.get(b"sec-websocket-version") != [b"13"]:
        raise Refused(426, "Sec-WebSocket-Version must be 13.", UPGRADE_REQUIRED)
    keys = fields.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refused(400, "Sec-WebSocket-Key must be 16 bytes in base64, once.")
    if b"sec-websocket-protocol" in fields:
        request.subprotocols = _names(b",".join(fields[b"sec-websocket-protocol"]))
    return keys[0]


class PlainUpgrade(NamedTuple):
    """An opening handshake in the form that nearly all clients write."""

    path: str
    headers: list[tuple[bytes, bytes]]
    key: bytes
    subprotocols: tuple[str, ...]
    size: int  # bytes of the head


def plain_upgrade(data: bytes, max_head: int) -> PlainUpgrade | None:
    """Read a handshake that is here as a whole, with each header once and nothing out of the ordinary.

    It takes a third of the time of the parser and the checks. None for everything else and for what is wrong: the
    parser and `check_upgrade` see to that. `max_head`: bytes.
    """
    if (match := _PLAIN.match(data, 0, max_head)) is None:
        return None
    path, block = match.groups()
    lines = [line.partition(b": ") for line in block[:-2].split(b"\r\n")]
    headers = [(name.lower(), value) for name, _, value in lines]
    fields = dict(headers)
    key = fields.get(b"sec-websocket-key", b"")
    if (
        len(fields) != len(headers)
        or fields.get(b"connection", b"").lower() not in _PLAIN_CONNECTION
        or fields.get(b"upgrade", b"").lower() != b"websocket"
        or fields.get(b"sec-websocket-version") != b"13"
        or _PLAIN_KEY.fullmatch(key) is None
        or b"host" not in fields
        or b"content-length" in fields
        or b"transfer-encoding" in fields
    ):
        return None
    offered = fields.get(b"sec-websocket-protocol")
    return PlainUpgrade(path.decode(), headers, key, _names(offered) if offered else (), match.end())


def accept_response(key: bytes, subprotocol: str | None) -> bytes:
    """The response 101 to a handshake with `key`."""
    digest = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() if subprotocol else b""
    return b"%b%b\r\n%b\r\n" % (_ACCEPTED, digest, chosen)


def _names(offered: bytes) -> tuple[str, ...]:
    return tuple(stripped for name in offered.decode("latin-1").split(",") if (stripped := name.strip()))


def _tokens(fields: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    return [token.strip() for token in b",".join(fields.get(name, ())).lower().split(b",")]


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False
