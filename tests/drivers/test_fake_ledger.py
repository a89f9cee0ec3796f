"""The fake ledger of `gateway.proof` keeps what the real one keeps."""

import asyncio
import random
from pathlib import Path

import pytest

from gateway.proof.ledger import Disk, MemoryLedger
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import Ledger, LedgerError, NodeRow, SessionRow


async def use(ledger: Ledger, seed: int) -> None:
    """Anything that a bridge may do, in an order of its own for each seed."""
    pick = random.Random(seed)
    started: list[str] = []
    for step in range(150):
        match pick.choice(["save", "save", "delete", "start", "start", "again", "end", "end", "flush"]):
            case "save":
                id, state = f"n{pick.randrange(4)}", pick.choice(["ready", "stopped"])
                await ledger.save_node(
                    NodeRow(id=id, pool="p", managed=True, state=state, capacity=step, since=float(step))
                )
            case "delete":
                await ledger.delete_node(f"n{pick.randrange(4)}")
            case "start":
                started.append(f"s{step}")
                row = SessionRow(id=started[-1], pool="p", node="n1", project="TEST01", started=float(step))
                ledger.session_started(row)
            case "again" if started:
                row = SessionRow(id=pick.choice(started), pool="p", node="n2", project="TEST01", started=float(step))
                ledger.session_started(row)
            case "end" if started:
                ledger.session_ended(pick.choice(started), float(step), f"reason {step}")
            case "flush":
                await ledger.flush()
    await ledger.flush()


@pytest.mark.parametrize("seed", range(3))
async def test_both_keep_the_same(tmp_path: Path, seed: int) -> None:
    fake = MemoryLedger(Disk(), asyncio.get_running_loop())
    await use(fake, seed)
    with open_store(f"sqlite:///{tmp_path}/x.db") as database:
        real = SessionLedger(database)
        await use(real, seed)
        assert list(fake.nodes()) == list(real.nodes())
        assert list(fake.open_sessions()) == list(real.open_sessions())
        assert list(fake.sessions(1000)) == list(real.sessions(1000))
        await real.close()


async def test_a_disk_that_fails_keeps_sessions_and_no_node() -> None:
    disk = Disk(failing=True)
    fake = MemoryLedger(disk, asyncio.get_running_loop())
    fake.session_started(SessionRow(id="s", pool="p", node="n", project="TEST01", started=1.0))
    with pytest.raises(LedgerError):
        await fake.save_node(NodeRow(id="n", pool="p", managed=True, state="ready", capacity=1, since=1.0))
    disk.failing = False
    await fake.flush()
    assert not fake.nodes()
    assert [row.id for row in fake.open_sessions()] == ["s"]
