"""The admin API of each of several bridges shows, and does, the same."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from gateway.shared.replicas import Replica, Replicas, replicas
from rtcbridge.config import CommandOptions, Nodes, Pool
from rtcbridge.testing import FakeClient, FakeNode


def admin(replica: Replica, key: str) -> httpx.AsyncClient:
    url = replica.url.replace("ws:", "http:")
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=f"{url}/v1/admin", headers=headers, trust_env=False, timeout=15.0)


async def get(replica: Replica, key: str, path: str) -> Any:
    async with admin(replica, key) as api:
        answer = await api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def post(replica: Replica, key: str, path: str) -> httpx.Response:
    async with admin(replica, key) as api:
        return await api.post(path)


def leader_and_other(running: Replicas) -> tuple[Replica, Replica]:
    leads, other = running.all
    assert leads.bridge.leaders.get("default") == leads.bridge.me
    return leads, other


async def serve(client: FakeClient, node: FakeNode) -> str:
    """Bring a session to its media; return its id."""
    await client.send("session_start")
    await client.expect("node_status", status="waiting")
    await client.send("offer", sdp="offer")
    session = (await node.expect("offer"))["session"]
    await node.send("answer", session=session, sdp="answer")
    await client.expect("answer")
    await node.send("session_state", session=session, state="connected")
    return str(session)


async def until(condition: Callable[[], bool]) -> None:
    """Settings have no event that could be awaited."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_each_bridge_shows_the_nodes_and_sessions_of_all(tmp_path: Path) -> None:
    async with replicas(tmp_path, nodes=Nodes()) as running:
        leads, other = leader_and_other(running)
        key = running.keys.create_admin_key()
        async with other.node(node="n1", capacity=2) as node, leads.client() as first, other.client() as second:
            sessions = {await serve(first, node), await serve(second, node)}
            for replica in running.all:
                items = (await get(replica, key, "/sessions"))["items"]
                assert {each["id"] for each in items} == sessions
                assert {each["node"] for each in items} == {"n1"}
                [shown] = (await get(replica, key, "/nodes"))["items"]
                assert (shown["id"], shown["state"], shown["sessions"], shown["linked"]) == ("n1", "ready", 2, True)
                [pool] = (await get(replica, key, "/pools"))["items"]
                assert (pool["sessions"], pool["free"], pool["nodes"]) == (2, 0, {"ready": 1})
                for session in sessions:
                    assert (await get(replica, key, f"/sessions/{session}"))["project"] == "TEST01"


async def test_what_an_operator_does_reaches_the_bridge_that_it_concerns(tmp_path: Path) -> None:
    async with replicas(tmp_path, nodes=Nodes()) as running:
        leads, other = leader_and_other(running)
        key = running.keys.create_admin_key()
        async with leads.node(node="n1", capacity=2) as node, leads.client() as first, other.client() as second:
            mine, theirs = await serve(first, node), await serve(second, node)
            answer = await post(leads, key, f"/sessions/{theirs}/end")
            assert (answer.status_code, answer.json()["state"]) == (200, "ended")
            await second.expect("error", message="The session was ended by the operator.")
            await node.expect("session_end", session=theirs)
            answer = await post(other, key, "/nodes/n1/drain")
            assert answer.status_code == 200, answer.text
            await node.expect("drain")
            answer = await post(other, key, "/nodes/n1/destroy")
            assert answer.status_code == 409
            assert "was started by hand" in answer.json()["error"]
            assert (await post(other, key, "/nodes/n2/drain")).status_code == 404
            assert (await post(other, key, f"/sessions/{theirs}/end")).status_code == 404
            assert (await post(other, key, f"/sessions/{mine}/end")).status_code == 200
            await first.expect("error", message="The session was ended by the operator.")


async def test_settings_that_are_changed_at_one_bridge_reach_the_others(tmp_path: Path) -> None:
    commands = CommandOptions(create="true", start="true", stop="true", destroy="true")
    pool = Pool(provider="command", command=commands)
    async with replicas(tmp_path, nodes=Nodes(), pools=(pool,)) as running:
        leads, other = leader_and_other(running)
        key = running.keys.create_admin_key()
        async with admin(other, key) as api:
            answer = await api.patch("/pools/default", json={"idle_timeout": 77})
            assert answer.status_code == 200, answer.text
        await until(lambda: leads.bridge.pools["default"].spec.idle_timeout == 77)
        async with admin(leads, key) as api:
            assert (await api.patch("/pools/default", json={"idle_timeout": None})).status_code == 200
        await until(lambda: other.bridge.pools["default"].spec.idle_timeout != 77)
