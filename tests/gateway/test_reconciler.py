"""Lost answers, lies, and clouds that act by themselves: whatever happens between two steps, the end is the same."""

from pathlib import Path
from typing import Any

import pytest

from gateway.bridges import Running
from gateway.cloud import FakeCloud, agent, bridge_on, gone, looked, nodes, one, states, stored, until
from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.node import Order
from rtcbridge.ports import Machine, NodeRow

pytestmark = pytest.mark.slow
FULL = "Maximum pool size reached. Cannot assign a new node."


# --- answers that are lost, doubled or late ---


@pytest.mark.parametrize("fault", ["lose", "hang"])
async def test_a_creation_whose_answer_is_lost_is_used_when_it_dials_in(tmp_path: Path, fault: str) -> None:
    cloud = FakeCloud()
    cloud.faults["create"] = [fault]
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        id = await one(bridge, "failed" if fault == "lose" else "booting")  # the list says that it is there
        await looked(cloud)
        async with agent(bridge, id):
            await one(bridge, "ready")
            assert cloud.calls == [("create", id)]


async def test_a_creation_whose_answer_is_lost_leaks_nothing_if_it_never_dials_in(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.faults["create"] = ["hang"]
    cloud.listing = False
    async with bridge_on(tmp_path, cloud, provision_timeout=0.2, failed_timeout=0.1) as bridge:
        async with bridge.client() as client:
            await client.send("offer", sdp="o")
            await client.expect("error", message=FULL)
        await gone(bridge)
        assert [verb for verb, _ in cloud.calls] == ["create", "destroy"]
        assert cloud.machines == {}
        await until(lambda: not stored(bridge), "it is forgotten")


@pytest.mark.parametrize("fault", ["lose", "hang"])
async def test_a_start_whose_answer_is_lost(tmp_path: Path, fault: str) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud) as bridge:
        id = await a_stopped_node(bridge, cloud)
        cloud.faults["start"] = [fault]
        async with bridge.client() as client:
            await client.send("session_start")
            await one(bridge, "failed" if fault == "lose" else "booting")
            async with agent(bridge, id):
                await client.expect("node_status", status="waiting")
                assert cloud.count("start") == cloud.count("create") == 1


async def a_stopped_node(bridge: Running, cloud: FakeCloud) -> str:
    async with bridge.client() as client:
        await client.send("session_start")
        id = await one(bridge, "booting")
        async with agent(bridge, id):
            await one(bridge, "ready")
            await client.expect("node_status", status="waiting")
            await client.close()
            await until(lambda: not nodes(bridge)[id].sessions, "the session ends")
            await bridge.server.actions.stop_node(id)
            await one(bridge, "stopped")
    nodes(bridge)[id].order = Order.NONE  # as if the policy had stopped it
    cloud.calls.remove(("stop", id))
    return id


@pytest.mark.parametrize("fault", ["lose", "hang"])
async def test_a_stop_whose_answer_is_lost_is_seen_in_the_list_or_repeated(tmp_path: Path, fault: str) -> None:
    cloud = FakeCloud()
    cloud.faults["stop"] = [fault]
    async with bridge_on(tmp_path, cloud, min_ready=1, stop_timeout=0.3) as bridge:
        id = await one(bridge, "booting")
        async with agent(bridge, id):
            await one(bridge, "ready")
            await bridge.server.actions.stop_node(id)
            await one(bridge, "stopped")
        assert cloud.machines == {id: Machine.STOPPED}
        assert cloud.under_way == 1


@pytest.mark.parametrize("fault", ["lose", "hang"])
async def test_a_destruction_whose_answer_is_lost_is_seen_in_the_list(tmp_path: Path, fault: str) -> None:
    cloud = FakeCloud()
    cloud.faults["destroy"] = [fault]
    async with bridge_on(tmp_path, cloud, destroy_timeout=0.3) as bridge:
        async with bridge.client() as client:
            await client.send("session_start")
            id = await one(bridge, "booting")
        await bridge.server.actions.destroy_node(id)
        await gone(bridge)
        assert cloud.calls == [("create", id), ("destroy", id)]


async def test_an_answer_that_comes_after_the_deadline_changes_nothing(tmp_path: Path) -> None:
    """The state's deadline is over before the call's, for the bridge was started anew in between."""
    cloud = FakeCloud()
    cloud.faults["create"] = ["wait"]
    async with bridge_on(tmp_path, cloud, min_ready=1, provision_timeout=30.0) as bridge:
        id = await one(bridge, "provisioning")
        await until(lambda: cloud.calls, "it is asked for")
        nodes(bridge)[id].deadline = bridge.server.bridge.clock()
        bridge.server.bridge.pools["default"]._tally.note(nodes(bridge)[id])
        bridge.server.bridge.changed(bridge.server.bridge.pools["default"])
        await one(bridge, "failed")
        cloud.released.set()
        await until(lambda: id in cloud.machines, "it is made")
        await looked(cloud)
        assert states(bridge) == ["failed"]
        async with agent(bridge, id):
            await one(bridge, "ready")


async def test_one_operation_a_node_also_when_it_is_destroyed_while_it_is_made(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.faults["create"] = ["wait"]
    async with bridge_on(tmp_path, cloud) as bridge:
        async with bridge.client() as client:
            await client.send("session_start")
            id = await one(bridge, "provisioning")
            await until(lambda: cloud.calls, "it is asked for")
        await bridge.server.actions.destroy_node(id)
        await gone(bridge)
        assert cloud.calls == [("create", id), ("destroy", id)]
        assert (cloud.under_way, cloud.machines) == (1, {})


# --- a bridge that was killed ---


def row(id: str, state: str, **fields: Any) -> NodeRow:
    given = {"id": id, "pool": "default", "managed": True, "state": state, "capacity": 1, "since": 1.0}
    return NodeRow(**given | fields)


@pytest.mark.parametrize("machine", [None, *Machine])
@pytest.mark.parametrize("state", ["provisioning", "starting", "stopping", "terminating"])
async def test_killed_between_the_intent_and_the_call_or_between_the_call_and_its_answer(
    tmp_path: Path, state: str, machine: Machine | None
) -> None:
    """What was stored is the intent; what has become of it, any of these. It ends as it should have."""
    async with bridge_on(tmp_path, FakeCloud(), min_ready=0) as bridge:
        await bridge.server.bridge.ledger.save_node(row("n", state))
    cloud = FakeCloud()
    if machine is not None:
        cloud.machines["n"] = machine
    async with bridge_on(tmp_path, cloud, min_ready=int(state in ("provisioning", "starting"))) as bridge:
        if state == "starting" and machine is None:
            assert await one(bridge, "failed") == "n"  # there is nothing to be started
        elif state in ("provisioning", "starting"):
            if machine is Machine.LEAVING:  # it was used for as long as it lasted, and another one is made
                await until(lambda: any(id != "n" for id in nodes(bridge)), "another node")
                return
            assert await one(bridge, "booting") == "n"
            assert cloud.machines == {"n": Machine.RUNNING} or machine is Machine.COMING
            async with agent(bridge, "n"):
                await one(bridge, "ready")
        elif state == "stopping" and machine is not None:
            assert await one(bridge, "stopped") == "n"
            assert cloud.machines == {"n": Machine.STOPPED}
        else:
            await gone(bridge)
            assert cloud.machines == {}
        assert cloud.under_way <= 1


async def test_a_machine_of_ours_that_no_node_stands_for_is_destroyed_and_no_other(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        id = await one(bridge, "booting")
        await bridge.server.bridge.ledger.delete_node(id)
        orphan = id[:-1] + ("0" if id[-1] != "0" else "1")
        cloud.machines |= dict.fromkeys([orphan, "default-x", "somebody-else"], Machine.RUNNING)
        await until(lambda: orphan not in cloud.machines, "the orphan is destroyed")
        await looked(cloud)
        assert set(cloud.machines) == {id, "default-x", "somebody-else"}
        await until(lambda: set(nodes(bridge)) == {id}, "it is forgotten")


# --- behind our back ---


async def test_a_list_alone_never_ends_a_node_whose_agent_speaks(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        id = await one(bridge, "booting")
        async with agent(bridge, id), bridge.client() as client:
            await client.start_session()
            for lie in (None, Machine.STOPPED):
                cloud.machines.pop(id, None)
                if lie:
                    cloud.machines[id] = lie
                await looked(cloud)
            assert states(bridge) == ["ready"]
            assert cloud.calls == [("create", id)]
            assert not any(message["type"] == "error" for message in client.inbox)


async def test_no_word_of_the_cloud_makes_a_node_ready(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, min_ready=1) as bridge:
        id = await one(bridge, "booting")
        for word in (Machine.COMING, Machine.RUNNING):
            cloud.machines[id] = word
            await looked(cloud)
            assert states(bridge) == ["booting"]


async def test_a_machine_that_the_cloud_stops_is_started_again_for_the_next_client(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud) as bridge, bridge.client() as client:
        await client.send("session_start")
        id = await one(bridge, "booting")
        node = agent(bridge, id)
        await node.connect()
        await client.expect("node_status", status="waiting")
        await client.send("offer", sdp="o")
        await client.expect("answer")
        cloud.machines[id] = Machine.STOPPED
        await node.drop()
        await client.expect("error", message="The node was lost.")
        await client.expect("node_status", status="pending")
        await until(lambda: ("start", id) in cloud.calls, "it is started again")
        async with agent(bridge, id):
            await client.expect("node_status", status="waiting")
        assert cloud.count("create") == 1


async def test_a_machine_that_the_cloud_is_stopping_gets_no_new_session(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, max_nodes=2) as bridge, bridge.client() as client:
        await client.send("session_start")
        id = await one(bridge, "booting")
        async with agent(bridge, id) as node:
            await client.expect("node_status", status="waiting")
            await client.send("offer", sdp="o")
            await client.expect("answer")
            cloud.machines[id] = Machine.STOPPING
            await node.expect("drain")
            await until(lambda: cloud.count("create") == 2, "a replacement")
            assert node.sessions, "its session lives on for as long as the machine does"


async def test_a_machine_that_somebody_starts_is_used(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud) as bridge:
        id = await a_stopped_node(bridge, cloud)
        cloud.machines[id] = Machine.RUNNING
        assert await one(bridge, "booting") == id
        async with agent(bridge, id), bridge.client() as client:
            await client.start_session()
        assert cloud.count("start") == 0


# --- spot ---


async def test_an_interrupted_node_is_drained_replaced_and_destroyed(tmp_path: Path) -> None:
    cloud = FakeCloud()
    async with bridge_on(tmp_path, cloud, max_nodes=2) as bridge, bridge.client() as client:
        await client.send("session_start")
        spot = await one(bridge, "booting")
        async with agent(bridge, spot) as node:
            await client.expect("node_status", status="waiting")
            await client.send("offer", sdp="o")
            await client.expect("answer")
            cloud.machines[spot] = Machine.LEAVING
            await node.expect("drain")
            await until(lambda: cloud.count("create") == 2, "a replacement")
            assert stored(bridge)[spot].ordered == "destroy"
            assert node.sessions
            other = next(id for id in nodes(bridge) if id != spot)
            async with agent(bridge, other), bridge.client() as second:
                await second.start_session()  # the line is served elsewhere
                assert len(nodes(bridge)[other].sessions) == 1
                await client.close()
                await until(lambda: spot not in nodes(bridge), "it is destroyed")
                assert ("destroy", spot) in cloud.calls
                assert ("stop", spot) not in cloud.calls


# --- the breaker ---


async def test_clients_are_told_while_the_provider_fails_and_served_when_it_works_again(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.faults["create"] = ["refuse"] * 3
    times = {"breaker_failures": 2, "breaker_pause": 0.4, "breaker_max_pause": 0.4}
    async with bridge_on(tmp_path, cloud, max_nodes=9, **times) as bridge, bridge.client() as client:
        pool, actions = bridge.server.bridge.pools["default"], bridge.server.actions
        await client.send("session_start")
        await client.expect("node_status", status="pending")
        await client.expect("node_status", status="full")
        assert pool.breaker.state is not BreakerState.CLOSED
        assert "the provider keeps failing" in actions.pause("default")
        assert actions.pause("default").endswith("create: not today")
        assert pool.breaker.reason == "create: not today"
        calls = cloud.count("create")
        assert calls >= 2
        await client.expect("node_status", status="pending")  # a probe
        await client.expect("node_status", status="full")  # it failed as well
        await client.expect("node_status", status="pending")
        await until(lambda: "booting" in states(bridge), "the probe is accepted")
        id = next(id for id, node in nodes(bridge).items() if node.state.value == "booting")
        assert actions.pause("default") == ""
        async with agent(bridge, id):
            await client.expect("node_status", status="waiting")
            await client.send("offer", sdp="o")
            await client.expect("answer")
        assert cloud.count("create") == 4
