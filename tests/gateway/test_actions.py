"""Draining, stopping, starting and destroying nodes on request; each survives the bridge."""

from pathlib import Path
from typing import Any

import pytest

from gateway.bridges import running
from gateway.cloud import FakeCloud, agent, bridge_on, gone, looked, nodes, one, states, stored, until
from rtcbridge.core.node import NodeState, Order
from rtcbridge.gateway.actions import ActionError
from rtcbridge.ports import LedgerError, Machine, NodeRow


def row(state: str, **fields: Any) -> NodeRow:
    given = {"id": "n", "pool": "default", "managed": True, "state": state, "capacity": 1, "since": 4e9}
    return NodeRow(**given | fields)


async def test_a_drained_node_keeps_its_sessions_and_stays_out_of_service_until_it_is_started(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        actions, id = bridge.server.actions, await one(bridge, "booting")
        async with agent(bridge, id) as node, bridge.client() as client, bridge.client() as second:
            await client.start_session()
            await actions.drain_node(id)
            await actions.drain_node(id)  # again, and nothing changes
            assert (stored(bridge)[id].state, stored(bridge)[id].ordered) == ("draining", "stop")
            await node.expect("drain")
            assert node.sessions
            await second.send("session_start")
            await second.expect("node_status", status="full")  # max_nodes is 1, and nobody starts it but by request
            await client.close()
            await one(bridge, "stopped")
            await looked(cloud)
            assert states(bridge) == ["stopped"], "though min_ready is 1, and a client waits"
            await actions.start_node(id)
            await second.expect("node_status", status="pending")
            assert stored(bridge)[id].ordered == ""
            await one(bridge, "booting")


async def test_a_drain_survives_the_bridge(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud) as bridge:
        client = bridge.client()
        await client.connect()
        await client.send("session_start")
        id = await one(bridge, "booting")
        node = agent(bridge, id)
        await node.connect()
        await client.expect("node_status", status="waiting")
        await client.send("offer", sdp="o")
        await client.expect("answer")
        await bridge.server.actions.drain_node(id)
        await node.expect("drain")
        await node.drop()
    assert await client.closed() == 1012
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        assert nodes(bridge)[id].state is NodeState.DRAINING
        url, token = f"{bridge.url}/node", bridge.server.bridge.auth.node_token(id)
        node.url, node.payload["credential"] = url, token
        node.connected = set(node.sessions)
        await node.connect()
        await node.expect("drain")
        (session,) = node.sessions
        await node.send("session_state", session=session, state="closed")
        await one(bridge, "stopped")
        await looked(cloud)
        assert states(bridge) == ["stopped"]
        await node.close()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        await looked(cloud)
        assert states(bridge) == ["stopped"], "still"


async def test_a_node_of_a_static_pool_is_drained_and_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, bridge.client() as client:
        await client.start_session()
        await bridge.server.actions.drain_node("node-1")
        await node.expect("drain")
        await client.close()
        await gone(bridge)
        await node.closed()
        await until(lambda: not stored(bridge), "it is forgotten")


async def test_stopping_ends_the_sessions(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge, bridge.client() as client:
        id = await one(bridge, "booting")
        async with agent(bridge, id):
            await client.start_session()
            await bridge.server.actions.stop_node(id)
            await client.expect("error", message="The node was lost.")
            await client.expect("node_status", status="full")
            await one(bridge, "stopped")
        await bridge.server.actions.stop_node(id)
        assert cloud.machines == {id: Machine.STOPPED}


async def test_a_node_that_the_pool_stopped_can_be_kept_so(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.machines["n"] = Machine.STOPPED
    async with bridge_on(tmp_path, FakeCloud()) as bridge:
        await bridge.server.bridge.ledger.save_node(row("stopped"))
    async with bridge_on(tmp_path, cloud) as bridge, bridge.client() as client:
        await bridge.server.actions.stop_node("n")
        await client.send("session_start")
        await client.expect("node_status", status="full")
        assert cloud.calls == []


async def test_a_machine_that_was_stopped_on_request_and_is_started_by_somebody_else_is_stopped_again(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    cloud.machines["n"] = Machine.RUNNING
    async with bridge_on(tmp_path, FakeCloud()) as bridge:
        await bridge.server.bridge.ledger.save_node(row("stopped", ordered="stop"))
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        await until(lambda: cloud.machines == {"n": Machine.STOPPED}, "it is stopped")
        await one(bridge, "stopped")


async def test_destroying_is_at_once_and_for_good(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud) as bridge, bridge.client() as client:
        await client.send("session_start")
        id = await one(bridge, "booting")
        async with agent(bridge, id):
            await client.expect("node_status", status="waiting")
            await client.send("offer", sdp="o")
            await client.expect("answer")
            cloud.faults["destroy"] = ["wait"]
            await bridge.server.actions.destroy_node(id)
            await bridge.server.actions.destroy_node(id)
            assert stored(bridge)[id].state == "terminating"
            await client.expect("error", message="The node was lost.")
            cloud.released.set()
            await until(lambda: id not in nodes(bridge), "it is gone")
            await client.expect("node_status", status="pending")  # another one is made
        assert ("destroy", id) in cloud.calls


REFUSALS = [
    ("drain_node", "booting", "node n is booting: only one that is ready can be drained"),
    ("drain_node", "stopped", "node n is stopped: only one that is ready can be drained"),
    ("stop_node", "failed", "node n is failed: it cannot be stopped, but it can be destroyed"),
    ("stop_node", "terminating", "node n is terminating: it cannot be stopped, but it can be destroyed"),
    ("start_node", "ready", "node n is ready: only one that is stopped can be started"),
    ("start_node", "stopping", "node n is stopping: only one that is stopped can be started"),
]


@pytest.mark.parametrize(("action", "state", "text"), REFUSALS)
async def test_what_the_state_does_not_allow_is_refused_in_one_line(
    tmp_path: Path, action: str, state: str, text: str
) -> None:
    cloud = FakeCloud()
    cloud.listing = False
    cloud.faults |= {verb: ["wait"] for verb in ("stop", "destroy")}
    async with bridge_on(tmp_path, cloud) as bridge:
        await bridge.server.bridge.ledger.save_node(row(state))
    async with bridge_on(tmp_path, cloud) as bridge:
        with pytest.raises(ActionError, match=rf"^{text}$") as caught:
            await getattr(bridge.server.actions, action)("n")
        assert caught.value.found
        assert nodes(bridge)["n"].order is Order.NONE


async def test_nodes_that_are_not_there_or_not_ours(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node():
        actions = bridge.server.actions
        for action in (actions.drain_node, actions.stop_node, actions.start_node, actions.destroy_node):
            with pytest.raises(ActionError, match=r"^there is no node x$") as caught:
                await action("x")
            assert not caught.value.found
        for action in (actions.stop_node, actions.start_node, actions.destroy_node):
            with pytest.raises(ActionError, match=r"^node node-1 was started by hand: "):
                await action("node-1")


async def test_nothing_is_started_while_the_provider_keeps_failing(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.machines["n"] = Machine.STOPPED
    cloud.faults["create"] = ["refuse"]
    async with bridge_on(tmp_path, FakeCloud()) as bridge:
        await bridge.server.bridge.ledger.save_node(row("stopped", ordered="stop"))
    times = {"max_nodes": 2, "breaker_failures": 1, "breaker_pause": 600.0, "breaker_max_pause": 600.0}
    async with bridge_on(tmp_path, cloud, min_ready=1, **times) as bridge:
        await until(lambda: bridge.server.actions.pause("default"), "the pause")
        expected = r"^node n: the provider keeps failing, and it is tried again in \d+ s: create: not today$"
        with pytest.raises(ActionError, match=expected):
            await bridge.server.actions.start_node("n")
        await bridge.server.actions.destroy_node("n")
        await until(lambda: "n" not in nodes(bridge), "it is destroyed all the same")


async def test_an_order_that_cannot_be_stored_is_said_to_be_at_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bridge_on(tmp_path, FakeCloud(), min_ready=1) as bridge:
        id = await one(bridge, "booting")

        async def fail(node: object) -> None:
            raise LedgerError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(bridge.server.bridge, "save", fail)
            with pytest.raises(ActionError, match=r"may be forgotten at a restart: the disk is full$"):
                await bridge.server.actions.destroy_node(id)
        await until(lambda: id not in nodes(bridge), "it is done once the disk has room")
