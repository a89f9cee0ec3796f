"""The whole life of nodes that four shell commands make, under `rtcbridge serve`."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.command_pool import CommandPool, command_pool
from gateway.programs import RTCBRIDGE, until
from rtcbridge.testing import FakeClient

pytestmark = pytest.mark.slow
T = TypeVar("T")

FULL = "Maximum pool size reached. Cannot assign a new node."
NOT_STARTED = "Failed to start a stopped node."
IDLE = 0.6  # seconds


async def off_loop(call: Callable[..., T], *args: object) -> T:
    return await asyncio.to_thread(call, *args)


def client(pool: CommandPool) -> FakeClient:
    return FakeClient(pool.home.url, pool.home.client_key())


async def stopped(pool: CommandPool, node: str) -> None:
    await off_loop(until, lambda: pool.home.nodes()[node].state == "stopped", f"{node} stopped")


async def test_created_on_demand_stopped_when_idle_started_again_destroyed(tmp_path: Path) -> None:
    times = f"idle_timeout = {IDLE}\nstopped_timeout = 1.5"
    with command_pool(tmp_path, times) as pool:
        bridge = pool.home.serve()
        assert pool.calls() == []  # nothing is made before somebody asks
        async with client(pool) as first:
            await first.send("session_start")
            await first.expect("node_status", status="pending")
            await first.expect("node_status", status="waiting")
            await first.send("offer", sdp="one")
            await first.expect("answer")
            node = await off_loop(pool.called, "create")
            assert pool.running() == [node]
        freed = time.monotonic()
        await off_loop(pool.called, "stop")
        idle = time.monotonic() - freed
        assert IDLE - 0.1 <= idle < IDLE + 2.0
        await stopped(pool, node)
        assert pool.running() == []

        async with client(pool) as second:
            await second.send("offer", sdp="two")
            await second.expect("server_provisioning")
            assert (await second.expect("answer"))["sdp"] == "answer to two"
            assert pool.calls() == [("create", node), ("stop", node), ("start", node)]

        await off_loop(pool.called, "destroy")
        await off_loop(until, lambda: not pool.home.nodes(), "the node is forgotten")
        assert pool.counts() == {"create": 1, "stop": 2, "start": 1, "destroy": 1}
        assert bridge.end() == 0


async def test_a_start_that_fails_is_made_good_by_others_until_nothing_is_left(tmp_path: Path) -> None:
    with command_pool(tmp_path, f"idle_timeout = {IDLE}\nfailed_timeout = 60.0") as pool:
        pool.home.serve()
        async with client(pool) as first, client(pool) as second:
            await first.start_session()
            await second.start_session()
        for node in {node for _, node in pool.calls()}:
            await stopped(pool, node)

        pool.fail("start")  # both stopped nodes fail, and max_nodes leaves no room for a third
        async with client(pool) as third:
            await third.send("offer", sdp="three")
            await third.expect("server_provisioning")
            await third.expect("error", message=NOT_STARTED)
        assert pool.counts()["start"] == 2
        assert len({node for verb, node in pool.calls() if verb == "start"}) == 2
        assert pool.counts()["create"] == 2
        assert pool.counts()["destroy"] == 0  # they count until failed_timeout
        await asyncio.to_thread(
            until,
            lambda: {row.state for row in pool.home.nodes().values()} == {"failed"},
            "both are in the store as failed",
        )
        async with client(pool) as fourth:
            await fourth.send("offer", sdp="four")
            await fourth.expect("error", message=FULL)


async def test_a_start_that_fails_is_made_good_by_a_new_node(tmp_path: Path) -> None:
    with command_pool(tmp_path, f"idle_timeout = {IDLE}") as pool:
        bridge = pool.home.serve()
        async with client(pool) as first:
            await first.start_session()
        old = await off_loop(pool.called, "create")
        await stopped(pool, old)
        pool.fail("start")
        async with client(pool) as second:
            await second.send("offer", sdp="two")
            await second.expect("server_provisioning")
            await second.expect("answer")
        assert pool.counts()["create"] == 2
        refused = await off_loop(lambda: bridge.event("the provider refused", node=old))
        assert refused["reason"] == "start: start command: exit status 3: no start today"


async def test_a_creation_that_fails_gives_the_documented_error(tmp_path: Path) -> None:
    with command_pool(tmp_path, "failed_timeout = 0.5", max_nodes=1) as pool:
        pool.home.serve()
        pool.fail("create")
        async with client(pool) as first:
            await first.send("offer", sdp="one")
            await first.expect("server_provisioning")
            await first.expect("error", message=FULL)
            # The node that failed counts until it is destroyed; then there is room again.
            await off_loop(pool.called, "destroy")
            pool.allow("create")
            await first.send("session_start")
            await first.expect("node_status", status="waiting")
            await first.send("offer", sdp="two")
            assert (await first.expect("answer"))["sdp"] == "answer to two"


async def test_a_real_node_lives_by_the_commands(tmp_path: Path) -> None:
    program = f"{RTCBRIDGE[0]} -m rtcbridge node passthrough"
    with command_pool(tmp_path, f"idle_timeout = {IDLE}\nmin_ready = 1", max_nodes=1, program=program) as pool:
        bridge = pool.home.serve()
        node = await off_loop(pool.called, "create")
        registered = await off_loop(lambda: bridge.event("node registered", node=node))
        assert registered["epoch"] == 1
        assert bridge.end() == 0
        assert pool.running() == [node]  # `serve` leaves it
        again = pool.home.serve()
        registered = await off_loop(lambda: again.event("node registered", node=node))
        assert registered["epoch"] == 2
        assert pool.calls() == [("create", node)]
