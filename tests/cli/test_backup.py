import os
import sqlite3
import stat
import threading

import pytest

from rtcbridge.cli import main
from rtcbridge.drivers.ledger import KeyMaker, KeyStore, LedgerReader, SessionLedger, open_store
from rtcbridge.ports import SessionRow


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def session(number):
    return SessionRow(id=f"s{number:06}", pool="p", node="n1", project="TEST01", started=float(number))


async def test_a_bridge_starts_from_the_copy(folder, capsys):
    with open_store("sqlite:///rtcbridge.db") as store:
        key = KeyMaker(store).create_client_key("TEST01")
        ledger = SessionLedger(store)
        ledger.session_started(session(1))
        await ledger.flush()
        assert main(["backup", "copy.db"]) == 0, "while the store is in use, its newest part still in the WAL"
        ledger.session_started(session(2))
        await ledger.close()
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"Copied {folder}/rtcbridge.db to {folder}/copy.db; keep it as secret as the store.\n")
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    assert sorted(file.name for file in folder.iterdir()) == ["copy.db", "rtcbridge.db"]
    with open_store("sqlite:///copy.db") as store:
        keys = KeyStore(store)
        assert keys.identify(key).project == "TEST01"
        keys.close()
        assert LedgerReader(store).open_sessions() == [session(1)]


async def test_writers_go_on_and_the_copy_is_of_one_moment(folder):
    with open_store("sqlite:///rtcbridge.db") as store:
        ledger = SessionLedger(store)
        stop, begun = threading.Event(), threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                # Two rows in one transaction: a copy has both or neither.
                with store.engine.begin() as connection:
                    for half in (number, number + 1):
                        connection.exec_driver_sql("INSERT INTO meta VALUES (?, 'x')", (f"row{half}",))
                number += 2
                begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert begun.wait(10)
        statuses = [main(["backup", f"copy{number}.db"]) for number in range(3)]
        stop.set()
        writer.join(10)
        await ledger.close()
    assert statuses == [0, 0, 0]
    counts = []
    for number in range(3):
        connection = sqlite3.connect(f"copy{number}.db")
        counts.append(connection.execute("SELECT count(*) FROM meta WHERE name LIKE 'row%'").fetchone()[0])
        connection.close()
    assert counts == sorted(counts)
    assert counts[0] > 0
    assert [count % 2 for count in counts] == [0, 0, 0]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("there", "there: exists; a backup never replaces a file"),
        ("missing/copy.db", "missing/copy.db: No such file or directory"),
    ],
)
def test_a_copy_that_cannot_be_made(folder, capsys, file, expected):
    open_store("sqlite:///rtcbridge.db").close()
    (folder / "there").write_text("mine")
    assert main(["backup", file]) == 1
    assert capsys.readouterr() == ("", f"rtcbridge backup: {expected}\n")
    assert (folder / "there").read_text() == "mine"
    assert sorted(file.name for file in folder.iterdir()) == ["rtcbridge.db", "there"]


def test_a_store_that_is_none(folder, capsys):
    assert main(["backup", "copy.db"]) == 1
    assert capsys.readouterr().err == "rtcbridge backup: store rtcbridge.db: there is no such file\n"
    (folder / "rtcbridge.db").write_bytes(b"not a database at all" * 100)
    assert main(["backup", "copy.db"]) == 1
    assert capsys.readouterr().err == "rtcbridge backup: store rtcbridge.db: file is not a database\n"
    assert os.listdir() == ["rtcbridge.db"]


def test_postgresql_has_its_own(capsys, monkeypatch):
    monkeypatch.setenv("RTCBRIDGE_STORE__URL", "postgresql://u:p@127.0.0.1:1/d")
    assert main(["backup", "copy.db"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rtcbridge backup: the store is in PostgreSQL: use its own pg_dump")
    assert err.count("\n") == 1
