"""The way to the bridge for one session: one socket, or one after another where the bridge speaks `rtcbridge.v2`.

Then a socket that drops is followed by another one, which takes the session up where it was: nothing is lost and
nothing comes twice, both ways (docs/protocol.md, section 10.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from rtcbridge.client.errors import ClientError, from_close
from rtcbridge.core.extension import SUBPROTOCOL
from rtcbridge.core.replay import Mailbox, ReplayError

Message = dict[str, Any]
Credential = str | Callable[[], str | Awaitable[str]]

_OPEN_TIMEOUT = 10.0  # seconds for the socket to open
_CLOSE_TIMEOUT = 1.0  # seconds for the closing handshake
_PING_EVERY = 20.0  # seconds, and as long for the pong
_MAX_FRAME = 1 << 20  # bytes of a message of the bridge
_RESUME_DELAYS = (0.2, 0.5, 1, 2, 4, 8, 8, 8, 8, 8, 8)  # seconds: about a minute in all
_RESUMABLE = frozenset({1006, 1011, 1012, 1013})
_UNCOUNTED = frozenset({"auth_success", "session_resume", "ack", "reconnect"})
_REFUSALS = frozenset({"resume_unknown", "resume_gap"})
_NO_FRAME = 1006  # a socket that ended without a Close frame, or never opened
_KEPT_MESSAGES, _KEPT_BYTES = 10_000, 4 << 20


class Listener(Protocol):
    """Who is told. All calls come on the event loop, in order, and none after `Signaling.close`."""

    def on_open(self) -> None:
        """The first socket is open, and the credential is on its way: what is sent now goes in the same flight."""

    def on_message(self, message: Message) -> None:
        """A message of the bridge, each one once."""

    def on_lost(self) -> None:
        """The socket dropped, and the session is to be taken up on another one. What is sent meanwhile is kept."""

    def on_back(self) -> None:
        """It was taken up; what had been lost has been sent again."""

    def on_closed(self, error: ClientError) -> None:
        """There is no socket and there will be none."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial, and as whom.

    Attributes:
        url: ws:// or wss://, with the path /client.
        credential: `sk_…`, a client's token, or what returns one, at once or awaited.
        tls: for wss://.
        resume: take the session up on another socket when one drops.
    """

    url: str
    credential: Credential
    tls: ssl.SSLContext | None = None
    resume: bool = True


class Signaling:
    """Dials at once, and again as long as the session can be taken up."""

    def __init__(self, address: Address, listener: Listener) -> None:
        self.extended = False
        self.authenticated = False
        self._address = address
        self._listener: Listener | None = listener
        self._mailbox = Mailbox(_KEPT_MESSAGES, _KEPT_BYTES)
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._socket: ClientConnection | None = None
        self._token = ""
        self._resuming = False
        self._unanswered = 0  # offers
        self._failures = 0
        self._task = asyncio.create_task(self._run(), name="signaling")

    def send(self, message: Message) -> None:
        """Send a message, now or when the session has been taken up again."""
        frame = msgspec.json.encode(message)
        if self.extended:
            self._mailbox.put(frame)
            self._unanswered += message["type"] == "offer"
        if not self._resuming:
            self._outbox.put_nowait(frame)

    async def close(self) -> None:
        """Close with a Close frame, which ends the session at the bridge, and report nothing more."""
        self._listener = None
        if self._socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._socket.close(1000)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while (code := await self._socket_once()) in _RESUMABLE and self._may_resume():
                if not self._resuming and self._listener is not None:
                    self._listener.on_lost()
                self._resuming = True
                delay = _RESUME_DELAYS[self._failures] * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
                self._failures += 1
                await asyncio.sleep(delay)
            error = from_close(code, self.authenticated)
        except ClientError as failed:
            error = failed
        if self._listener is not None:
            self._listener.on_closed(error)

    def _may_resume(self) -> bool:
        return bool(self._token) and self._address.resume and self._failures < len(_RESUME_DELAYS)

    async def _socket_once(self) -> int:
        """Dial and serve one socket to its end; return its close code. Raises ClientError: it is of no use to go on."""
        try:
            socket = await self._dial()
        except (OSError, TimeoutError, WebSocketException) as error:
            if not self._resuming:
                raise ClientError("network", f"The bridge cannot be reached: {_describe(error)}") from None
            return _NO_FRAME
        async with socket:
            self._socket = socket
            try:
                await self._serve(socket)
            except ConnectionClosed:
                pass
            finally:
                self._socket = None
        return socket.close_code or _NO_FRAME

    async def _dial(self) -> ClientConnection:
        try:
            return await self._connect([Subprotocol(SUBPROTOCOL)])
        except InvalidURI:
            raise
        except InvalidHandshake:  # of a server that cannot bear a subprotocol that it does not know
            return await self._connect(None)

    async def _connect(self, subprotocols: list[Subprotocol] | None) -> ClientConnection:
        return await connect(
            self._address.url,
            ssl=self._address.tls,
            subprotocols=subprotocols,
            max_size=_MAX_FRAME,
            compression=None,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=_CLOSE_TIMEOUT,
            ping_interval=_PING_EVERY,
            ping_timeout=_PING_EVERY,
            proxy=None,
        )

    async def _serve(self, socket: ClientConnection) -> None:
        extended = socket.subprotocol == SUBPROTOCOL
        if self._resuming and not extended:
            raise ClientError("network", "Another bridge answers now, which cannot resume the session.")
        self.extended = extended
        self._outbox = asyncio.Queue()
        self._outbox.put_nowait(await self._greeting())
        if self._resuming:
            resume = {"type": "session_resume", "resume": self._token, "received": self._mailbox.taken}
            self._outbox.put_nowait(msgspec.json.encode(resume))
        elif self._listener is not None:
            self._listener.on_open()
        writer = asyncio.create_task(_write(socket, self._outbox), name="signaling-writer")
        try:
            async for frame in socket:
                message = _parse(frame)
                if message is not None:
                    self._receive(message)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _greeting(self) -> bytes:
        credential = self._address.credential
        try:
            given = credential() if callable(credential) else credential
            secret = await given if inspect.isawaitable(given) else given
        except Exception as error:
            raise ClientError("auth_failed", f"The credential cannot be had: {error}") from error
        return msgspec.json.encode({"type": "CREDENTIAL", "payload": {"credential": secret}})

    def _receive(self, message: Message) -> None:
        kind = message["type"]
        if kind == "auth_success":
            self.authenticated = True
            if self._resuming:  # of a new session, which is dropped when the old one is taken up
                if "ice_servers" in message:  # its servers are good for any
                    self._tell({"type": "ice_servers", "ice_servers": message["ice_servers"]})
                return None
            self._token = message.get("resume", "") if self.extended else ""
        if not self.extended:
            return self._tell(message)
        if kind == "session_resume":
            return self._resumed(message)
        if kind == "ack":
            return self._acknowledged(message)
        if self._resuming and message.get("code") in _REFUSALS:
            raise ClientError(message["code"], message.get("message", ""))
        if kind == "answer":
            self._unanswered = max(0, self._unanswered - 1)
        if kind not in _UNCOUNTED and self._mailbox.take():
            self._acknowledge()
        return self._tell(message)

    def _tell(self, message: Message) -> None:
        if self._listener is not None:
            self._listener.on_message(message)

    def _acknowledge(self) -> None:
        self._outbox.put_nowait(msgspec.json.encode({"type": "ack", "received": self._mailbox.taken}))

    def _acknowledged(self, message: Message) -> None:
        with contextlib.suppress(ReplayError):
            self._mailbox.acknowledge(int(message.get("received", 0)))

    def _resumed(self, message: Message) -> None:
        try:
            if message.get("anew"):
                self._begin_anew()
            frames = self._mailbox.missed(0 if message.get("anew") else int(message.get("received", 0)))
        except ReplayError as error:
            raise ClientError("resume_gap", str(error)) from None
        self._resuming = False
        self._failures = 0
        for frame in frames:
            self._outbox.put_nowait(frame)
        if self._listener is not None:
            self._listener.on_back()

    def _begin_anew(self) -> None:
        """Count from 1 again: the bridge goes on with a live session without knowing how it began (section 10.4)."""
        kept = [(frame, msgspec.json.decode(frame)["type"]) for frame in self._mailbox.kept]
        starts = [number for number, (_, kind) in enumerate(kept) if kind == "session_start"]
        kept = kept[starts[-1] + 1 :] if starts else kept
        answered = sum(kind == "offer" for _, kind in kept) - self._unanswered
        self._mailbox = Mailbox(_KEPT_MESSAGES, _KEPT_BYTES)
        self._acknowledge()  # so that the bridge knows that we know
        for frame, kind in kept:
            if kind == "offer" and answered > 0:
                answered -= 1
            else:
                self._mailbox.put(frame)


async def _write(socket: ClientConnection, outbox: asyncio.Queue[bytes]) -> None:
    with contextlib.suppress(ConnectionClosed):  # the reader sees it too
        while True:
            await socket.send(await outbox.get(), text=True)


def _parse(frame: str | bytes) -> Message | None:
    try:
        message = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return " ".join(str(error).split()) or type(error).__name__
