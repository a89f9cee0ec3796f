import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time

import msgspec
import pytest

from rtcbridge.drivers.ledger import Database, SqliteLedger, schema, sqlite
from rtcbridge.ports import Ledger, LedgerError, NodeRow, OverrideRow, SessionRow


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.db"


@pytest.fixture
async def ledger(file):
    with Database(file) as database:
        ledger = SqliteLedger(database)
        yield ledger
        await ledger.close()


def node(name="n1", **values):
    return NodeRow(
        **{"id": name, "pool": "p", "managed": True, "state": "BOOTING", "capacity": 1, "since": 5.0, **values}
    )


def session(name="s1", **values):
    return SessionRow(**{"id": name, "pool": "p", "node": "n1", "project": "TEST01", "started": 5.0, **values})


async def until(true):
    """Poll the file, as another process would."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


def test_rows_have_the_columns_of_their_tables_in_order():
    """They are written as tuples, so the order counts."""
    for row, table, statement in (
        (NodeRow, schema.nodes, sqlite.SAVE_NODE),
        (SessionRow, schema.sessions, sqlite.START_SESSION),
        (OverrideRow, schema.overrides, sqlite.SAVE_OVERRIDE),
    ):
        names = tuple(field.name for field in msgspec.structs.fields(row))
        assert names == tuple(column.name for column in table.c) == statement.names
    assert sqlite.DELETE_NODE.names == ("node",)
    assert sqlite.DELETE_OVERRIDE.names == ("name",)
    assert sqlite.END_SESSION.names == ("at", "why", "session")


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
    write = sqlite._Batch.write
    monkeypatch.setattr(sqlite._Batch, "write", lambda self, to: (batches.append(len(self.starts)), write(self, to)))
    for number in range(5_000):
        ledger.session_started(session(f"s{number}"))
        ledger.session_ended(f"s{number}", 9.0, "closed")
    await ledger.flush()
    assert sum(batches) == 5_000
    assert len(batches) < 250
    assert len(ledger.sessions(10_000)) == 5_000


async def test_closing_writes_what_is_left(file):
    with Database(file) as database:
        ledger = SqliteLedger(database)
        ledger.session_started(session())
        await ledger.close()
        again = SqliteLedger(database)
        assert again.open_sessions() == [session()]
        await again.close()


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
def broken(ledger, file):
    """Let every write fail, as if the disk were full, until the returned function is called."""
    connection = sqlite3.connect(file, isolation_level=None)
    for table in ("nodes", "sessions"):
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_")

    def repair():
        for table in ("nodes", "sessions"):
            connection.execute(f"ALTER TABLE {table}_ RENAME TO {table}")

    yield repair
    connection.close()


async def test_an_intent_that_is_not_stored_is_not_acted_on(ledger, broken):
    with pytest.raises(LedgerError, match=r"cannot be written: no such table: nodes$"):
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
    await until(ledger.sessions)
    assert ledger.sessions() == [session(node="n2", ended=9.0, reason="closed")]
    assert any("cannot be written: no such table" in message for message in caplog.messages)


async def test_memory_is_bounded_while_the_disk_fails(ledger, broken, monkeypatch, caplog):
    monkeypatch.setattr(sqlite, "PENDING_LIMIT", 10)
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
    ledger.session_started(session(project=None))
    with pytest.raises(LedgerError, match="NOT NULL"):
        await ledger.flush()
    ledger.session_started(session("s2"))
    await ledger.flush()
    assert [row.id for row in ledger.sessions()] == ["s2"]
    assert "sessions go unrecorded: s1" in caplog.messages


async def test_closing_with_a_broken_disk_ends(file, caplog):
    with Database(file) as database:
        ledger = SqliteLedger(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE sessions")
        ledger.session_started(session())
        async with asyncio.timeout(10):
            await ledger.close()
    assert "closed with sessions unrecorded" in caplog.messages[-1]


# --- a killed bridge ---

CHILD = """
import asyncio, sys
from pathlib import Path
from rtcbridge.drivers.ledger import Database, SqliteLedger
from rtcbridge.ports import NodeRow, SessionRow

async def main():
    ledger = SqliteLedger(Database(Path(sys.argv[1])))
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


def run_and_kill(file):
    """Let another process write, kill it, and return the last number that it said was durable."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, file], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    number = 0
    while number < 20 and time.monotonic() < deadline:
        number = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    printed = [number, *map(int, child.stdout.read().split())]
    child.stdout.close()
    child.wait(10)
    return max(printed)


async def test_what_was_durable_is_there_after_kill_9(file):
    last = run_and_kill(file)
    assert last >= 20
    with Database(file) as database:
        ledger = SqliteLedger(database)
        assert {f"n{n}" for n in range(1, last + 1)} <= {row.id for row in ledger.nodes()}
        assert {f"s{n}" for n in range(1, last + 1)} <= {row.id for row in ledger.open_sessions()}
        await ledger.close()
