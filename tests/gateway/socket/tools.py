"""What the tests of the socket layer share: raw frames, a raw client, a recording socket, a loop without time."""

from __future__ import annotations

import asyncio
import base64
import heapq
import itertools
import socket
import ssl
from collections.abc import Callable
from typing import Any

from rtcbridge.gateway.listener import Listener
from rtcbridge.gateway.socket_group import End, Limits
from rtcbridge.gateway.websocket import WebSocket

TIMEOUT = 5.0
KEY = base64.b64encode(bytes(16)).decode()


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x20\x03\x40"
) -> bytes:
    """A client's frame; without a mask a wrong one."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    flag = 0 if mask is None else 0x80
    if size < 126:
        head = bytes((first, flag | size))
    elif size < 65536:
        head = bytes((first, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, flag | 127)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def text(message: str | bytes) -> bytes:
    return frame(1, message.encode() if isinstance(message, str) else message)


def close_frame(code: int = 1000, reason: bytes = b"") -> bytes:
    return frame(8, code.to_bytes(2, "big") + reason)


def parse_server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each of a server's frames, which must be whole, unmasked and unfragmented."""
    frames = []
    while data:
        assert data[0] & 0xF0 == 0x80
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= start + length
        frames.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return frames


def handshake(path: str = "/ws", extra: str = "", *, host: str = "test") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode()


class Recorder(WebSocket):
    """Keeps what it gets; echoes if told to."""

    __slots__ = ("echo", "ends", "got", "got_binary", "got_end", "got_message")

    def __init__(self, limits: Limits | None = None, *, echo: bool = False) -> None:
        super().__init__(limits or Limits())
        self.got: list[bytes] = []
        self.got_binary: list[bytes] = []
        self.ends: list[End] = []
        self.echo = echo
        self.got_end = asyncio.Event()
        self.got_message = asyncio.Event()

    def received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.got.append(data)
        self.got_message.set()
        if self.echo:
            self.send(data)

    def received_binary(self, data: bytes) -> None:
        self.got_binary.append(data)
        if self.echo:
            self.send_binary(data)

    def ended(self, end: End) -> None:
        self.ends.append(end)
        self.got_end.set()

    async def end(self) -> End:
        """How it ended; fails if it ended more than once."""
        await asyncio.wait_for(self.got_end.wait(), TIMEOUT)
        (end,) = self.ends
        return end


class Client:
    """The far end, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls, port: int, *, tls: ssl.SSLContext | None = None, receive_buffer: int = 0, limit: int = 65536
    ) -> Client:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        name = "localhost" if tls else None
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=limit))
        except BaseException:
            sock.close()
            raise

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def upgrade(self, path: str = "/ws", extra: str = "") -> str:
        self.write(handshake(path, extra))
        head = await self.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return head

    async def head(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), TIMEOUT)).decode()

    async def response(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an HTTP response with a Content-Length."""
        lines = (await self.head()).split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        size = 0 if head_only else int(headers["content-length"])
        return int(lines[0].split()[1]), headers, await asyncio.wait_for(self.reader.readexactly(size), TIMEOUT)

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(TIMEOUT):
            first, length = await self.reader.readexactly(2)
            assert first & 0x70 == 0
            assert first & 0x80
            if length >= 126:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
            return first & 0x0F, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Code of the Close frame, which must come next; 1005 if it has none."""
        opcode, payload = await self.frame()
        assert opcode == 8, (opcode, payload[:50])
        return int.from_bytes(payload[:2], "big") if payload else 1005

    async def eof(self) -> None:
        """Nothing more comes, and the connection is not reset."""
        assert await asyncio.wait_for(self.reader.read(), TIMEOUT) == b""

    def close(self) -> None:
        self.writer.close()


class Server:
    """A listener with one route, `/ws`, and what the route made."""

    def __init__(self, limits: Limits | None = None, make: Callable[..., Recorder] = Recorder, **options: Any) -> None:
        self.limits = limits or Limits()
        self.make = make
        self.options = options
        self.sockets: asyncio.Queue[Recorder] = asyncio.Queue()
        self.requests: list[Any] = []
        self.clients: list[Client] = []
        self.tls: ssl.SSLContext | None = None

    def _route(self, request: Any) -> WebSocket:
        self.requests.append(request)
        recorder = self.make(self.limits)
        self.sockets.put_nowait(recorder)
        return recorder

    async def start(self, app: Any = None, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.listener = Listener({"/ws": self._route, **self.options.pop("routes", {})}, app, **self.options)
        await self.listener.start("127.0.0.1", port, tls)

    async def connect(self, **options: Any) -> Client:
        """A raw connection."""
        client = await Client.connect(self.listener.port, tls=self.tls, **options)
        self.clients.append(client)
        return client

    async def pair(self, **options: Any) -> tuple[Client, Recorder]:
        """Both ends of a new WebSocket."""
        client = await self.connect(**options)
        await client.upgrade()
        return client, await asyncio.wait_for(self.sockets.get(), TIMEOUT)

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        await self.listener.close(timeout=1.0)


async def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class FakeTransport:
    """Takes what is written; has a socket buffer that takes all or, when told, nothing."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.backlog = 0
        self.protocol: Any = None
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = "eof"

    def is_closing(self) -> bool:
        return self.ended in {"closed", "aborted"}

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class FakeHandle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """An event loop whose time is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.errors: list[dict[str, Any]] = []
        self.wakes = 0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, FakeHandle, Callable[..., Any], tuple[Any, ...]]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.soon.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> FakeHandle:
        handle = FakeHandle()
        heapq.heappush(self._timers, (self.now + delay, next(self._order), handle, callback, args))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def pending(self) -> int:
        return sum(not timer[2].cancelled for timer in self._timers)

    def turn(self) -> None:
        """Make the calls that are due."""
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass, from timer to timer."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, handle, callback, args = heapq.heappop(self._timers)
            if not handle.cancelled:
                self.now = max(self.now, due)
                self.wakes += 1
                callback(*args)
                self.turn()
        self.now = end


def unused_bytes(size: int) -> bytes:
    """Text frames, valid, of about `size` bytes in all."""
    one = text("x" * 1000)
    return one * (size // len(one))
