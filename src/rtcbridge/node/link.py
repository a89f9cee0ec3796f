"""The node's connection to the bridge: dials, registers, and dials again."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI, WebSocketException
from websockets.protocol import State

from rtcbridge.core.errors import ProtocolError
from rtcbridge.core.messages import FromBridge, Register, Registered, decode_from_bridge, encode

if TYPE_CHECKING:
    from msgspec import Struct

log = structlog.get_logger()

_MAX_FRAME = 1024 * 1024  # bytes that the bridge may send in one message; its own clients' limit is 64 KiB
_MAX_OUTBOX = 4096  # messages that wait to be written; a bridge that reads no faster is dialled anew
_OPEN_TIMEOUT = 10.0  # seconds for the socket to open
_REGISTER_TIMEOUT = 10.0  # seconds for the bridge to answer REGISTER
_CLOSE_TIMEOUT = 1.0  # seconds for the closing handshake
_PING_EVERY = 20.0  # seconds, and as long for the pong
_FIRST_RETRY = 0.25  # seconds, at most, before the first retry
_MAX_RETRY = 5.0
_REFUSED_RETRY = 5.0  # seconds between retries where the credential was refused
_REFUSALS = 5  # a node that was never accepted gives up after so many
_POLICY = 1008
_COMPLAIN_EVERY = 30.0  # seconds between log lines while the bridge cannot be reached


class Outcome(Enum):
    """How `Link.run` ended."""

    CLOSED = "closed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Where to dial.

    Attributes:
        url: ws:// or wss://, with the path /node.
        tls: for wss.
        refused_retry: seconds between retries where the credential was refused.
    """

    url: str
    tls: ssl.SSLContext | None = None
    refused_retry: float = _REFUSED_RETRY


class Link:
    """Keeps a registered socket to the bridge as long as it runs.

    Args:
        config: where to dial.
        register: makes the REGISTER message, with the sessions alive at that moment.
        on_registered: called when the bridge has accepted the node, again after each reconnect.
        on_message: called with each message of the bridge behind that.
        on_unsent: called at the end of a socket with what `send` has taken and nobody has, in order.
    """

    def __init__(
        self,
        config: LinkConfig,
        register: Callable[[], Register],
        on_registered: Callable[[Registered], None],
        on_message: Callable[[FromBridge], None],
        on_unsent: Callable[[Sequence[Struct]], object] = lambda messages: None,
    ) -> None:
        self._config = config
        self._register = register
        self._on_registered = on_registered
        self._on_message = on_message
        self._on_unsent = on_unsent
        self._outbox: asyncio.Queue[Struct] | None = None
        self._socket: ClientConnection | None = None
        self._stop = asyncio.Event()
        self._accepted = False
        self._again = False
        self._complained = -_COMPLAIN_EVERY

    @property
    def up(self) -> bool:
        """Whether the bridge has accepted the node on the present socket."""
        return self._outbox is not None

    def send(self, message: Struct) -> bool:
        """Queue a message; False, and nothing is sent, while the link is not up."""
        if self._outbox is None:
            return False
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("bridge_reads_too_slowly")
            self._outbox = None
            if self._socket is not None:
                self._socket.transport.abort()
            return False
        return True

    async def close(self) -> None:
        """Send what is queued, say goodbye, and let `run` return."""
        self._stop.set()
        outbox, socket = self._outbox, self._socket
        if outbox is not None and socket is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await outbox.join()
            except TimeoutError:
                pass
        if socket is not None:
            await socket.close()

    async def redial(self) -> None:
        """Send what is queued, and register anew on a new socket; do nothing while the link is down."""
        outbox, socket = self._outbox, self._socket
        if outbox is None or socket is None or self._again:
            return
        self._again = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await outbox.join()
        await socket.close()

    async def run(self) -> Outcome:
        """Dial until `close`; return REFUSED if the bridge never accepted the node and kept refusing it."""
        failures = refusals = 0
        while not self._stop.is_set():
            accepted, refused = await self._connect_once()
            if self._stop.is_set():
                break
            if self._again:
                self._again = False
                continue
            if refused:
                refusals += 1
                log.error("registration_refused", reason="the key, the pool or the id is not valid", tries=refusals)
                if not self._accepted and refusals >= _REFUSALS:
                    return Outcome.REFUSED
                await self._pause(self._config.refused_retry)
                continue
            if accepted:
                failures = refusals = 0
            await self._pause(retry_delay(failures, random.random()))  # noqa: S311 - jitter, not a secret
            failures += 1
        return Outcome.CLOSED

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _connect_once(self) -> tuple[bool, bool]:
        """Dial and serve one socket to its end. Returns whether the node was accepted, and whether refused."""
        accepted = False
        try:
            async with connect(
                self._config.url,
                ssl=self._config.tls,
                max_size=_MAX_FRAME,
                compression=None,
                open_timeout=_OPEN_TIMEOUT,
                close_timeout=_CLOSE_TIMEOUT,
                ping_interval=_PING_EVERY,
                ping_timeout=_PING_EVERY,
                proxy=None,
            ) as socket:
                self._socket = socket
                if self._stop.is_set():
                    return False, False
                await socket.send(encode(self._register()), text=True)
                async with asyncio.timeout(_REGISTER_TIMEOUT):
                    first = decode_from_bridge(await socket.recv(decode=False))
                if not isinstance(first, Registered):
                    raise ProtocolError(f"expected registered, not {type(first).__name__}")
                accepted = self._accepted = True
                self._complained = -_COMPLAIN_EVERY
                await self._serve(socket, first)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd is not None else None
            if code == _POLICY and not accepted:
                return False, True
            self._complain("bridge_closed" if code else "bridge_lost", code=code)
        except (OSError, TimeoutError, WebSocketException, ProtocolError) as error:
            self._complain("bridge_unreachable", error=_describe(error))
        finally:
            self._outbox = None
            self._socket = None
        return accepted, False

    async def _serve(self, socket: ClientConnection, registered: Registered) -> None:
        outbox: asyncio.Queue[Struct] = asyncio.Queue(_MAX_OUTBOX)
        unsent: list[Struct] = []
        self._outbox = outbox
        writer = asyncio.create_task(_write(socket, outbox, unsent), name="link-writer")
        try:
            self._on_registered(registered)
            while not self._stop.is_set():
                frame = await socket.recv(decode=False)
                try:
                    message = decode_from_bridge(frame)
                except ProtocolError as error:
                    log.warning("bad_message_from_bridge", error=str(error))
                    continue
                self._on_message(message)
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await outbox.join()
        finally:
            self._outbox = None
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            while not outbox.empty():
                unsent.append(outbox.get_nowait())
            self._on_unsent(unsent)

    def _complain(self, event: str, **fields: object) -> None:
        """Log, the first time at once and then now and again."""
        if self._stop.is_set() or self._again:
            return
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY:
            self._complained = now
            log.warning(event, url=self._config.url, **fields)


async def _write(socket: ClientConnection, outbox: asyncio.Queue[Struct], unsent: list[Struct]) -> None:
    while True:
        message = await outbox.get()
        try:
            if socket.state is not State.OPEN:  # `send` would wait for the end, and be cancelled at it
                unsent.append(message)
                return  # the reader sees it too
            await socket.send(encode(message), text=True)
        except ConnectionClosed:
            return  # it had been written
        finally:
            outbox.task_done()


def retry_delay(failures: int, jitter: float) -> float:
    """Return the seconds to wait before the next dial: doubling, at most five seconds, half of it jitter.

    Args:
        failures: dials in a row that failed before this one.
        jitter: from 0 to 1; spreads the nodes of a bridge that restarts.
    """
    ceiling = min(_MAX_RETRY, _FIRST_RETRY * float(2 ** min(failures, 10)))
    return ceiling * (0.5 + 0.5 * jitter)


def _describe(error: BaseException) -> str:
    if isinstance(error, InvalidURI | InvalidHandshake) or str(error):
        return " ".join(str(error).split())[:200]
    return type(error).__name__
