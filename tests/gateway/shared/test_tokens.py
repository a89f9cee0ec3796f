"""Client tokens and keys with restrictions where two bridges share their pools."""

from pathlib import Path
from typing import Any

import httpx

from gateway.shared.replicas import Replica, replicas, until
from rtcbridge.ports import KeyLimits
from rtcbridge.testing import FakeClient
from rtcbridge.testing.extended import ExtendedClient


async def token(replica: Replica, key: str = "", **asked: Any) -> str:
    headers = {"authorization": f"Bearer {key or replica.client_key}"}
    url = replica.url.replace("ws", "http", 1)
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        answer = await client.post("/v1/tokens", json=asked)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


async def test_a_token_of_one_bridge_opens_sessions_at_the_other(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        shown = await token(a)
        async with b.node(), FakeClient(b.url, shown) as client:
            assert await client.start_session() == "answer to an offer"


async def test_sessions_of_a_token_are_counted_over_both_bridges(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        shown = await token(a, max_sessions=1)
        async with a.node(capacity=4), a.extended(shown) as first, b.extended(shown) as second:
            await first.start_session()
            await second.send("session_start")
            assert (await second.expect("error"))["code"] == "session_limit"
            await second.expect("session_end", reason="session_limit")
            async with FakeClient(b.url, shown) as plain:
                await plain.send("offer", sdp="an offer")
                await plain.send("candidate", candidate={"candidate": "", "sdpMid": "0"})
                assert (await plain.expect("error"))["message"] == "The credential has as many sessions as it may have."
                assert plain.inbox == [{"type": "auth_success"}]
            await first.send("session_end")
            await first.expect("session_end")
            await until(lambda: not two.hub.members.groups)
            await second.start_session()


async def test_all_that_a_client_says_at_once_is_done_in_order(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        shown = await token(a, max_sessions=3)
        async with b.node(capacity=4):
            for client in (a.extended(shown), FakeClient(a.url, shown)):
                async with client:
                    await client.send("session_start")
                    await client.send("offer", sdp="an offer")
                    for number in range(3):
                        await client.send("candidate", candidate={"candidate": f"c{number}", "sdpMid": "0"})
                    await client.expect("answer")
        await until(lambda: not two.hub.members.groups)


async def test_a_key_has_so_many_sessions_on_both_bridges_together(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        key = two.keys.create_client_key("TEST01", limits=KeyLimits(sessions=1, connections=1))
        async with b.node(capacity=4), FakeClient(a.url, key) as first, FakeClient(b.url, key) as second:
            await first.start_session()
            await second.expect("auth_success")  # sockets are counted by each bridge for itself
            await second.send("session_start")
            assert "as many sessions" in (await second.expect("error"))["message"]


async def test_messages_that_wait_for_the_engine_are_counted_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        key = two.keys.create_client_key("TEST01", limits=KeyLimits(sessions=5, messages=6))
        async with b.node(capacity=4), FakeClient(a.url, key) as client:
            await client.send("session_start")
            await client.send("offer", sdp="an offer")
            for number in range(4):
                await client.send("candidate", candidate={"candidate": f"c{number}", "sdpMid": "0"})
            await client.expect("answer")
            assert [message for message in client.inbox if message["type"] == "error"] == []


async def test_a_session_that_goes_on_at_the_other_bridge_keeps_its_bounds(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        shown = await token(a, max_sessions=1, max_session=1000)
        async with a.node(capacity=4):
            client = a.extended(shown)
            await client.connect()
            await client.start_session()
            await client.drop()
            moved = b.extended(await token(b))
            assert (await moved.resume(client))["type"] == "session_resume"
            (entry,) = b.bridge.sessions.values()
            assert entry.bounds is not None
            assert entry.bounds.max_session == 1000
            assert 0 < entry.session.expires - b.bridge.clock() <= 1000
            async with ExtendedClient(a.url, shown) as another:
                await another.send("session_start")
                assert (await another.expect("error"))["code"] == "session_limit"
                await moved.send("session_end")
                await moved.expect("session_end")
                await until(lambda: not two.hub.members.groups)
                await another.send("session_start")
                await another.expect("node_status", status="waiting")
            await moved.close()


async def test_a_session_that_is_taken_over_from_a_dead_bridge_keeps_its_bounds(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, b = two.all
        shown = await token(a, max_sessions=1, max_session=1000)
        async with b.node(capacity=4) as node:
            client = FakeClient(a.url, shown)
            await client.connect()
            await client.start_session()
            (session,) = node.sessions
            await until(lambda: session in {row.id for row in a.bridge.ledger.open_sessions()})
            a.kill()
            two.bury(a)
            two.hub.members.bury(a.engine.replica)
            await until(lambda: session in b.bridge.sessions)
            entry = b.bridge.sessions[session]
            assert entry.bounds is not None
            assert entry.session.expires - b.bridge.clock() <= 1000
            await until(lambda: two.hub.members.groups)
            async with b.extended(shown) as another:
                await another.send("session_start")
                assert (await another.expect("error"))["code"] == "session_limit"
            await client.drop()


async def test_who_leaves_while_the_engine_is_asked_leaves_nothing_behind(tmp_path: Path) -> None:
    async with replicas(tmp_path) as two:
        a, _ = two.all
        shown = await token(a, max_sessions=1)
        for _ in range(5):
            client = FakeClient(a.url, shown)
            await client.connect()
            await client.send("session_start")
            await client.close()
        await until(lambda: not a.bridge.sessions and not two.hub.members.groups)
