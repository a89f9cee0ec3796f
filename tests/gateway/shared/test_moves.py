"""Clients of the extension that come back at another replica."""

import asyncio
from pathlib import Path

import pytest

from gateway.bridges import BEAT
from gateway.shared.replicas import Replica, Replicas, candidate, replicas, until
from rtcbridge.config import Sessions
from rtcbridge.testing import FakeNode, Message
from rtcbridge.testing.extended import ExtendedClient

UPDATES = {"updates": True}


async def live(client: ExtendedClient, node: FakeNode) -> str:
    """Bring the client's media up; return the session's id at the node."""
    await client.expect("auth_success")
    await client.start_session("first")
    return str(await node.until(lambda: next(iter(node.connected), None), "media"))


async def resumed(client: ExtendedClient, of: ExtendedClient) -> Message:
    """Resume another client's session at this one's replica; return the bridge's answer."""
    answer = await client.resume(of)
    assert answer["type"] == "session_resume", answer
    return answer


async def clean(*all: Replica) -> None:
    """Nothing is left of any session anywhere."""
    for replica in all:
        await until(lambda replica=replica: not replica.bridge.sessions and not len(replica.server.visits))
        (pool,) = replica.bridge.shared_pools()
        assert (pool.grants, pool.waiting_here, pool.on_node) == ({}, {}, {})
    view = await all[0].engine.store("default").look()
    assert (view.sessions, view.line, view.away) == ({}, [], [])


@pytest.mark.parametrize("place", ["old", "new", "third"])
@pytest.mark.parametrize("dropped", [True, False])
async def test_a_live_session_goes_on_at_another_replica(tmp_path: Path, place: str, dropped: bool) -> None:
    """Wherever its node is, and whether the old replica has seen the socket drop or not."""
    async with replicas(tmp_path, 3) as them:
        old, new, third = them.all
        there = {"old": old, "new": new, "third": third}[place]
        client = new.extended()
        async with there.node(labels=UPDATES) as node:
            before = old.extended()
            await before.connect()
            session = await live(before, node)
            if dropped:
                await before.drop()
                await until(lambda: old.server.visits.away)
                await node.send("candidate", session=session, candidate=candidate("meanwhile"))
            await before.send("update", params={"a": 1}, id=1)
            if not dropped:
                await before.expect("updated", id=1)
            answer = await resumed(client, before)
            assert answer["session"] == session
            assert "anew" not in answer
            if dropped:
                await client.expect("updated", id=1)
                assert (await client.expect("candidate"))["candidate"]["candidate"] == "meanwhile"
            else:
                assert await before.closed() == 1008
            for number in range(40):
                await node.send("candidate", session=session, candidate=candidate(f"to client {number}"))
                await client.send("candidate", candidate=candidate(f"to node {number}"))
            for number in range(40):
                assert (await client.expect("candidate"))["candidate"]["candidate"] == f"to client {number}"
                assert (await node.expect("candidate"))["candidate"]["candidate"] == f"to node {number}"
            await client.send("offer", sdp="restart of ICE")
            assert (await client.expect("answer", sdp="answer to restart of ICE"))["sdp"]
            await client.send("update", params={"a": 2}, id=2)
            await client.expect("updated", id=2)
            assert node.updates == [{"a": 1}, {"a": 2}]
            assert not [message for message in client.inbox if message["type"] in ("candidate", "updated")]
            await client.close()
            await node.expect("session_end", session=session)
            await clean(*them.all)


async def test_a_session_goes_on_wherever_its_client_is_and_back(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        one, other = them.all
        async with one.node(labels=UPDATES) as node:
            client = one.extended()
            await client.connect()
            session = await live(client, node)
            for number in range(6):
                replica = them.all[(number + 1) % 2]
                client, before = replica.extended(), client
                await before.drop()
                await node.send("candidate", session=session, candidate=candidate(f"{number}"))
                await resumed(client, before)
                assert (await client.expect("candidate"))["candidate"]["candidate"] == f"{number}"
                await client.send("update", params={"a": number}, id=number)
                await client.expect("updated", id=number)
            await client.close()
            await node.expect("session_end", session=session)
            await clean(one, other)


async def test_the_place_in_line_is_kept(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with new.node() as node, old.extended() as holder:
            await live(holder, node)
            first, second = old.extended(), old.extended()
            for client in (first, second):
                await client.connect()
                await client.send("session_start")
                await client.expect("node_status", status="full")
            await first.drop()
            await resumed(back, first)
            await back.expect("node_status", status="full", position=1)
            await holder.close()
            await back.expect("node_status", status="waiting")
            await back.send("offer", sdp="o")
            await back.expect("answer")
            await second.close()
            await back.close()
            await clean(old, new)


async def test_a_reservation_is_kept(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with old.node():
            client = old.extended()
            await client.connect()
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
            await client.drop()
            async with old.client() as other:
                await other.send("session_start")
                await other.expect("node_status", status="full")
                await resumed(back, client)
                await back.expect("node_status", status="waiting")
                await back.send("offer", sdp="o")
                await back.expect("answer")
            await back.close()
            await clean(old, new)


async def test_an_answer_that_comes_after_the_move_arrives(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as them:
        old, new, third = them.all
        back = new.extended()
        async with third.node(behaviour="silent") as node:
            client = old.extended()
            await client.connect()
            for message in ({"type": "session_start"}, {"type": "offer", "sdp": "o"}):
                await client.send(**message)
            session = str(await node.until(lambda: next(iter(node.sessions), None), "the offer"))
            await client.drop()
            await resumed(back, client)
            node.connected.add(session)
            await node.send("candidate", session=session, candidate=candidate("early"))
            await node.send("answer", session=session, sdp="a")
            assert (await back.expect("answer"))["sdp"] == "a"
            assert (await back.expect("candidate"))["candidate"]["candidate"] == "early"
            await back.send("candidate", candidate=candidate("c"))
            await node.expect("candidate", session=session)
            await back.close()
            await clean(old, new, third)


async def test_a_lost_node_is_told_and_the_place_is_the_first(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with old.extended() as other:
            client = old.extended()
            async with old.node() as node:
                await client.connect()
                await live(client, node)
                await other.send("session_start")
                await other.expect("node_status", status="full")
                await resumed(back, client)
                node.beating = False
                assert await node.closed() == 1012
            assert (await back.expect("error"))["code"] == "node_lost"
            await back.expect("node_status", status="full")
            async with new.node():
                await back.expect("node_status", status="waiting")
                await back.close()
                await other.close()
                await clean(old, new)


async def test_a_wrong_token_and_a_foreign_one_tell_nothing(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with old.node() as node:
            client = old.extended()
            await client.connect()
            await live(client, node)
            foreign = new.extended(them.keys.create_client_key("OTHER1"))
            told = await foreign.resume(client)
            assert told["code"] == "resume_unknown"
            for token in ("", ".", client.session, client.token[:-1] + ("a" if client.token[-1] != "a" else "b")):
                thief = new.extended()
                thief.session, thief.token = client.session, token
                assert await thief.resume() == told
                await thief.close()
            await foreign.close()
            await resumed(back, client)


async def test_a_visit_that_is_nowhere_is_unknown_at_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with old.node() as node:
            client = old.extended()
            await client.connect()
            await live(client, node)
            await client.close()
            await clean(old)
            assert (await back.resume(client))["code"] == "resume_unknown"
            await back.start_session()  # the socket is that of a new session


async def test_of_two_that_resume_at_once_one_has_the_session(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as them:
        old, one, other = them.all
        async with old.node(labels=UPDATES) as node:
            client = old.extended()
            await client.connect()
            session = await live(client, node)
            await client.drop()
            both = [one.extended(), other.extended()]
            answers = await asyncio.gather(*(each.resume(client) for each in both), return_exceptions=True)
            won = [isinstance(answer, dict) and answer["type"] == "session_resume" for answer in answers]
            assert any(won), answers
            await until(lambda: sum(len(replica.bridge.sessions) for replica in them.all) == 1)
            if all(won):
                await asyncio.wait([asyncio.create_task(each.closed()) for each in both], return_when="FIRST_COMPLETED")
                won = [each.code is None for each in both]
            winner, loser = both if won[0] else reversed(both)
            assert loser.code == 1008 or answers[both.index(loser)]["code"] == "resume_unknown"  # type: ignore[index]
            await winner.send("update", params={"a": 1}, id=1)
            await winner.expect("updated", id=1)
            await loser.close()
            await winner.close()
            await node.expect("session_end", session=session)
            await clean(*them.all)


# --- replicas that go ---


async def kill(them: Replicas, replica: Replica) -> None:
    """A replica dies, and a moment later its lease runs out."""
    replica.kill()
    await asyncio.sleep(BEAT)
    them.bury(replica)


async def test_a_live_session_outlives_its_replica(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as them:
        old, new, third = them.all
        back = new.extended()
        async with third.node(labels=UPDATES) as node:
            client = old.extended()
            await client.connect()
            session = await live(client, node)
            old.kill()
            await client.closed()
            await client.send("update", params={"a": 1}, id=1)
            coming = asyncio.create_task(back.resume(client))
            await asyncio.sleep(BEAT)
            them.bury(old)
            answer = await coming
            assert answer == {"type": "session_resume", "session": session, "received": 0, "anew": True}
            await back.expect("updated", id=1)
            await node.send("candidate", session=session, candidate=candidate("c"))
            await back.expect("candidate")
            await back.send("candidate", candidate=candidate("d"))
            await node.expect("candidate", session=session)
            await back.send("offer", sdp="restart of ICE")
            assert (await back.expect("answer"))["sdp"] == "answer to restart of ICE"
            assert list(node.sessions.values()) == ["restart of ICE"]
            await back.drop()  # and now as ever
            await back.send("update", params={"a": 2}, id=2)
            assert "anew" not in await back.resume()
            await back.expect("updated", id=2)
            await back.close()
            await node.expect("session_end", session=session)
            await clean(new, third)


async def test_the_second_session_of_a_client_outlives_its_replica_too(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with new.node(labels=UPDATES) as node:
            client = old.extended()
            await client.connect()
            first = await live(client, node)
            await client.send("session_end")
            await client.expect("session_end")
            await node.expect("session_end", session=first)
            await client.start_session("second")
            session = str(await node.until(lambda: next(iter(node.connected - {first}), None), "media"))
            await kill(them, old)
            await client.closed()
            assert (await resumed(back, client))["anew"]
            await node.send("candidate", session=session, candidate=candidate("c"))
            await back.expect("candidate")


async def test_who_waits_at_a_replica_that_dies_begins_anew(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = new.extended()
        async with new.node(), old.extended() as client:
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
            await kill(them, old)
            await client.closed()
            assert (await back.resume(client))["code"] == "resume_unknown"
            await back.start_session()


async def test_nobody_loses_anything_by_a_replica_that_stops(tmp_path: Path) -> None:
    brief = Sessions(connect_timeout=60.0)
    async with replicas(tmp_path, sessions=brief) as them:
        old, new = them.all
        async with new.node(labels=UPDATES) as node:
            clients = [old.extended() for _ in range(3)]
            for client in clients:
                await client.connect()
            session = await live(clients[0], node)
            for client in clients[1:]:
                await client.send("session_start")
                await client.expect("node_status", status="full")
            await old.stop()
            for client in clients:
                assert await client.closed() == 1012
                assert client.inbox[-1]["type"] == "reconnect"
            await node.send("candidate", session=session, candidate=candidate("meanwhile"))
            await clients[1].send("update", params={}, id=1)  # without a socket
            again = [new.extended() for _ in clients]
            for client, before in zip(again, clients, strict=True):
                assert "anew" not in await resumed(client, before)
            assert (await again[0].expect("candidate"))["candidate"]["candidate"] == "meanwhile"
            assert (await again[1].expect("error", id=1))["code"] == "no_node"
            await again[1].expect("node_status", status="full", position=1)
            await again[2].expect("node_status", status="full", position=2)
            await again[0].close()
            await again[1].expect("node_status", status="waiting")
            for client in again[1:]:
                await client.close()
            await clean(new)


async def test_a_replica_that_stops_alone_just_stops(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1) as them:
        client = them.all[0].extended()
        await client.connect()
        await client.send("session_start")
        await client.expect("node_status", status="full")
        await them.all[0].stop()
        assert await client.closed() == 1012


async def test_a_visit_is_taken_back_from_a_replica_that_died_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtcbridge.gateway.shared.moves._CHECK", 0.1)
    async with replicas(tmp_path) as them:
        old, new = them.all
        back = old.extended()
        client = old.extended()
        await client.connect()
        await client.send("session_start")
        await client.expect("node_status", status="full")
        new.bridge.of_visit = lambda origin, message: None  # it dies before it can do anything
        before = new.extended()
        asking = asyncio.create_task(before.resume(client))
        await until(lambda: len(old.server.visits) < 2 and not old.bridge.sessions)
        await kill(them, new)
        asking.cancel()
        await resumed(back, client)
        await back.expect("node_status", status="full", position=1)
