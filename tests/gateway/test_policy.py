"""Projects, fallbacks and schedules over a running bridge; the rules themselves are tested in the core."""

from pathlib import Path

from gateway.bridges import STATIC, Running, running
from rtcbridge.config import Pool, ProjectSettings, Schedule
from rtcbridge.testing import FakeClient, FakeNode


def client_of(bridge: Running, project: str) -> FakeClient:
    return FakeClient(bridge.url, bridge.keys.create_client_key(project))


def node_of(bridge: Running, pool: str) -> FakeNode:
    return FakeNode(bridge.url, bridge.keys.create_node_key(pool), pool=pool, node=f"node-{pool}")


async def test_a_project_at_its_maximum_waits_for_itself_alone(tmp_path: Path) -> None:
    projects = (ProjectSettings(id="TEST01", max_sessions=1),)
    async with running(tmp_path, projects=projects) as bridge, bridge.node(capacity=2), bridge.client() as second:
        async with bridge.client() as first:
            await first.start_session()
            await second.send("session_start")
            await second.expect("node_status", status="full")
            async with client_of(bridge, "ACME01") as other:
                await other.start_session("of another project")
        await second.expect("node_status", status="waiting")


async def test_the_higher_priority_is_served_first(tmp_path: Path) -> None:
    projects = (ProjectSettings(id="ACME01", priority=1),)
    async with running(tmp_path, projects=projects) as bridge, bridge.node(), bridge.client() as low:
        async with bridge.client() as holder, client_of(bridge, "ACME01") as high:
            await holder.start_session()
            for client in (low, high):
                await client.send("session_start")
                await client.expect("node_status", status="full")
            await holder.close()
            await high.expect("node_status", status="waiting")
            assert [message["type"] for message in low.inbox] == ["auth_success"]
        await low.expect("node_status", status="waiting")


async def test_a_session_of_the_fallback_is_recorded_lost_and_taken_up_again(tmp_path: Path) -> None:
    pools = (Pool(provider="static", fallback="big", lost_timeout=30.0), Pool(name="big", provider="static"))
    async with running(tmp_path, pools=pools) as bridge, node_of(bridge, "big") as node, bridge.client() as client:
        await client.send("session_start")
        await client.expect("node_status", status="waiting")
        await client.send("offer", sdp="first")
        assert (await client.expect("answer"))["sdp"] == "answer to first"
        assert [message["type"] for message in client.inbox] == ["auth_success"]
        entry = next(iter(bridge.server.bridge.sessions.values()))
        await bridge.server.bridge.ledger.flush()
        assert [row.pool for row in bridge.server.bridge.ledger.open_sessions()] == ["big"]
        node.beating = False
        await client.expect("error", message="The node was lost.")
        await client.expect("node_status", status="full")
        assert entry.session.id not in bridge.server.bridge.sessions
        async with bridge.node():  # one of its own pool
            await client.expect("node_status", status="waiting")


async def test_a_session_of_the_fallback_survives_a_restart(tmp_path: Path) -> None:
    pools = (Pool(provider="static", fallback="big"), Pool(name="big", provider="static"))
    projects = (ProjectSettings(id="TEST01", max_sessions=1),)
    async with running(tmp_path, pools=pools, projects=projects) as bridge:
        node, client = node_of(bridge, "big"), bridge.client()
        await node.connect()
        await client.connect()
        await client.start_session()
    await client.close()
    await node.close()
    async with running(tmp_path, pools=pools, projects=projects) as bridge, bridge.node(), bridge.client() as other:
        assert list(bridge.server.bridge.pools["big"].holders) == list(node.sessions)
        await other.send("session_start")
        await other.expect("node_status", status="full")  # its project has its maximum


async def test_a_bridge_that_starts_within_a_window_is_in_it(tmp_path: Path) -> None:
    always = Schedule(cron="* * * * *", duration=3600.0, min_ready=2, max_nodes=7)
    year = Schedule(cron="0 0 1 1 *", duration=1.0, stopped_reserve=3)
    pool = Pool(provider="static", min_ready=1, schedules=(always, year))
    async with running(tmp_path, pools=(pool, STATIC.__class__(name="other", provider="static"))) as bridge:
        spec = bridge.server.bridge.pools["default"].spec
        assert (spec.min_ready, spec.max_nodes, spec.stopped_reserve) == (2, 7, 0)


async def test_the_end_of_a_window_is_followed(tmp_path: Path) -> None:
    pool = Pool(provider="static", min_ready=1, schedules=(Schedule(cron="0 8 * * *", until="20:00", min_ready=4),))
    async with running(tmp_path, pools=(pool,)) as bridge:
        inner, windows, seen = bridge.server.bridge, bridge.server._windows, []
        for hour in (7, 8, 9, 20):
            inner.wall = lambda hour=hour: 1_795_392_000.0 + hour * 3600  # type: ignore[misc]  # 2026-11-23, UTC
            windows.stop()
            windows.start()
            seen.append(inner.pools["default"].spec.min_ready)
        assert seen == [1, 4, 4, 1]
