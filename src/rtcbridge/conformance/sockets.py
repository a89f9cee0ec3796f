"""One WebSocket of a player, over the sans-IO protocol of `websockets`: every frame and every write is ours."""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.exceptions import ProtocolError
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from rtcbridge.conformance.replay import Ended, Frame, MismatchError

PATIENCE = 20.0
"""Seconds that anything may take on a machine that others are using, too."""


class Wire:
    """A connection, and what came on it with the time of its coming, of `time.monotonic()`.

    Args:
        patience: seconds that the bridge has for the handshake, for a pong, and for its Close frame.
        tls: whom to trust, for wss://.
    """

    def __init__(self, patience: float = PATIENCE, tls: ssl.SSLContext | None = None) -> None:
        self._patience = patience
        self._tls = tls
        self.inbox: deque[tuple[float, bytes | Ended]] = deque()
        self._protocol: ClientProtocol
        self._writer: asyncio.StreamWriter
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._pongs: set[bytes] = set()
        self._pings = 0
        self.over = False
        self.left = False  # we have gone, and what comes now is nobody's

    async def open(self, url: str, subprotocol: str = "") -> None:
        """Dial. Raises OSError, or MismatchError if the handshake or the subprotocol is refused."""
        uri = parse_uri(url)
        offered = [Subprotocol(subprotocol)] if subprotocol else None
        self._protocol = ClientProtocol(uri, subprotocols=offered, max_size=None)
        async with asyncio.timeout(self._patience):
            stream, self._writer = await asyncio.open_connection(uri.host, uri.port, ssl=self._tls)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._reader = asyncio.create_task(self._read(stream))
        await self._until(
            lambda: (
                self._protocol.state is not State.CONNECTING or self._protocol.handshake_exc is not None or self.over
            )
        )
        if self._protocol.state is not State.OPEN:
            raise MismatchError(f"no WebSocket at {url}: {self._protocol.handshake_exc or 'it closed the connection'}")
        if (self._protocol.subprotocol or "") != subprotocol:
            raise MismatchError(
                f"the subprotocol {self._protocol.subprotocol or 'none'} instead of {subprotocol or 'none'}"
            )

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        try:
            while data := await stream.read(65536):
                self._protocol.receive_data(data)
                await self._take()
            self._protocol.receive_eof()
        except (OSError, ProtocolError):
            pass
        await self._take()
        async with self._changed:
            if not self.over:
                received = self._protocol.close_rcvd
                code, reason = (received.code, received.reason) if received else (1006, "")
                self.inbox.append((time.monotonic(), Ended(code, reason)))
                self.over = True
            self._changed.notify_all()
        self._writer.close()

    async def _take(self) -> None:
        async with self._changed:
            for event in self._protocol.events_received():
                if not isinstance(event, WebSocketFrame):
                    continue
                if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                    self.inbox.append((time.monotonic(), bytes(event.data)))
                elif event.opcode is Opcode.PONG:
                    self._pongs.add(bytes(event.data))
                elif event.opcode is Opcode.CLOSE and not self.over:
                    received = self._protocol.close_rcvd
                    code, reason = (received.code, received.reason) if received else (1006, "")
                    self.inbox.append((time.monotonic(), Ended(code, reason)))
                    self.over = True
            self._flush()
            self._changed.notify_all()

    async def _until(self, done: Callable[[], bool], patience: float | None = None) -> None:
        limit = self._patience if patience is None else patience
        try:
            async with asyncio.timeout(limit), self._changed:
                await self._changed.wait_for(done)
        except TimeoutError:
            raise TimeoutError(f"no answer within {limit:g} s") from None

    async def send(self, frames: list[Frame]) -> None:
        """Send all of them in one write, and wait until the bridge has taken them in or has closed."""
        if self._protocol.state is State.OPEN:
            for is_text, data in frames:
                (self._protocol.send_text if is_text else self._protocol.send_binary)(data)
            self._flush()
        await self.settled()

    async def settled(self) -> None:
        """Wait until what the bridge had for us when it took in our last frame has come."""
        if self.over or self._protocol.state is not State.OPEN:
            return
        self._pings += 1
        mark = b"%d" % self._pings
        self._protocol.send_ping(mark)
        self._flush()
        await self._until(lambda: mark in self._pongs or self.over)

    async def next(self, patience: float) -> tuple[float, bytes | Ended] | None:
        """The next frame, or the end, with the time at which it came; None if nothing comes."""
        try:
            await self._until(lambda: bool(self.inbox), patience)
        except TimeoutError:
            return None
        return self.inbox.popleft()

    async def close(self, code: int | None) -> None:
        """Say goodbye, and wait for the bridge's."""
        self.left = True
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
            self._flush()
        await self._until(lambda: self.over)

    def drop(self) -> None:
        """Be gone without a Close frame."""
        self.left = True
        self.over = True
        self._writer.transport.abort()

    async def finish(self) -> None:
        """Leave nothing behind."""
        if self._reader is None:
            return  # it was never open
        self.drop()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
