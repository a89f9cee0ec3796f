"""Sessions over a running bridge: what time, lost sockets and lost nodes do to them."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.bridges import BEAT, STATIC, Running, running
from rtcbridge.config import Nodes, Sessions
from rtcbridge.drivers.ledger import KeyStore, open_store
from rtcbridge.testing import FakeClient, FakeNode, Message

LOST = "The node was lost."


def candidate(text: str) -> Message:
    return {"sdpMid": "0", "sdpMLineIndex": 0, "candidate": text}


async def only_session(node: FakeNode) -> str:
    return str(await node.until(lambda: next(iter(node.sessions), None), "a session"))


# --- a node that is away ---


async def test_a_silent_node_is_lost_and_its_client_is_served_again(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, bridge.client() as client:
        assert await client.start_session("first") == "answer to first"
        old = await only_session(node)
        node.beating = False
        await client.expect("error", message=LOST)
        await client.expect("node_status", status="full")  # a static pool can promise nothing
        assert await node.closed() == 1012
        node.beating = True
        await node.connect()
        assert (await node.expect("session_end"))["session"] == old  # it still listed it
        await client.expect("node_status", status="waiting")
        await client.send("offer", sdp="second")
        assert (await client.expect("answer"))["sdp"] == "answer to second"
        assert [message["type"] for message in client.inbox] == ["auth_success"]


async def test_what_is_relayed_to_a_node_that_is_away_is_held_in_order(tmp_path: Path) -> None:
    slow = Nodes(heartbeat=60.0)
    async with running(tmp_path, nodes=slow) as bridge, bridge.node(capacity=2) as node, bridge.client() as client:
        await client.start_session()
        session = await only_session(node)
        await node.drop()
        async with bridge.client() as other:
            await other.send("session_start")
            await other.expect("node_status", status="full")  # it gets no new session while it is away
            for number in range(5):
                await client.send("candidate", candidate=candidate(f"c{number}"))
            await client.send("offer", sdp="renegotiated")
            await client.send("candidate", candidate=candidate("c5"))
            await client.send("nonsense")
            await client.expect("error")  # so all before it has been taken
            await node.connect()
            await other.expect("node_status", status="waiting")
        await node.until(lambda: len(node.inbox) == 8, "what was held")
        held = [(m["type"], m.get("sdp") or m["candidate"]["candidate"]) for m in node.inbox]
        assert held[0] == ("offer", "an offer")
        assert held[1:] == [
            *(("candidate", f"c{number}") for number in range(5)),
            ("offer", "renegotiated"),
            ("candidate", "c5"),
        ]
        assert {message["session"] for message in node.inbox} == {session}
        assert node.epoch == 2


async def test_a_session_that_a_node_no_longer_lists_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, bridge.client() as client:
        await client.start_session()
        await node.drop()
        node.sessions.clear()
        node.connected.clear()
        await node.connect()
        await client.expect("error", message=LOST)
        await client.expect("node_status", status="waiting")


async def test_an_id_that_was_never_recorded_gets_session_end(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        node = bridge.node(capacity=3)
        node.sessions = {"no-such-session": "", "ein/anderer ☃": ""}
        async with node:
            ended = [(await node.expect("session_end"))["session"] for _ in range(2)]
            assert sorted(ended) == ["ein/anderer ☃", "no-such-session"]


async def test_a_newer_socket_replaces_the_older_and_takes_the_sessions(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as old, bridge.client() as client:
        await client.start_session()
        new = bridge.node()
        new.sessions = dict(old.sessions)
        async with new:
            assert await old.closed() == 1008
            assert new.epoch == old.epoch + 1
            await client.send("candidate", candidate=candidate("for the newer"))
            await new.expect("candidate", session=await only_session(new))
            await new.send("candidate", session=await only_session(new), candidate=candidate("to the client"))
            assert (await client.expect("candidate"))["candidate"]["candidate"] == "to the client"
        assert not any(message["type"] == "candidate" for message in old.inbox)


async def test_a_static_node_that_stays_away_is_forgotten(tmp_path: Path) -> None:
    pool = type(STATIC)(provider="static", lost_timeout=0.2)
    async with running(tmp_path, pools=(pool,)) as bridge, bridge.node() as node:
        await node.drop()
        async with asyncio.timeout(10):
            while bridge.server.bridge.nodes:  # noqa: ASYNC110 - nothing tells when a node is gone
                await asyncio.sleep(BEAT)
        await node.connect()
        assert node.epoch == 1


@pytest.mark.parametrize("wrong", [{"credential": "nk_default_x"}, {"pool": "other"}, {"node": "not an id"}])
async def test_a_node_with_a_wrong_key_pool_or_id_is_closed_without_a_word(tmp_path: Path, wrong: Message) -> None:
    async with running(tmp_path) as bridge:
        node = bridge.node()
        node.payload |= wrong
        with pytest.raises(ConnectionError, match="1008"):
            await node.connect()
        assert node.inbox == []
        async with bridge.client() as client:
            await client.send("session_start")
            await client.expect("node_status", status="full")


async def test_a_clients_key_registers_no_node(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        with pytest.raises(ConnectionError, match="1008"):
            await FakeNode(bridge.url, bridge.client_key).connect()


async def test_a_restarted_bridge_awaits_a_node_that_dials_late(tmp_path: Path) -> None:
    # The agent pauses up to five seconds between dials; the bridge allows for that, however fast the heartbeats.
    fast = Nodes(heartbeat=BEAT, missed=2)
    async with running(tmp_path, nodes=fast) as bridge:
        node, client = bridge.node(), bridge.client()
        await node.connect()
        await client.connect()
        await client.start_session()
    await client.close()
    await node.close()
    async with running(tmp_path, nodes=fast) as bridge:
        await asyncio.sleep(5 * BEAT)  # longer than a silent node is awaited
        node.url = f"{bridge.url}/node"
        async with node, bridge.client() as other:
            await other.send("session_start")
            await other.expect("node_status", status="full")
            assert len(node.sessions) == 1
            assert node.inbox[1:] == []  # the offer, and no session_end


# --- time ---


async def test_the_longest_session_ends_and_frees_its_slot(tmp_path: Path) -> None:
    times = Sessions(max_session=0.4)
    async with running(tmp_path, sessions=times) as bridge, bridge.node() as node, bridge.client() as first:
        await first.start_session()
        async with bridge.client() as second:
            await second.send("session_start")
            await second.expect("node_status", status="full")
            await first.expect("error", message="The session reached its maximum length.")
            await node.expect("session_end")
            await second.expect("node_status", status="waiting")


async def test_without_media_after_the_answer_the_session_ends(tmp_path: Path) -> None:
    times = Sessions(connect_timeout=0.3)
    async with (
        running(tmp_path, sessions=times) as bridge,
        bridge.node(behaviour="answer") as node,
        bridge.client() as client,
    ):
        await client.start_session()
        await client.expect("error", message="No media arrived in time after the answer.")
        await node.expect("session_end")
        assert await client.start_session("again") == "answer to again"  # on the same socket


@pytest.mark.parametrize("behaviour", ["silent", "refuse"])
async def test_an_offer_without_an_answer_goes_to_another_node_once(tmp_path: Path, behaviour: str) -> None:
    times = Sessions(answer_timeout=0.3)
    async with running(tmp_path, sessions=times) as bridge, bridge.node(node="a", behaviour=behaviour) as first:
        async with bridge.client() as client:
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
            async with bridge.node(node="b") as second:
                await client.send("offer", sdp="the offer")
                await client.send("candidate", candidate=candidate("c0"))
                assert (await client.expect("answer"))["sdp"] == "answer to the offer"
                await second.expect("candidate", session=await only_session(second))
                if behaviour == "silent":
                    await first.expect("session_end")
        async with bridge.node(node="b", behaviour=behaviour), bridge.client() as client:
            await client.send("offer", sdp="the offer")
            await client.expect("error", message="The node did not answer.")


async def test_a_reservation_that_is_not_used_goes_to_the_next_in_line(tmp_path: Path) -> None:
    times = Sessions(claim_timeout=0.3)
    async with running(tmp_path, sessions=times) as bridge, bridge.node(), bridge.client() as first:
        await first.send("session_start")
        await first.expect("node_status", status="waiting")
        async with bridge.client() as second:
            await second.send("session_start")
            await second.expect("node_status", status="full")
            await second.expect("node_status", status="waiting")
            await first.expect("node_status", status="full")
            await second.send("offer", sdp="mine")
            await second.expect("answer")


async def test_a_dropped_client_keeps_its_slot_while_its_media_is_up(tmp_path: Path) -> None:
    async with running(tmp_path, sessions=Sessions(resume_grace=0.5)) as bridge, bridge.node() as node:
        client = bridge.client()
        await client.connect()
        await client.start_session()
        session = await only_session(node)
        await client.drop()
        async with bridge.client() as next_one:
            await next_one.send("session_start")
            await next_one.expect("node_status", status="full")
            await asyncio.sleep(1.0)  # twice the grace: the heartbeats renew it
            assert node.sessions.keys() == {session}
            assert next_one.inbox == [{"type": "auth_success"}]
            node.connected.clear()
            await node.expect("session_end", session=session)
            await next_one.expect("node_status", status="waiting")


async def test_a_client_that_says_goodbye_frees_its_slot_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, bridge.client() as next_one:
        async with bridge.client() as client:
            await client.start_session()
            await next_one.send("session_start")
            await next_one.expect("node_status", status="full")
        await node.expect("session_end", reason="client left")
        await next_one.expect("node_status", status="waiting")


# --- others ---


async def test_a_client_that_does_not_read_is_closed_and_stalls_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, nodes=Nodes()) as bridge, bridge.node(capacity=2) as node, bridge.client() as other:
        await other.start_session("other")
        theirs = await only_session(node)
        async with _deaf_client(bridge) as deaf:
            await deaf.start_session("deaf")
            session = next(id for id in node.sessions if id != theirs)
            deaf.stop_reading()
            large = candidate("x" * 60_000)
            for number in range(300):
                await node.send("candidate", session=session, candidate=large)
                if number % 10 == 0:
                    await node.send("candidate", session=theirs, candidate=candidate(f"{number}"))
                    assert (await other.expect("candidate"))["candidate"]["candidate"] == f"{number}"
            deaf.go_on_reading()
            assert await deaf.closed() == 1013
            assert len(deaf.inbox) < 300
        await node.send("candidate", session=theirs, candidate=candidate("last"))
        await other.expect("candidate")
        assert session in node.sessions  # its media is up: it may be closed, its session is not


class _DeafClient(FakeClient):
    """A client that can stop reading, with little room in the kernel."""

    def stop_reading(self) -> None:
        assert self._socket is not None
        self._socket.transport.pause_reading()

    def go_on_reading(self) -> None:
        assert self._socket is not None
        self._socket.transport.resume_reading()


def _deaf_client(bridge: Running) -> _DeafClient:
    return _DeafClient(bridge.url, bridge.client_key)


async def test_a_revoked_key_closes_its_sockets_and_only_those(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        with open_store(f"sqlite:///{tmp_path}/bridge.db") as database:  # as another process does
            beside = KeyStore(database)
            doomed = FakeClient(bridge.url, beside.create_client_key("OTHER1"))
            async with bridge.node() as node, doomed, bridge.client() as other:
                await doomed.start_session()
                await other.expect("auth_success")
                rows = beside.keys()
                assert beside.revoke_key(next(row.id for row in rows if row.project == "OTHER1"))
                assert await doomed.closed() == 1008
                await node.expect("session_end")
                await other.send("session_start")
                await other.expect("node_status", status="waiting")
                assert beside.revoke_key(next(row.id for row in rows if row.is_node))
                assert await node.closed() == 1008
                with pytest.raises(ConnectionError):
                    await node.connect()
            async with FakeClient(bridge.url, doomed._credential) as again:
                assert await again.closed() == 1008
                assert again.inbox == []
            beside.close()


async def test_stopping_closes_with_1012(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, bridge.client() as client:
        await client.start_session()
        port = bridge.port
        await bridge.server.stop()
        assert await client.closed() == 1012
        assert await node.closed() == 1012
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        assert node.sessions  # nothing ended them
