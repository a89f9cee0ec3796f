"""One WebSocket of a test, over the sans-IO protocol of `websockets`: every frame and every write is ours."""

import asyncio
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

from wire.replay import Ended, Frame

PATIENCE = 20.0  # seconds: others may be using the machine


class Wire:
    """A connection, and what came on it with the time of its coming."""

    def __init__(self) -> None:
        self.inbox: deque[tuple[float, bytes | Ended]] = deque()
        self._protocol: ClientProtocol
        self._writer: asyncio.StreamWriter
        self._reader: asyncio.Task[None]
        self._changed = asyncio.Condition()
        self._pongs: set[bytes] = set()
        self._pings = 0
        self.over = False
        self.left = False  # we have gone, and what comes now is nobody's

    async def open(self, url: str, subprotocol: str = "") -> None:
        """Dial. Raises OSError, or AssertionError if the handshake or the subprotocol is refused."""
        uri = parse_uri(url)
        offered = [Subprotocol(subprotocol)] if subprotocol else None
        self._protocol = ClientProtocol(uri, subprotocols=offered, max_size=None)
        stream, self._writer = await asyncio.open_connection(uri.host, uri.port)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._reader = asyncio.create_task(self._read(stream))
        await self._until(lambda: self._protocol.state is not State.CONNECTING or self.over)
        assert self._protocol.state is State.OPEN, "no handshake"
        assert (self._protocol.subprotocol or "") == subprotocol

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
                    assert received is not None
                    self.inbox.append((time.monotonic(), Ended(received.code, received.reason)))
                    self.over = True
            self._flush()
            self._changed.notify_all()

    async def _until(self, done: Callable[[], bool], patience: float = PATIENCE) -> None:
        async with asyncio.timeout(patience), self._changed:
            await self._changed.wait_for(done)

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
        self.drop()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
