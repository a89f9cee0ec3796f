"""What a bridge that was killed had not written is in the ledger all the same: one start and one end."""

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from gateway.bridges import BEAT
from gateway.shared.replicas import Replica, replicas, until
from rtcbridge.config import Nodes, Sessions
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.gateway.shared.records import open_rows
from rtcbridge.gateway.shared.slots import SlotLink
from rtcbridge.ports import SessionRow
from rtcbridge.testing import FakeNode


class Mute:
    """A ledger that takes what is recorded of sessions and is killed before it writes that."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def session_started(self, row: SessionRow) -> None:
        pass

    def session_ended(self, session: str, ended: float, reason: str) -> None:
        pass


def mute(replica: Replica) -> None:
    """Let nothing that this one records be written."""
    replica.bridge.ledger = Mute(replica.bridge.ledger)


def node_link(replica: Replica) -> SlotLink:
    link = replica.bridge.links["node-1"]
    assert isinstance(link, SlotLink)
    return link


async def whole(replica: Replica) -> SessionRow:
    """Wait for the one session to have its start and its end in the ledger, and the journal to be empty."""
    ledger: Any = replica.bridge.ledger
    await until(lambda: ledger.ended_sessions())
    (pool,) = replica.engine.hub.pools()
    await until(lambda: not pool.journal.entries)
    (row,) = ledger.sessions()
    assert isinstance(row, SessionRow)
    return row


async def begin(replica: Replica, node: FakeNode) -> tuple[Any, str]:
    """A session with its media up."""
    client = replica.extended()
    await client.connect()
    await client.expect("auth_success")
    await client.start_session("first")
    return client, str(await node.until(lambda: next(iter(node.connected), None), "media"))


async def test_a_session_that_began_and_ended_before_its_bridge_could_write(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        new, old = them.all  # the first one leads
        mute(old)
        async with new.node() as node:
            began = time.time()
            client, session = await begin(old, node)
            await client.close()
            reason = (await node.expect("session_end", session=session))["reason"]
            (pool,) = old.engine.hub.pools()
            await until(lambda: not pool.claims)
            ended = time.time()
            old.kill()
            them.bury(old)
            row = await whole(new)
            assert (row.id, row.pool, row.node, row.project) == (session, "default", "node-1", "TEST01")
            assert row.ended is not None
            assert began <= row.started < row.ended <= ended
            assert row.reason == reason


async def test_a_session_that_is_tried_on_another_node_goes_on(tmp_path: Path) -> None:
    """The first node refuses it: that is no end, for which its bridge lives on."""
    async with replicas(tmp_path) as them:
        new, old = them.all  # the first one leads
        async with new.node(node="a", behaviour="refuse") as refusing:
            client = old.extended()
            await client.connect()
            await client.expect("auth_success")
            async with new.node(node="b") as node:
                await client.start_session("first")
                session = str(await node.until(lambda: next(iter(node.connected), None), "media"))
                assert session not in refusing.sessions
                (pool,) = old.engine.hub.pools()
                assert pool.journal.entries[session].node == "b"
                assert pool.journal.entries[session].ended is None
                await client.close()
                row = await whole(new)
                assert (row.id, row.node) == (session, "b")


@pytest.mark.parametrize("buried", ["before the node is back", "after"])
async def test_an_offer_that_went_out_before_its_bridge_could_say_so(tmp_path: Path, buried: str) -> None:
    """The node knows of it: it lists the session where it dials in next."""
    quiet = {"nodes": Nodes(heartbeat=BEAT, missed=30), "sessions": Sessions(resume_grace=5.0)}
    async with replicas(tmp_path, **quiet) as them:
        new, old = them.all  # the first one leads
        mute(old)
        (pool,) = old.bridge.shared_pools()
        pool.begun = lambda session: None  # type: ignore[method-assign]
        async with old.node() as node:
            _, session = await begin(old, node)
            old.kill()
            if buried != "after":
                them.bury(old)
            again = new.node()
            again.sessions = dict(node.sessions)
            async with again:
                if buried == "after":
                    them.bury(old)
                    await until(lambda: session in new.bridge.sessions)
                    await again.send("session_state", session=session, state="closed")
                else:
                    await again.expect("session_end", session=session, reason="unknown")
                row = await whole(new)
                assert (row.id, row.node, row.project) == (session, "node-1", "TEST01")
                assert row.ended is not None
                assert row.started <= row.ended


@pytest.mark.parametrize("still", [True, False])
async def test_an_offer_to_a_node_of_another_bridge_before_its_own_could_say_so(tmp_path: Path, still: bool) -> None:
    """The bridge with the node's socket knows of it, whether the node still serves it or not."""
    async with replicas(tmp_path, nodes=Nodes(heartbeat=BEAT, missed=30)) as them:
        new, old = them.all  # the first one leads
        mute(old)
        (pool,) = old.bridge.shared_pools()
        pool.begun = lambda session: None  # type: ignore[method-assign]
        async with new.node() as node:
            _, session = await begin(old, node)
            old.kill()
            if not still:
                await node.send("session_state", session=session, state="closed")
                await until(lambda: not node_link(new).serving)
            them.bury(old)
            if still:
                await node.expect("session_end", session=session, reason="unknown")
            row = await whole(new)
            assert (row.id, row.node, row.project) == (session, "node-1", "TEST01")


async def test_a_reservation_that_went_with_its_bridge_is_no_session(tmp_path: Path) -> None:
    async with replicas(tmp_path) as them:
        new, old = them.all  # the first one leads
        async with new.node():
            client = old.extended()
            await client.connect()
            await client.expect("auth_success")
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
            old.kill()
            them.bury(old)
            (pool,) = new.engine.hub.pools()
            (entry,) = pool.journal.entries.values()
            assert entry.doubtful < float("inf")
            await new.bridge.shared_pool("default").store.confirm(list(pool.journal.entries))
            assert await new.bridge.shared_pool("default").store.journal(0.0) == []
            assert new.bridge.ledger.sessions() == []


async def test_a_start_that_is_written_while_the_ledger_is_asked_is_no_end(tmp_path: Path) -> None:
    row = SessionRow(id="0" * 32, pool="default", node="node-1", project="TEST01", started=1.0)
    loop = asyncio.get_running_loop()

    class Late(SessionLedger):
        """The start gets there between two questions."""

        def recorded_among(self, names: Collection[str]) -> Collection[str]:
            loop.call_soon_threadsafe(self.session_started, row)
            asyncio.run_coroutine_threadsafe(self.flush(), loop).result()
            return super().recorded_among(names)

    async with replicas(tmp_path, 1) as them:
        (pool,) = them.all[0].bridge.shared_pools()
        with open_store(f"sqlite:///{tmp_path / 'bridge.db'}") as database:
            ledger = Late(database)
            assert await open_rows(ledger, pool, [row.id], 2.0) == {row.id: row}
            await ledger.close()
