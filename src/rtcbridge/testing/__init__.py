"""For tests of whatever speaks to a bridge: a client and a node over real WebSockets, without media.

    async with FakeNode(url, node_key) as node, FakeClient(url, key) as client:
        await client.start_session()
        assert node.sessions

Messages are plain dicts and frames are made with `json`, so that nothing of the bridge's own codec is needed to
test it. Both bound every wait and raise TimeoutError with what did arrive.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Message = dict[str, Any]
Behaviour = Literal["connect", "answer", "silent", "refuse"]

_LARGEST = 16 << 20  # bytes of a frame that is read


class Peer:
    """One WebSocket with an inbox. Use it as an asynchronous context manager, or `connect` and `close` it.

    Args:
        url: The whole address, `ws://…` or `wss://…`.
        tls: For `wss://`; None for the system's trust.
        headers: Further headers of the handshake.

    Attributes:
        inbox: Messages that arrived and that `expect` has not taken.
        patience: Seconds that each wait takes at most.
        subprotocols: What the handshake offers.
        code: The close code that was received or sent; None while the socket is open. 1006: without a Close frame.
    """

    patience = 15.0
    subprotocols: Sequence[str] = ()

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.inbox: list[Message] = []
        self.code: int | None = None
        self._tls = tls
        self._headers = headers
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def connect(self) -> None:
        """Dial, and send the first message. Raises OSError and websockets' InvalidHandshake."""
        self.code = None
        self._socket = await connect(
            self.url,
            ssl=self._tls,
            additional_headers=self._headers,
            subprotocols=[Subprotocol(name) for name in self.subprotocols] or None,
            max_size=_LARGEST,
            compression=None,
            proxy=None,
        )
        self._reader = asyncio.create_task(self._read(self._socket), name="reader")

    async def close(self, code: int = 1000) -> None:
        """Say goodbye with a Close frame."""
        if self._socket is not None:
            await self._socket.close(code)
        await self._settle()

    async def drop(self) -> None:
        """End the TCP connection without a Close frame, as a cut cable or a crash does."""
        if self._socket is not None:
            self._socket.transport.abort()
        await self._settle()

    async def _settle(self) -> None:
        if self._reader is not None:
            await asyncio.wait_for(self._reader, self.patience)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, type: str, **fields: Any) -> None:
        """Send one message. Raises ConnectionClosed."""
        await self.send_raw(json.dumps({"type": type, **fields}))

    async def send_raw(self, frame: str | bytes) -> None:
        """Send one frame, text or binary, whatever is in it. Raises ConnectionClosed."""
        assert self._socket is not None, "not connected"
        await self._socket.send(frame)

    async def expect(self, type: str, **fields: Any) -> Message:
        """Wait for a message of this type with these fields, take it out of the inbox and return it."""
        wanted = {"type": type, **fields}

        def find() -> Message | None:
            return next((m for m in self.inbox if wanted.items() <= m.items()), None)

        found: Message = await self.until(find, f"{wanted}")
        self.inbox.remove(found)
        return found

    async def closed(self) -> int:
        """Wait for the end of the socket and return its code."""
        await self.until(lambda: self.code is not None, "the end of the socket")
        assert self.code is not None
        return self.code

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something that arrives makes `condition` true; return its value."""
        try:
            async with asyncio.timeout(self.patience), self._changed:
                while not (value := condition()):
                    await self._changed.wait()
                return value
        except TimeoutError:
            seen = f"code {self.code}, inbox {self.inbox}"
            raise TimeoutError(f"{what}: not in {self.patience:g} s; {seen}") from None

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                message = json.loads(frame)
                self.inbox.append(message)
                await self._arrived(message)
                async with self._changed:
                    self._changed.notify_all()
        self.code = socket.close_code
        async with self._changed:
            self._changed.notify_all()

    async def _arrived(self, message: Message) -> None:
        """What a message of the bridge leads to."""


class FakeClient(Peer):
    """A client that has shown its key.

    Args:
        url: The bridge, `ws://HOST:PORT`.
        credential: `sk_…`.
        options: As of `Peer`.
    """

    def __init__(self, url: str, credential: str, **options: Any) -> None:
        super().__init__(f"{url}/client", **options)
        self._credential = credential

    async def connect(self) -> None:
        """Dial and send the key; `expect("auth_success")` says whether it was accepted."""
        await super().connect()
        await self._present(self._credential)

    async def _present(self, credential: str) -> None:
        await self.send("CREDENTIAL", payload={"credential": credential})

    async def start_session(self, sdp: str = "an offer") -> str:
        """Ask for a node, wait for it, offer, and return the SDP of the answer."""
        await self.send("session_start")
        await self.expect("node_status", status="waiting")
        await self.send("offer", sdp=sdp)
        return str((await self.expect("answer"))["sdp"])


class FakeNode(Peer):
    """A node that is registered, sends heartbeats, and answers offers as `behaviour` says.

    Args:
        url: The bridge, `ws://HOST:PORT`.
        credential: `nk_…`, or the token that a provider was given.
        node: Its id.
        pool: The pool that it joins.
        capacity: Sessions at once; None leaves it to the pool.
        behaviour: What it does with an offer: `connect` (answers, and reports media), `answer` (no media comes),
            `silent` (does nothing), `refuse` (answers `error`).
        options: As of `Peer`.

    Attributes:
        sessions: The newest offer of each session that it serves; a `connect` after a `drop` lists them.
        connected: The sessions whose media is up, as heartbeats list them.
        updates: The parameters of each `update` that came; each is answered with `updated` and the same values.
        beating: Whether heartbeats are sent; without them the bridge soon takes the node for lost.
        epoch: What the bridge said.
    """

    def __init__(
        self,
        url: str,
        credential: str,
        *,
        node: str = "node-1",
        pool: str = "default",
        capacity: int | None = None,
        behaviour: Behaviour = "connect",
        labels: Message | None = None,
        **options: Any,
    ) -> None:
        super().__init__(f"{url}/node", **options)
        self.payload: Message = {"credential": credential, "node": node, "pool": pool, "labels": labels or {}}
        if capacity is not None:
            self.payload["capacity"] = capacity
        self.behaviour: Behaviour = behaviour
        self.sessions: dict[str, str] = {}
        self.connected: set[str] = set()
        self.updates: list[Message] = []
        self.beating = True
        self.epoch = 0
        self._heart: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Dial and register. Raises ConnectionError when the bridge refuses the node."""
        await super().connect()
        await self.send("REGISTER", payload=self.payload | {"sessions": sorted(self.sessions)})
        await self.until(lambda: self.code or any(m["type"] == "registered" for m in self.inbox), "registered")
        if self.code is not None:
            raise ConnectionError(f"the bridge refused the node: {self.code}")
        registered = await self.expect("registered")
        self.epoch = registered["epoch"]
        self._heart = asyncio.create_task(self._beat(registered["heartbeat"]), name="heartbeat")

    async def _settle(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await super()._settle()

    async def _beat(self, period: float) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                if self.beating:
                    await self.send("heartbeat", connected=sorted(self.connected))
                await asyncio.sleep(period)

    async def _arrived(self, message: Message) -> None:
        session = message.get("session", "")
        if message["type"] == "offer":
            self.sessions[session] = message["sdp"]
            with contextlib.suppress(ConnectionClosed):
                await self._offered(session)
        elif message["type"] == "update":
            self.updates.append(message["params"])
            with contextlib.suppress(ConnectionClosed):
                await self.send("updated", session=session, values=message["params"], id=message.get("id"))
        elif message["type"] == "session_end":
            self.sessions.pop(session, None)
            self.connected.discard(session)

    async def _offered(self, session: str) -> None:
        if self.behaviour == "refuse":
            await self.send("error", session=session, message="refused")
            self.sessions.pop(session)
        elif self.behaviour != "silent":
            await self.send("answer", session=session, sdp=f"answer to {self.sessions[session]}")
            if self.behaviour == "connect":
                self.connected.add(session)
                await self.send("session_state", session=session, state="connected")
