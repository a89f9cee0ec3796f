import re
import stat
import subprocess
import sys
import threading

import pytest

from rtcbridge.drivers.ledger import open_store
from rtcbridge.ports import LedgerError


def test_the_file_and_its_folders_are_made_for_the_owner_only(tmp_path):
    file = tmp_path / "a" / "b" / "x.db"
    with open_store(f"sqlite:///{file}") as database:
        assert len(database.secret) == 32
        with database.engine.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
        for part in file.parent.iterdir():
            assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_the_secret_stays_and_is_each_stores_own(store_url, tmp_path):
    with open_store(store_url) as first, open_store(f"sqlite:///{tmp_path}/y.db") as other:
        assert first.secret != other.secret
        with open_store(store_url) as again:
            assert again.secret == first.secret


def test_openers_of_a_new_store_at_the_same_time_agree(store_url):
    secrets, errors = [], []
    barrier = threading.Barrier(4)

    def open_it():
        barrier.wait(10)
        try:
            with open_store(store_url) as database:
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
            open_store(f"sqlite:///{file}")


def test_a_store_of_a_newer_version_is_left_alone(store_url):
    with open_store(store_url) as database, database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match=r"made by a newer version of rtcbridge$"):
        open_store(store_url)


def test_a_store_that_is_up_to_date_opens_without_alembic(store_url):
    open_store(store_url).close()
    code = (
        "import sys; from rtcbridge.drivers.ledger import open_store\n"
        "with open_store(sys.argv[1]): print('alembic' in sys.modules, 'psycopg' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store_url], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == f"False {store_url.startswith('postgres')}"
