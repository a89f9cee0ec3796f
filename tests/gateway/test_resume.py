"""Clients of the extension over a running bridge: what they are told, and how they go on after a lost socket."""

import asyncio
import contextlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from gateway.bridges import BEAT, Running, running
from rtcbridge.config import Nodes, Server, Sessions
from rtcbridge.core.replay import Mailbox
from rtcbridge.testing import FakeNode, Message
from rtcbridge.testing.extended import ExtendedClient

UPDATES = {"updates": True}


def extended(bridge: Running, key: str = "", url: str = "") -> ExtendedClient:
    return ExtendedClient(url or bridge.url, key or bridge.client_key)


def candidate(text: str) -> Message:
    return {"sdpMid": "0", "sdpMLineIndex": 0, "candidate": text}


async def until(condition: Callable[[], object]) -> None:
    """Wait for something inside the bridge of which nobody is told."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(BEAT / 10)


async def away(bridge: Running, client: ExtendedClient) -> None:
    """Lose the client's socket, and wait until the bridge has seen it."""
    before = bridge.server.visits.away
    await client.drop()
    await until(lambda: bridge.server.visits.away > before)


def mailbox(bridge: Running, client: ExtendedClient) -> Mailbox:
    visit = bridge.server.visits.get(client.session)
    assert visit is not None
    return visit.mailbox


async def live(client: ExtendedClient, node: FakeNode) -> str:
    """Bring the client's media up; return the session's id at the node."""
    await client.expect("auth_success")
    await client.start_session("first")
    return str(await node.until(lambda: next(iter(node.connected), None), "media"))


# --- the handshake ---


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["rtcbridge.v2"], "rtcbridge.v2"),
        (["other", "rtcbridge.v2"], "rtcbridge.v2"),
        (["rtcbridge.v3", "rtcbridge"], None),
        (None, None),
    ],
)
async def test_the_subprotocol_is_chosen_if_it_is_offered(
    tmp_path: Path, offered: list[str] | None, chosen: str | None
) -> None:
    names = [Subprotocol(name) for name in offered] if offered else None
    async with (
        running(tmp_path) as bridge,
        connect(f"{bridge.url}/client", subprotocols=names, proxy=None) as socket,
    ):
        assert socket.subprotocol == chosen
        await socket.send(json.dumps({"type": "CREDENTIAL", "payload": {"credential": bridge.client_key}}))
        welcome = json.loads(await socket.recv())
        assert set(welcome) == ({"type", "session", "resume"} if chosen else {"type"})


async def test_a_wrong_key_gets_the_same_silence(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        client = extended(bridge, "sk_TEST01_wrong")
        await client.connect()
        assert await client.closed() == 1008
        assert client.inbox == []


# --- what is added ---


async def test_errors_have_a_code_and_the_line_a_position(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(), extended(bridge) as first:
        await first.start_session()
        async with extended(bridge) as second, extended(bridge) as third:
            await second.send("session_start")
            assert (await second.expect("node_status", status="full"))["position"] == 1
            await third.send("session_start")
            assert (await third.expect("node_status", status="full"))["position"] == 2
            await third.send("offer", sdp="o")
            error = await third.expect("error")
            assert (error["code"], error["retryable"]) == ("pool_full", True)
            await third.send("nonsense")
            assert (await third.expect("error"))["code"] == "bad_message"
            await second.close()
            assert (await third.expect("node_status", status="full"))["position"] == 1  # told when it is looked at


async def test_a_session_is_ended_by_a_message_and_another_begins_on_the_same_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, extended(bridge) as client:
        session = await live(client, node)
        assert session == client.session
        await client.send("session_end", reason="done")
        assert (await client.expect("session_end"))["reason"] == "client left"
        await node.expect("session_end", session=session)
        await client.send("session_end")  # there is none: nothing happens
        await client.start_session("second")
        assert next(iter(node.sessions)) != session


async def test_updates_go_to_the_node_and_back(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as client:
        await client.send("update", params={"a": 0}, id=1)
        assert (await client.expect("error", id=1))["code"] == "no_node"
        await live(client, node)
        await client.send("update", params={"a": 1}, id="x")
        assert (await client.expect("updated"))["values"] == {"a": 1}
        await client.send("update", params=[])
        assert (await client.expect("error"))["code"] == "bad_message"
        assert node.updates == [{"a": 1}]


async def test_a_node_that_refuses_an_update_keeps_its_session(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as client:
        session = await live(client, node)
        await node.send("updated", session=session, error="a: expected a number", id=7)
        error = await client.expect("error", id=7)
        assert error == {
            "type": "error", "message": "a: expected a number", "code": "update_refused", "retryable": False, "id": 7,
        }  # fmt: skip
        assert session in node.sessions


async def test_a_node_that_does_not_know_updates_is_sent_none(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, extended(bridge) as client:
        await live(client, node)
        await client.send("update", params={"a": 1}, id=1)
        assert (await client.expect("error", id=1))["code"] == "update_unsupported"
        assert node.updates == []


# --- coming back ---


async def test_a_live_session_goes_on_and_what_was_said_meanwhile_comes_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as client:
        session = await live(client, node)
        await away(bridge, client)
        await node.send("candidate", session=session, candidate=candidate("meanwhile"))
        await client.send("update", params={"a": 1}, id=1)  # without a socket
        answer = await client.resume()
        assert (answer["session"], answer["received"]) == (session, 2)
        assert (await client.expect("candidate"))["candidate"]["candidate"] == "meanwhile"
        assert (await client.expect("updated"))["id"] == 1
        await client.send("offer", sdp="restart of ICE")
        assert (await client.expect("answer"))["sdp"] == "answer to restart of ICE"
        assert list(node.sessions.values()) == ["restart of ICE"]
        assert [message["type"] for message in client.inbox] == ["auth_success"]  # that of the new socket


async def test_a_client_whose_answer_has_not_come_gets_it_when_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(behaviour="silent") as node, extended(bridge) as client:
        for message in ({"type": "session_start"}, {"type": "offer", "sdp": "o"}):
            await client.send(**message)
        session = str(await node.until(lambda: next(iter(node.sessions), None), "the offer"))
        await away(bridge, client)
        node.connected.add(session)
        await node.send("answer", session=session, sdp="a")
        await node.send("session_state", session=session, state="connected")
        await client.send("candidate", candidate=candidate("c"))
        await client.resume()
        assert (await client.expect("answer"))["sdp"] == "a"
        await node.expect("candidate", session=session)


async def test_the_place_in_line_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(), extended(bridge) as holder:
        await holder.start_session()
        async with extended(bridge) as second, extended(bridge) as third:
            for client in (second, third):
                await client.send("session_start")
                await client.expect("node_status", status="full")
            await away(bridge, second)
            await second.resume()
            await second.expect("node_status", status="full", position=1)
            await holder.close()
            await second.expect("node_status", status="waiting")


async def test_away_for_too_long_a_session_ends_and_is_not_resumed(tmp_path: Path) -> None:
    brief = Sessions(resume_grace=0.2, claim_timeout=0.1)
    async with running(tmp_path, sessions=brief) as bridge, bridge.node(), extended(bridge) as client:
        await client.send("session_start")
        await client.expect("node_status", status="waiting")
        await away(bridge, client)
        async with bridge.client() as other:
            await other.send("session_start")
            await other.expect("node_status", status="waiting")  # the slot is free again
            await until(lambda: len(bridge.server.visits) == 0)
            assert bridge.server.visits.away == 0
            assert (await client.resume())["code"] == "resume_unknown"


async def test_a_token_of_another_project_or_a_wrong_one_tells_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, extended(bridge) as client:
        await live(client, node)
        await away(bridge, client)
        foreign = extended(bridge, bridge.keys.create_client_key("OTHER1"))
        told = await foreign.resume(client)
        for token in ("", ".", client.token[:-1] + ("a" if client.token[-1] != "a" else "b"), "é.é", client.session):
            thief = extended(bridge)
            thief.session, thief.token = client.session, token
            assert await thief.resume() == told
            await thief.close()
        text = "There is no such session to resume."
        assert told == {"type": "error", "message": text, "code": "resume_unknown", "retryable": False}
        await foreign.close()
        assert (await client.resume())["session"] == client.session


async def test_the_newer_socket_takes_over_from_one_that_is_still_open(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as old:
        await live(old, node)
        async with extended(bridge) as new:
            assert (await new.resume(old))["session"] == old.session
            assert await old.closed() == 1008
            await new.send("update", params={"a": 1}, id=1)
            await new.expect("updated", id=1)


@pytest.mark.parametrize("code", [1011, 1012, 1013])
async def test_a_socket_that_the_bridge_gave_up_can_be_followed_by_another(tmp_path: Path, code: int) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as client:
        await live(client, node)
        visit = bridge.server.visits.get(client.session)
        assert visit is not None
        assert visit.socket is not None
        visit.socket.close(code)
        assert await client.closed() == code
        assert (await client.resume())["session"] == client.session


async def test_a_socket_that_is_closed_for_what_its_client_did_cannot(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, extended(bridge) as client:
        session = await live(client, node)
        for _ in range(10):
            await client.send("nonsense")
        assert await client.closed() == 1008
        await node.expect("session_end", session=session)
        assert (await client.resume())["code"] == "resume_unknown"


async def test_more_clients_than_the_bridge_serves_are_not_expected_back(tmp_path: Path) -> None:
    server = Server(port=0, max_connections=4)
    async with running(tmp_path, server=server) as bridge:
        clients = [extended(bridge) for _ in range(5)]
        for client in clients:
            await client.connect()
            await client.send("session_start")
            await client.expect("node_status", status="full")
            await client.drop()
            await until(lambda: not bridge.server.bridge.clients)
        assert (len(bridge.server.visits), bridge.server.visits.away) == (4, 4)
        assert len(bridge.server.bridge.sessions) == 4


async def test_session_resume_is_the_first_message_or_none(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, extended(bridge) as client, extended(bridge) as other:
        await other.expect("auth_success")
        await client.send("session_start")
        await client.send_uncounted("session_resume", resume=other.token, received=0)
        assert "first message" in (await client.expect("error", code="bad_message"))["message"]


async def test_a_client_that_missed_more_than_is_kept_is_told_so(tmp_path: Path) -> None:
    small = Sessions(replay_messages=2)
    async with running(tmp_path, sessions=small) as bridge, bridge.node() as node, extended(bridge) as client:
        session = await live(client, node)
        await away(bridge, client)
        for number in range(3):
            await node.send("candidate", session=session, candidate=candidate(f"{number}"))
        await node.send("heartbeat", connected=[session])
        await until(lambda: mailbox(bridge, client).sent == 5)
        assert (await client.resume())["code"] == "resume_gap"


async def test_goodbye_is_the_end_of_it(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node:
        client = extended(bridge)
        async with client:
            session = await live(client, node)
        await node.expect("session_end", session=session)
        assert (await client.resume())["code"] == "resume_unknown"
        await client.close()


async def test_a_lost_node_is_told_when_the_client_is_back_and_its_place_is_the_first(tmp_path: Path) -> None:
    never = Sessions(connect_timeout=60.0)
    async with running(tmp_path, sessions=never) as bridge, extended(bridge) as client, extended(bridge) as other:
        async with bridge.node(behaviour="answer") as node:
            await client.start_session()
            await other.send("session_start")
            await other.expect("node_status", status="full")
            await away(bridge, client)
            node.beating = False
            assert await node.closed() == 1012
        await client.resume()
        assert (await client.expect("error"))["code"] == "node_lost"
        await client.expect("node_status", status="full", position=1)


async def test_clients_are_told_to_reconnect_before_the_bridge_stops(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        client = extended(bridge)
        await client.connect()
        await client.expect("auth_success")
        await bridge.server.stop()
        await client.expect("reconnect")
        assert await client.closed() == 1012


async def test_the_bridge_acknowledges(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(labels=UPDATES) as node, extended(bridge) as client:
        await live(client, node)
        for number in range(20):
            await client.send("update", params={"n": number}, id=number)
        await client.expect("updated", id=19)
        assert len(client._kept) < 16
        await client.acknowledge()
        await client.send("update", params={}, id=20)
        await client.expect("updated", id=20)
        assert len(mailbox(bridge, client).kept) == 1


# --- cut anywhere ---


class CuttingProxy:
    """Before a bridge: each connection breaks, both ways, when one of them has carried so many bytes."""

    def __init__(self, port: int, bytes_until_cut: Callable[[], float]) -> None:
        self._port, self._bytes = port, bytes_until_cut
        self.cuts = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_bridge, to_bridge = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(reader, to_bridge, writer))
            group.create_task(self._pump(from_bridge, writer, to_bridge))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        left = self._bytes()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data[: int(min(left, len(data)))])
                await writer.drain()
                left -= len(data)
                if left < 0:
                    self.cuts += 1
                    break
        for each in (writer, back):
            if each.transport.get_write_buffer_size() == 0:
                each.transport.abort()
            else:
                each.close()


@pytest.mark.parametrize("seed", range(8))
async def test_cut_at_any_byte_everything_comes_once_and_in_order(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    budget: list[float] = [math.inf]  # of the first connection, both ways
    count = 80

    def bytes_until_cut() -> float:
        return budget[0] if budget[0] == math.inf else chance.randint(300, 1500)

    slow = Nodes(heartbeat=BEAT, missed=100)
    async with running(tmp_path, nodes=slow) as bridge, bridge.node(labels=UPDATES) as node:
        proxy = CuttingProxy(bridge.port, bytes_until_cut)
        async with proxy as url, extended(bridge, url=url) as client:
            await live(client, node)
            budget[0] = 0.0
            await client.drop()
            for number in range(count):
                await client.send("update", params={"n": number}, id=number)
                if number % 7 == 0 and client.code is not None:
                    await resumed(client)
            while sum(message["type"] == "updated" for message in client.inbox) < count:
                await client.until(lambda: client.code is not None or len(of(client, "updated")) == count, "the rest")
                if client.code is not None:
                    await resumed(client)
            budget[0] = math.inf
        assert node.updates == [{"n": number} for number in range(count)]
        assert of(client, "updated") == list(range(count))
        assert proxy.cuts >= 3


def of(client: ExtendedClient, type: str) -> list[Any]:
    """The ids of the messages of a type, in the order in which they came."""
    return [message.get("id") for message in client.inbox if message["type"] == type]


async def resumed(client: ExtendedClient) -> None:
    """Resume, however often that is cut as well."""
    for _ in range(100):
        with contextlib.suppress(OSError, EOFError, WebSocketException):
            answer = await client.resume()
            assert answer["type"] == "session_resume", answer
            return
    raise AssertionError("it cannot be resumed")
