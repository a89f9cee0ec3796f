"""Starts of sessions that their bridge did not live to write."""

from pathlib import Path
from types import SimpleNamespace

from rtcbridge.drivers.engine import MemoryEngine
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.gateway.shared.records import open_rows
from rtcbridge.ports import SessionRow


async def test_a_start_that_is_missing_is_written_once(tmp_path: Path) -> None:
    engine = MemoryEngine()
    await engine.start(["p"], lambda *_: None, lambda *_: None)
    store = engine.store("p")
    await store.node_up("n", 4, "socket")
    for name in ("missing", "over", "reserved", "recorded"):
        await store.reserve(name, project="TEST01")
        if name != "reserved":
            await store.begin(name)
    pool = SimpleNamespace(spec=SimpleNamespace(name="p"), store=store)
    with open_store(f"sqlite:///{tmp_path}/ledger.db") as database:
        ledger = SessionLedger(database)
        recorded = SessionRow(id="recorded", pool="p", node="n", project="TEST01", started=1.0)
        ledger.session_started(recorded)
        ledger.session_ended("over", 2.0, "done")
        await ledger.flush()
        names = ["missing", "over", "reserved", "recorded", "unknown"]
        written = SessionRow(id="missing", pool="p", node="n", project="TEST01", started=5.0)
        assert await open_rows(ledger, pool, names, 5.0) == {"recorded": recorded, "missing": written}  # type: ignore[arg-type]
        await ledger.flush()
        assert await open_rows(ledger, pool, names, 9.0) == {"recorded": recorded, "missing": written}  # type: ignore[arg-type]
        ledger.session_ended("missing", 6.0, "done")
        await ledger.flush()
        assert list(await open_rows(ledger, pool, names, 9.0)) == ["recorded"]  # type: ignore[arg-type]
        await ledger.close()
    await engine.close()
