"""The client's socket: dialects, errors, replay, and honest giving up; against a scripted server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from rtcbridge.client import ClientError, signaling
from rtcbridge.client.client import client_url
from rtcbridge.client.errors import from_close, from_message
from rtcbridge.client.signaling import Address, Signaling

TIMEOUT = 10.0
Script = Callable[[ServerConnection], Awaitable[None]]


class Listener:
    """Keeps what it is told; `greet` are the messages that it sends when the socket opens."""

    def __init__(self, *greet: dict[str, Any]) -> None:
        self.told: list[Any] = []
        self.signaling: Signaling | None = None
        self.greet = greet
        self.changed = asyncio.Event()

    def _tell(self, what: Any) -> None:
        self.told.append(what)
        self.changed.set()

    def on_open(self) -> None:
        self._tell("open")
        assert self.signaling is not None
        for message in self.greet:
            self.signaling.send(message)

    def on_message(self, message: dict[str, Any]) -> None:
        self._tell(message)

    def on_lost(self) -> None:
        self._tell("lost")

    def on_back(self) -> None:
        self._tell("back")

    def on_closed(self, error: ClientError) -> None:
        self._tell(error)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def ended(self) -> bool:
        return bool(self.told) and isinstance(self.told[-1], ClientError)

    @property
    def error(self) -> ClientError:
        assert isinstance(self.told[-1], ClientError)
        return self.told[-1]


@asynccontextmanager
async def talk(*scripts: Script, extended: bool = True, listener: Listener, **options: Any) -> AsyncIterator[Signaling]:
    """A server that plays one script a socket, and the client that dials it."""
    left = list(scripts)

    async def play(socket: ServerConnection) -> None:
        await left.pop(0)(socket)

    protocols = [Subprotocol("rtcbridge.v2")] if extended else None
    select = None if extended else (lambda _socket, _offered: None)
    async with serve(play, "127.0.0.1", 0, subprotocols=protocols, select_subprotocol=select) as server:
        port = server.sockets[0].getsockname()[1]
        made = Signaling(Address(f"ws://127.0.0.1:{port}/client", options.pop("key", "sk_x"), **options), listener)
        listener.signaling = made
        try:
            yield made
        finally:
            await made.close()


async def take(socket: ServerConnection) -> dict[str, Any]:
    return dict(json.loads(await socket.recv()))


async def say(socket: ServerConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


def abort(socket: ServerConnection) -> None:
    socket.transport.abort()


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signaling, "_RESUME_DELAYS", (0.01,) * 4)


async def test_credential_and_demand_go_in_one_flight() -> None:
    took: list[dict[str, Any]] = []

    async def script(socket: ServerConnection) -> None:
        took.extend([await take(socket), await take(socket)])  # before anything is said
        await say(socket, type="auth_success", session="s", resume="token")
        await socket.wait_closed()

    async def secret() -> str:
        return "ek_y"

    listener = Listener({"type": "session_start"})
    async with talk(script, listener=listener, key=secret) as made:
        await listener.until(lambda: len(listener.told) == 2)
        assert made.extended
        assert made.authenticated
    assert took == [{"type": "CREDENTIAL", "payload": {"credential": "ek_y"}}, {"type": "session_start"}]


async def test_what_was_lost_is_sent_again_and_nothing_comes_twice() -> None:
    async def first(socket: ServerConnection) -> None:
        for _ in range(3):
            await take(socket)
        await say(socket, type="auth_success", session="s", resume="token")
        for number in range(20):
            await say(socket, type="candidate", candidate={"candidate": str(number)})
        assert await take(socket) == {"type": "ack", "received": 16}
        await say(socket, type="ack", received=1)
        await say(socket, type="hello of a newer bridge")
        assert (await take(socket))["candidate"]["candidate"] == "a"
        abort(socket)

    async def second(socket: ServerConnection) -> None:
        await take(socket)
        assert await take(socket) == {"type": "session_resume", "resume": "token", "received": 21}
        await say(socket, type="auth_success", session="other", resume="other", ice_servers=[{"urls": "stun:x"}])
        await say(socket, type="session_resume", session="s", received=2)
        assert (await take(socket))["candidate"]["candidate"] == "a"
        assert (await take(socket))["candidate"]["candidate"] == "b"
        await say(socket, type="node_status", status="waiting")
        await socket.wait_closed()

    listener = Listener({"type": "session_start"}, {"type": "offer", "sdp": "x"})
    async with talk(first, second, listener=listener) as made:
        await listener.until(lambda: {"type": "hello of a newer bridge"} in listener.told)
        made.send({"type": "candidate", "candidate": {"candidate": "a"}})
        await listener.until(lambda: "lost" in listener.told)
        made.send({"type": "candidate", "candidate": {"candidate": "b"}})
        await listener.until(lambda: {"type": "node_status", "status": "waiting"} in listener.told)
    told = [each for each in listener.told if isinstance(each, str) or each["type"] != "candidate"]
    assert told[-4:] == [
        "lost",
        {"type": "ice_servers", "ice_servers": [{"urls": "stun:x"}]},
        "back",
        {"type": "node_status", "status": "waiting"},
    ]


async def test_a_bridge_that_begins_anew_is_told_what_has_had_no_effect() -> None:
    async def first(socket: ServerConnection) -> None:
        for _ in range(4):
            await take(socket)
        await say(socket, type="auth_success", session="s", resume="token")
        await say(socket, type="answer", sdp="y")
        abort(socket)

    async def second(socket: ServerConnection) -> None:
        for _ in range(2):
            await take(socket)
        await say(socket, type="session_resume", session="s", received=0, anew=True)
        assert await take(socket) == {"type": "ack", "received": 0}
        assert await take(socket) == {"type": "candidate", "candidate": {"candidate": "a"}}
        await say(socket, type="updated", values={})
        await socket.wait_closed()

    candidate = {"type": "candidate", "candidate": {"candidate": "a"}}
    listener = Listener({"type": "session_start"}, {"type": "offer", "sdp": "x"}, candidate)
    async with talk(first, second, listener=listener):
        await listener.until(lambda: {"type": "updated", "values": {}} in listener.told)


@pytest.mark.parametrize("code", ["resume_unknown", "resume_gap"])
async def test_a_session_that_is_gone_is_given_up(code: str) -> None:
    async def first(socket: ServerConnection) -> None:
        await take(socket)
        await say(socket, type="auth_success", session="s", resume="token")
        await socket.close(1012)

    async def second(socket: ServerConnection) -> None:
        for _ in range(2):
            await take(socket)
        await say(socket, type="error", message="Gone.", code=code, retryable=False)
        await socket.wait_closed()

    listener = Listener()
    async with talk(first, second, listener=listener):
        await listener.until(lambda: listener.ended)
    assert (listener.error.code, listener.error.retryable) == (code, False)


async def test_it_gives_up_when_the_bridge_stays_away() -> None:
    async def script(socket: ServerConnection) -> None:
        await take(socket)
        await say(socket, type="auth_success", session="s", resume="token")
        abort(socket)

    async def nothing(socket: ServerConnection) -> None:
        abort(socket)

    listener = Listener()
    async with talk(script, *[nothing] * 4, listener=listener):
        await listener.until(lambda: bool(listener.told) and isinstance(listener.told[-1], ClientError))
    assert (listener.error.code, listener.told.count("lost")) == ("network", 1)


async def test_the_documented_dialect_where_the_bridge_knows_no_other() -> None:
    async def script(socket: ServerConnection) -> None:
        await take(socket)
        await say(socket, type="auth_success")
        for _ in range(20):
            await say(socket, type="candidate", candidate=None)
        await say(socket, type="node_status", status="waiting")
        assert (await take(socket))["type"] == "offer"  # no ack before it
        abort(socket)

    listener = Listener()
    async with talk(script, listener=listener, extended=False) as made:
        await listener.until(lambda: {"type": "node_status", "status": "waiting"} in listener.told)
        assert not made.extended
        made.send({"type": "offer", "sdp": "x"})
        await listener.until(lambda: listener.ended)
    assert "lost" not in listener.told
    assert (listener.error.code, listener.error.retryable) == ("network", True)


@pytest.mark.parametrize(
    ("close", "authenticated", "code", "retryable"),
    [
        (1008, False, "auth_failed", False),
        (1008, True, "policy", False),
        (1006, False, "network", True),
        (1012, False, "shutdown", True),
        (1013, True, "overloaded", True),
        (1009, True, "bad_input", False),
        (1000, True, "network", True),
    ],
)
def test_what_the_end_of_a_socket_means(close: int, authenticated: bool, code: str, retryable: bool) -> None:
    error = from_close(close, authenticated)
    assert (error.code, error.retryable) == (code, retryable)


def test_what_an_error_means() -> None:
    full = "Maximum pool size reached. Cannot assign a new node."
    assert from_message({"message": full}).code == "pool_full"
    told = from_message({"message": "Busy.", "code": "pool_full", "retryable": True, "retry_after": 7})
    assert (str(told), told.retryable, told.retry_after) == ("Busy.", True, 7)
    assert from_message({"message": "strength", "code": "update_refused", "retryable": False}).code == "rejected"
    newer = from_message({"message": "New.", "code": "of_tomorrow", "retryable": True})
    assert (newer.code, newer.retryable) == ("of_tomorrow", True)
    assert from_message({"message": "?"}).code == "bad_input"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://h:1", "ws://h:1/client"),
        ("https://h/", "wss://h/client"),
        ("http://h/client", "ws://h/client"),
        ("wss://h/base", "wss://h/base/client"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert client_url(given) == url


@pytest.mark.parametrize("given", ["h:1", "ftp://h", "ws://", "ws://h:99999", ""])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValueError, match="expected ws://"):
        client_url(given)
