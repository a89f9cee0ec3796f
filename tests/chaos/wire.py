"""A WebSocket that costs its user little: text frames of any length, an unmasked payload under a mask of zeros."""

import asyncio
import contextlib
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

PATIENCE = 5.0  # seconds for a connection and its handshake
_HEAD = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_LOST = 1006  # RFC 6455, section 7.4.1: there was no Close frame

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Any]).decode


class Ended(NamedTuple):
    """The end of a socket, with the code of the Close frame that came."""

    code: int


def _frame(opcode: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size, 0, 0, 0, 0)) + data
    return bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big") + b"\0\0\0\0" + data


class Wire(asyncio.Protocol):
    """One connection. Messages are taken in order with `next`, and after the last one comes `Ended`."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._transport: asyncio.Transport
        self._data = b""
        self._inbox: deque[dict[str, Any] | Ended] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = False

    @classmethod
    async def dial(cls, url: str) -> "Wire":
        """Connect. Raises OSError, of which TimeoutError is one."""
        wire = cls(url)
        loop, host, port = asyncio.get_running_loop(), wire._url.hostname, wire._url.port
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.create_connection(lambda: wire, host, port)
                await wire._opened
        except BaseException:
            wire.drop()
            raise
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.write(_HEAD.format(path=self._url.path, host=self._url.netloc).encode())

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        if not self._opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._data = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._opened.set_exception(ConnectionRefusedError(head[:40].decode()))
                self._transport.abort()
                return
            self.open = True
            self._opened.set_result(None)
        self._data = data[self._frames(data) :]
        if self._waiter is not None and not self._waiter.done() and self._inbox:
            self._waiter.set_result(None)

    def _frames(self, data: bytes) -> int:
        """Take whole frames; return where the next begins."""
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                if size < at + 4:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                if size < at + 10:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + length > size:
                break
            self._take(data[at] & 0x0F, data[start : start + length])
            at = start + length
        return at

    def _take(self, opcode: int, data: bytes) -> None:
        if opcode == _TEXT:
            self._inbox.append(decode(data))
        elif opcode == _PING:
            self._transport.write(_frame(_PONG, data))
        elif opcode == _CLOSE:
            self._over(int.from_bytes(data[:2], "big") if data else 1005)
            self._transport.write(_frame(_CLOSE, data[:2]))
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionResetError("closed in its handshake"))
            self._opened.exception()
        self._over(_LOST)

    def _over(self, code: int) -> None:
        if not self._inbox or not isinstance(self._inbox[-1], Ended):
            self._inbox.append(Ended(code))
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def send(self, **message: Any) -> None:
        """Send one message; nothing happens on a socket that has ended."""
        if self.open:
            self._transport.write(_frame(_TEXT, encode(message)))

    async def next(self, patience: float | None = None) -> dict[str, Any] | Ended:
        """The next message. Raises TimeoutError if `patience` seconds pass without one."""
        if not self._inbox:
            self._waiter = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(patience):
                await self._waiter
        found = self._inbox[0]
        if not isinstance(found, Ended):
            self._inbox.popleft()
        return found

    def close(self, code: int = 1000) -> None:
        """Say goodbye with a Close frame."""
        if self.open:
            self.open = False
            self._transport.write(_frame(_CLOSE, code.to_bytes(2, "big")))
            self._transport.close()

    def drop(self) -> None:
        """Be gone without one."""
        self.open = False
        with contextlib.suppress(AttributeError):
            self._transport.abort()
