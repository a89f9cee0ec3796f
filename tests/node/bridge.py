"""A small bridge for the tests: speaks part 3 of the protocol to one node at a time over a real WebSocket."""

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

TIMEOUT = 20.0


class Bridge:
    """Accepts nodes. `registers` has their REGISTER payloads; `inbox` has all their later messages."""

    def __init__(
        self,
        accept: Callable[[dict[str, Any]], bool] = lambda _payload: True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.accept = accept
        self._tls = tls
        self.heartbeat = 0.2
        self.epoch = 0
        self.registers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.socket: ServerConnection | None = None
        self.closed: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}/node"

    async def __aenter__(self) -> "Bridge":
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.shut()

    async def listen(self) -> None:
        self._server = await serve(self._serve, "127.0.0.1", self.port, compression=None, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self, code: int = 1012) -> None:
        if self._server is not None:
            self._server.close(code=code)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, socket: ServerConnection) -> None:
        try:
            first = json.loads(await socket.recv())
            assert first["type"] == "REGISTER"
            payload = first["payload"]
            self.registers.put_nowait(payload)
            if not self.accept(payload):
                await socket.close(1008)
                return
            self.epoch += 1
            registered = {"type": "registered", "node": payload["node"], "epoch": self.epoch}
            await socket.send(json.dumps(registered | {"heartbeat": self.heartbeat}))
            self.socket = socket
            self.changed.set()
            async for frame in socket:
                assert isinstance(frame, str)
                self.inbox.append(json.loads(frame))
                self.changed.set()
        except ConnectionClosed:
            pass
        finally:
            if self.socket is socket:
                self.socket = None
            code = socket.close_code
            self.closed.put_nowait((code, socket.close_reason or ""))
            self.changed.set()

    async def registered(self) -> dict[str, Any]:
        """Wait for the next node that registers."""
        async with asyncio.timeout(TIMEOUT):
            payload = await self.registers.get()
        await self.until(lambda: self.socket is not None)
        return payload

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(TIMEOUT):
            while not (value := condition()):
                self.changed.clear()
                await self.changed.wait()
        return value

    async def send(self, type: str, **fields: Any) -> None:
        assert self.socket is not None
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def send_raw(self, text: str | bytes) -> None:
        assert self.socket is not None
        await self.socket.send(text)

    def find(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        wanted = {"type": type, **fields}
        return [m for m in self.inbox if all(m.get(key) == value for key, value in wanted.items())]

    async def expect(self, type: str, **fields: Any) -> dict[str, Any]:
        """Wait for a message, take it out of the inbox and return it."""
        found = await self.until(lambda: self.find(type, **fields))
        self.inbox.remove(found[0])
        return dict(found[0])

    async def connect(self, client: Any, session: str, **fields: Any) -> None:
        """Bring a client and the node together as the bridge does, until the media is up."""
        await self.send("offer", session=session, sdp=await client.offer(), **fields)
        relay = asyncio.create_task(self._relay(client, session))
        try:
            answer = await self.expect("answer", session=session)
            await client.accept(answer["sdp"])
            await self.expect("session_state", session=session, state="connected")
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
        for message in self.find("candidate", session=session):
            self.inbox.remove(message)
            await client.add(message["candidate"])

    async def _relay(self, client: Any, session: str) -> None:
        while True:
            candidate = await client.candidates.get()
            await self.send("candidate", session=session, candidate=candidate)
