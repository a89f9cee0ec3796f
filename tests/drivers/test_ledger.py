import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from rtcbridge.drivers.ledger import LedgerReader, SessionLedger, open_store, schema
from rtcbridge.drivers.ledger import ledger as module
from rtcbridge.drivers.ledger.statements import Statements
from rtcbridge.ports import Ledger, LedgerError, NodeRow, OverrideRow, SessionRow


@pytest.fixture
def database(store_url):
    with open_store(store_url) as database:
        yield database


@pytest.fixture
async def ledger(database):
    ledger = SessionLedger(database)
    yield ledger
    await ledger.close()


def node(name="n1", **values):
    return NodeRow(
        **{"id": name, "pool": "p", "managed": True, "state": "BOOTING", "capacity": 1, "since": 5.0, **values}
    )


def session(name="s1", **values):
    return SessionRow(**{"id": name, "pool": "p", "node": "n1", "project": "TEST01", "started": 5.0, **values})


async def until(true):
    """Poll the store, as another process would."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def test_what_is_recorded_of_sessions(ledger):
    ledger.session_started(session("open"))
    ledger.session_started(session("over"))
    ledger.session_ended("over", 6.0, "done")
    ledger.session_ended("end-only", 6.0, "done")
    await ledger.flush()
    names = ["open", "over", "end-only", "never"]
    assert set(ledger.recorded_among(names)) == {"open", "over", "end-only"}
    assert list(ledger.open_among(names)) == ["open"]
    assert set(ledger.whole_among(names)) == {"over"}
    assert not ledger.recorded_among([])
    assert not ledger.whole_among([])


def test_rows_have_the_columns_of_their_tables_in_order(database):
    """They are written as tuples, so the order counts."""
    statements = Statements(database)
    for row, table, statement in (
        (NodeRow, schema.nodes, statements.save_node),
        (SessionRow, schema.sessions, statements.start_session),
        (SessionRow, schema.sessions, statements.end_session),
        (OverrideRow, schema.overrides, statements.save_override),
    ):
        names = tuple(field.name for field in msgspec.structs.fields(row))
        assert names == tuple(column.name for column in table.c) == statement.names
    assert statements.delete_node.names == ("node",)
    assert statements.delete_override.names == ("name",)


async def test_settings_of_pools_are_saved_changed_and_forgotten(ledger):
    first = OverrideRow(pool="a", settings='{"max_nodes":1}', changed=1.0, key="3")
    await ledger.save_override(first)
    await ledger.save_override(OverrideRow(pool="b", settings="{}", changed=2.0, key="3"))
    changed = OverrideRow(pool="a", settings='{"max_nodes":2}', changed=3.0, key="local")
    await ledger.save_override(changed)
    await ledger.delete_override("b")
    await ledger.delete_override("b")
    assert ledger.overrides() == [changed]


async def test_nodes_are_saved_moved_and_forgotten(ledger):
    port: Ledger = ledger
    assert port.nodes() == []
    first = node(started=True, epoch=7, reason="it failed", labels='{"a": "ü"}')
    await port.save_node(first)
    await port.save_node(node("n2", managed=False))
    assert port.nodes() == [first, node("n2", managed=False)]
    await port.save_node(node(state="READY", since=6.5))
    assert port.nodes()[0] == node(state="READY", since=6.5)
    await port.delete_node("n1")
    await port.delete_node("n1")
    assert [row.id for row in port.nodes()] == ["n2"]


async def test_the_last_of_many_saves_at_once_counts(ledger):
    await asyncio.gather(*(ledger.save_node(node(epoch=epoch)) for epoch in range(50)))
    assert ledger.nodes() == [node(epoch=49)]
    await asyncio.gather(ledger.save_node(node(epoch=50)), ledger.delete_node("n1"))
    assert ledger.nodes() == []


async def test_sessions_start_once_and_end_once(ledger):
    ledger.session_started(session())
    ledger.session_started(session("s2", started=6.0))
    await ledger.flush()
    assert ledger.open_sessions() == [session(), session("s2", started=6.0)]
    ledger.session_ended("s1", 9.0, "closed")
    ledger.session_ended("s1", 10.0, "lost")
    ledger.session_ended("never", 10.0, "x")
    await ledger.flush()
    ledger.session_ended("s1", 11.0, "later")
    await ledger.flush()
    assert ledger.open_sessions() == [session("s2", started=6.0)]
    assert ledger.sessions() == [session("s2", started=6.0), session(ended=9.0, reason="closed")]
    assert ledger.sessions(1) == [session("s2", started=6.0)]


async def test_a_second_start_only_moves(ledger):
    ledger.session_started(session())
    await ledger.flush()
    ledger.session_started(session(node="n2", pool="q", started=99.0, project="OTHER1"))
    await ledger.flush()
    assert ledger.open_sessions() == [session(node="n2", pool="q")]
    ledger.session_ended("s1", 9.0, "closed")
    ledger.session_started(session(node="n3"))
    await ledger.flush()
    assert ledger.sessions() == [session(node="n3", ended=9.0, reason="closed")], "an end is not undone"


async def test_an_end_in_the_same_batch_as_its_start(ledger):
    ledger.session_started(session())
    ledger.session_ended("s1", 9.0, "closed")
    await ledger.flush()
    assert ledger.sessions() == [session(ended=9.0, reason="closed")]


async def test_what_nobody_waits_for_is_written_soon(ledger):
    ledger.session_started(session())
    await until(ledger.open_sessions)


async def test_many_sessions_cost_few_commits(ledger, monkeypatch):
    batches = []
    write = module._Batch.write
    monkeypatch.setattr(module._Batch, "write", lambda self, *to: (batches.append(len(self.starts)), write(self, *to)))
    for number in range(5_000):
        ledger.session_started(session(f"s{number}"))
        ledger.session_ended(f"s{number}", 9.0, "closed")
    await ledger.flush()
    assert sum(batches) == 5_000
    assert len(batches) < 250
    assert len(ledger.sessions(10_000)) == 5_000


async def test_closing_writes_what_is_left(database):
    ledger = SessionLedger(database)
    ledger.session_started(session())
    await ledger.close()
    assert LedgerReader(database).open_sessions() == [session()]


async def test_an_end_that_is_written_before_its_start(ledger, database):
    """As with several bridges, when the one that has the start cannot reach the store."""
    other = SessionLedger(database)
    other.session_ended("s1", 9.0, "node lost")
    await other.flush()
    assert ledger.sessions() == [], "nothing is known of it yet"
    assert ledger.open_sessions() == []
    ledger.session_started(session())
    other.session_ended("s1", 10.0, "later")
    await other.close()
    await ledger.flush()
    assert ledger.sessions() == [session(ended=9.0, reason="node lost")]


@pytest.mark.parametrize("batches", ["each", "one"])
async def test_what_two_bridges_write_of_a_session_is_one_row(ledger, database, batches):
    """The leader has written all of it by the engine's journal; then its own bridge can reach the store again."""
    other = SessionLedger(database)
    other.session_started(session("s1", started=5.01))
    other.session_ended("s1", 9.0, "closed")
    other.session_ended("s2", 9.0, "closed")
    await other.flush()
    for name in ("s1", "s2"):
        ledger.session_started(session(name, started=5.0))
        if batches == "each":
            await ledger.flush()
        ledger.session_ended(name, 8.0, "another word for it")
        ledger.session_ended(name, 10.0, "later")
        await ledger.flush()
    other.session_started(session("s1", started=6.0))
    await other.close()
    assert ledger.open_sessions() == []
    assert sorted(ledger.sessions(), key=lambda row: row.id) == [
        session("s1", started=5.01, ended=9.0, reason="closed"),
        session("s2", started=5.0, ended=9.0, reason="closed"),
    ]
    assert set(ledger.whole_among(["s1", "s2"])) == {"s1", "s2"}


async def test_writers_of_the_same_rows_do_not_hinder_each_other(database):
    """Each session gets one start and one end, whoever writes it, in whatever order and however often."""
    names = [f"s{number:03}" for number in range(200)]

    async def write(turn):
        ledger = SessionLedger(database)
        for name in names if turn % 2 else reversed(names):
            ledger.session_started(session(name, node=f"n{turn}"))
            ledger.session_ended(name, 9.0 + turn, f"{turn}")
            await ledger.save_node(node("n1", epoch=turn))
        await ledger.close()

    await asyncio.gather(*(write(turn) for turn in range(4)))
    rows = LedgerReader(database).sessions(1_000)
    assert sorted(row.id for row in rows) == names
    assert {(row.project, row.started, f"{row.ended - 9.0:.0f}" == row.reason) for row in rows} == {
        ("TEST01", 5.0, True)
    }


async def test_a_cancelled_save_harms_nobody(ledger):
    saving = asyncio.create_task(ledger.save_node(node()))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    await ledger.save_node(node("n2"))
    assert "n2" in [row.id for row in ledger.nodes()]


# --- a failing disk ---


@pytest.fixture
def broken(ledger, database):
    """Let every write fail, as if the disk were full, until the returned function is called."""

    def rename(old, new):
        with database.engine.begin() as connection:
            for table in ("nodes", "sessions"):
                connection.exec_driver_sql(f"ALTER TABLE {table}{old} RENAME TO {table}{new}")

    rename("", "_")
    return lambda: rename("_", "")


MISSING = r"cannot be written: (no such table: |relation \")"


async def test_an_intent_that_is_not_stored_is_not_acted_on(ledger, broken):
    with pytest.raises(LedgerError, match=rf"{MISSING}nodes"):
        await ledger.save_node(node())
    broken()
    await ledger.save_node(node("n2"))
    assert [row.id for row in ledger.nodes()] == ["n2"], "it was refused, so it does not turn up later"


async def test_sessions_survive_a_failing_disk(ledger, broken, caplog):
    ledger.session_started(session())
    with pytest.raises(LedgerError):
        await ledger.flush()
    ledger.session_started(session(node="n2"))
    ledger.session_ended("s1", 9.0, "closed")
    with pytest.raises(LedgerError):
        await ledger.flush()
    ledger.session_ended("s1", 10.0, "later")
    broken()
    await ledger.flush()
    assert ledger.sessions() == [session(node="n2", ended=9.0, reason="closed")]
    first, last = caplog.messages
    assert re.search(rf"{MISSING}sessions", first)
    assert re.search(r"written again, after \d+\.\d s$", last)


async def test_memory_is_bounded_while_the_disk_fails(ledger, broken, monkeypatch, caplog):
    monkeypatch.setattr(module, "PENDING_LIMIT", 10)
    for number in range(30):
        ledger.session_started(session(f"s{number}"))
    with pytest.raises(LedgerError):
        await ledger.flush()
    broken()
    await ledger.flush()
    assert len(ledger.sessions()) == 10
    assert sum("go unrecorded" in message for message in caplog.messages) == 1
    ledger.session_started(session("late"))
    await ledger.flush()
    assert len(ledger.sessions()) == 11


async def test_a_row_that_cannot_be_written_does_not_block_the_rest(ledger, caplog):
    for number in range(20):
        ledger.session_started(session(f"s{number:02}", project=None if number == 13 else "TEST01"))
    writes = [
        asyncio.create_task(ledger.save_node(node(f"n{number}", pool="p" if number else None))) for number in range(3)
    ]
    with pytest.raises(LedgerError, match=r"(?i)not.null"):
        await ledger.flush()
    kept = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in kept] == [LedgerError, type(None), type(None)]
    assert [row.id for row in ledger.nodes()] == ["n1", "n2"]
    assert len(ledger.sessions()) == 19
    assert "session goes unrecorded: s13" in caplog.messages
    ledger.session_started(session("s20"))
    await ledger.flush()


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_a_text_that_a_store_may_not_take(ledger, text):
    """Nobody but the row itself suffers, wherever it is written."""
    ledger.session_started(session())
    ledger.session_started(session("s2"))
    await ledger.flush()
    ledger.session_ended("s1", 9.0, text)
    ledger.session_ended("s2", 9.0, "closed")
    with contextlib.suppress(LedgerError):
        await ledger.flush()
    assert session("s2", ended=9.0, reason="closed") in ledger.sessions()


async def test_closing_with_a_broken_disk_ends(database, caplog):
    ledger = SessionLedger(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE sessions")
    ledger.session_started(session())
    async with asyncio.timeout(10):
        await ledger.close()
    assert "closed with sessions unrecorded" in caplog.messages[-1]


# --- a killed bridge ---

CHILD = """
import asyncio, sys
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import NodeRow, SessionRow

async def main():
    ledger = SessionLedger(open_store(sys.argv[1]))
    number = 0
    while True:
        number += 1
        ledger.session_started(SessionRow(id=f"s{number}", pool="p", node="n1", project="P", started=float(number)))
        await ledger.save_node(
            NodeRow(id=f"n{number}", pool="p", managed=True, state="PROVISIONING", capacity=1, since=1.0)
        )
        print(number, flush=True)

asyncio.run(main())
"""


def run_and_kill(url):
    """Let another process write, kill it, and return the last number that it said was durable."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    number = 0
    while number < 20 and time.monotonic() < deadline:
        number = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    printed = [number, *map(int, child.stdout.read().split())]
    child.stdout.close()
    child.wait(10)
    return max(printed)


async def test_what_was_durable_is_there_after_kill_9(store_url):
    last = run_and_kill(store_url)
    assert last >= 20
    with open_store(store_url) as database:
        reader = LedgerReader(database)
        assert {f"n{n}" for n in range(1, last + 1)} <= {row.id for row in reader.nodes()}
        assert {f"s{n}" for n in range(1, last + 1)} <= {row.id for row in reader.open_sessions()}
