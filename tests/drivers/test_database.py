import re
import stat
import subprocess
import sys
import threading

import pytest

from rtcbridge.drivers.ledger import Database
from rtcbridge.ports import LedgerError


def test_the_file_and_its_folders_are_made_for_the_owner_only(tmp_path):
    file = tmp_path / "a" / "b" / "x.db"
    with Database(file) as database:
        assert len(database.secret) == 32
        with database.engine.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
        for part in file.parent.iterdir():
            assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_the_secret_stays_and_is_each_stores_own(tmp_path):
    with Database(tmp_path / "x.db") as first, Database(tmp_path / "y.db") as other:
        assert first.secret != other.secret
        with Database(tmp_path / "x.db") as again:
            assert again.secret == first.secret


def test_openers_of_a_new_file_at_the_same_time_agree(tmp_path):
    secrets, errors = [], []
    barrier = threading.Barrier(4)

    def open_it():
        barrier.wait(10)
        try:
            with Database(tmp_path / "x.db") as database:
                secrets.append(database.secret)
        except LedgerError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(secrets) == 4
    assert len(set(secrets)) == 1


def test_what_cannot_be_opened_gives_one_line(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"not a database at all" * 100)
    below = junk / "x.db"
    for file, expected in (
        (folder, "Is a directory"),
        (junk, "file is not a database"),
        (below, "Not a directory|File exists"),
    ):
        with pytest.raises(LedgerError, match=f"^store {re.escape(str(file))}: ({expected})$"):
            Database(file)


def test_a_store_of_a_newer_version_is_left_alone(tmp_path):
    with Database(tmp_path / "x.db") as database, database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match=r"made by a newer version of rtcbridge$"):
        Database(tmp_path / "x.db")


def test_a_file_that_is_up_to_date_opens_without_alembic(tmp_path):
    with Database(tmp_path / "x.db"):
        pass
    code = (
        "import sys; from pathlib import Path; from rtcbridge.drivers.ledger import Database\n"
        "with Database(Path(sys.argv[1])): print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.db"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "False"
