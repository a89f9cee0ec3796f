"""The bridge is killed with SIGKILL at one moment or another, and started again on the same store."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.command_pool import CommandPool, command_pool
from gateway.programs import Home, home, until
from rtcbridge.testing import FakeClient, FakeNode

pytestmark = pytest.mark.slow
T = TypeVar("T")

STATIC = """
[sessions]
resume_grace = 30.0
[nodes]
heartbeat = 0.2
[[pools]]
provider = "static"
"""


async def off_loop(call: Callable[..., T], *args: object) -> T:
    return await asyncio.to_thread(call, *args)


def state_of(pool: CommandPool, node: str) -> str:
    row = pool.home.nodes().get(node)
    return row.state if row else "gone"


async def in_state(pool: CommandPool, node: str, state: str) -> None:
    await off_loop(until, lambda: state_of(pool, node) == state, f"{node} {state}")


async def test_killed_while_a_node_is_created(tmp_path: Path) -> None:
    with command_pool(tmp_path, max_nodes=1) as pool:
        key = pool.home.client_key()
        pool.hold("create")
        bridge = pool.home.serve()
        client = FakeClient(pool.home.url, key)
        await client.connect()
        await client.send("session_start")
        await client.expect("node_status", status="pending")
        node = await off_loop(pool.called, "create")
        bridge.kill()
        assert await client.closed() == 1006

        bridge = pool.home.serve()
        assert list(pool.home.nodes()) == [node]
        async with FakeClient(pool.home.url, key) as again:
            await again.send("session_start")
            await again.expect("node_status", status="pending")
            pool.release("create")  # the command outlived the bridge, and now makes the machine
            await again.expect("node_status", status="waiting")
            await again.send("offer", sdp="one")
            await again.expect("answer")
        assert pool.calls() == [("create", node)]
        assert pool.running() == [node]


async def test_killed_while_a_session_runs(tmp_path: Path) -> None:
    with command_pool(tmp_path) as pool:
        bridge = pool.home.serve()
        client_key, third_key = pool.home.client_key(), pool.home.client_key("OTHER1")
        client = FakeClient(pool.home.url, client_key)
        await client.connect()
        await client.start_session()
        session = (await off_loop(until, pool.home.sessions, "the session is stored"))[0]
        node = session.node
        bridge.kill()
        before = pool.home.nodes()

        bridge = pool.home.serve()
        registered = await off_loop(lambda: bridge.event("node registered", node=node))
        assert registered["epoch"] == before[node].epoch + 1
        async with FakeClient(pool.home.url, client_key) as second, FakeClient(pool.home.url, third_key) as third:
            # The slot is still taken by the session that goes on: a second node is made for the next client.
            assert await second.start_session("two") == "answer to two"
            await third.send("session_start")
            await third.expect("node_status", status="full")
            await off_loop(until, lambda: len(_open(pool.home)) == 2, "both sessions are stored")
            holders = {row.id: row.node for row in pool.home.sessions()}
            assert holders[session.id] == node
            assert len(set(holders.values())) == 2
        assert pool.counts()["create"] == 2
        assert [verb for verb, made in pool.calls() if made == node] == ["create"]


async def test_killed_while_a_node_is_stopped_started_and_destroyed(tmp_path: Path) -> None:
    with command_pool(tmp_path, "idle_timeout = 0.3\nstopped_timeout = 1.0", max_nodes=1) as pool:
        key = pool.home.client_key()
        pool.hold("stop")
        bridge = pool.home.serve()
        async with FakeClient(pool.home.url, key) as client:
            await client.start_session()
        node = await off_loop(pool.called, "stop")
        bridge.kill()
        assert state_of(pool, node) == "stopping"

        pool.hold("start")
        bridge = pool.home.serve()
        await off_loop(pool.called, "stop", 2)  # a stop may be asked for again: it does no harm
        async with FakeClient(pool.home.url, key) as client:
            await client.send("session_start")
            pool.release("stop")
            await off_loop(pool.called, "start")
            bridge.kill()
        assert state_of(pool, node) == "starting"

        bridge = pool.home.serve()
        async with FakeClient(pool.home.url, key) as client:
            await client.send("session_start")
            pool.release("start")
            await client.expect("node_status", status="waiting")
            pool.hold("destroy")
        await off_loop(pool.called, "destroy")
        bridge.kill()
        assert state_of(pool, node) == "terminating"

        pool.release("destroy")
        pool.home.serve()
        await in_state(pool, node, "gone")
        assert pool.counts()["create"] == 1
        assert {made for _, made in pool.calls()} == {node}


async def test_killed_while_a_node_is_stopped_it_is_started_and_not_made_anew(tmp_path: Path) -> None:
    with command_pool(tmp_path, "idle_timeout = 0.3") as pool:
        key = pool.home.client_key()
        bridge = pool.home.serve()
        async with FakeClient(pool.home.url, key) as client:
            await client.start_session()
        node = await off_loop(pool.called, "create")
        await in_state(pool, node, "stopped")
        bridge.kill()
        pool.home.serve()
        async with FakeClient(pool.home.url, key) as client:
            await client.start_session()
        assert pool.calls()[:3] == [("create", node), ("stop", node), ("start", node)]


async def test_what_ended_while_the_bridge_was_away_is_ended(tmp_path: Path) -> None:
    with home(tmp_path, STATIC) as place:
        bridge = place.serve()
        key, node_key = place.client_key(), place.node_key()
        node = FakeNode(place.url, node_key, capacity=3)
        await node.connect()
        clients = [FakeClient(place.url, key) for _ in range(3)]
        for number, client in enumerate(clients):
            await client.connect()
            await client.start_session(f"{number}")
        kept, lost, ended = sorted(node.sessions, key=node.sessions.__getitem__)
        await clients[2].close()
        await node.expect("session_end", session=ended)
        await off_loop(until, lambda: _open(place) == {kept, lost}, "the end is stored")
        bridge.kill()
        await node.closed()

        node.sessions = {kept: "", ended: "", "never-seen": ""}
        node.connected = {kept}
        bridge = place.serve()
        await node.connect()
        assert node.epoch == 2
        gone = {(await node.expect("session_end"))["session"] for _ in range(2)}
        assert gone == {ended, "never-seen"}
        await off_loop(until, lambda: _open(place) == {kept}, "the lost session is ended")
        async with FakeClient(place.url, key) as client:  # two of three slots are free
            await client.start_session("new")
        assert bridge.end() == 0
        await node.close()


def _open(place: Home) -> set[str]:
    return {row.id for row in place.sessions() if row.ended is None}


async def test_keys_made_and_revoked_before_a_kill_stay_so(tmp_path: Path) -> None:
    with home(tmp_path, STATIC) as place:
        bridge = place.serve()
        good, bad = place.client_key("GOOD01"), place.client_key("BAD001")
        with place.keys() as keys:
            rows = keys.keys()
            assert keys.revoke_key(next(row.id for row in rows if row.project == "BAD001"))
        bridge.kill()
        place.serve()
        async with FakeClient(place.url, good) as one, FakeClient(place.url, bad) as other:
            await one.expect("auth_success")
            assert await other.closed() == 1008


async def test_killed_again_and_again_no_node_is_forgotten_or_made_twice(tmp_path: Path) -> None:
    # A bridge that was killed between storing its intent and the command cannot know whether the command ran. It
    # then waits for the node as long as a creation may take, and makes another one after that.
    with command_pool(tmp_path, "min_ready = 2\nprovision_timeout = 3.0\nfailed_timeout = 0.2") as pool:
        for delay in (0.0, 0.005, 0.02, 0.1):
            bridge = pool.home.serve()
            await asyncio.sleep(delay)
            bridge.kill()
        bridge = pool.home.serve()
        await off_loop(bridge.event, "node registered")
        bridge.kill()
        pool.home.serve()

        def settled() -> bool:
            nodes = pool.home.nodes()
            return len(nodes) == 2 and all(row.state == "ready" for row in nodes.values())

        await off_loop(until, settled, "two nodes are ready")
        assert sorted(pool.home.nodes()) == pool.running()
        created = Counter(node for verb, node in pool.calls() if verb == "create")
        assert set(created.values()) == {1}
        assert (
            created.keys() - pool.home.nodes().keys() == {n for v, n in pool.calls() if v == "destroy"} & created.keys()
        )
