"""The ledger's own record: exported, read, and simulated."""

import csv
import json

import pytest

from rtcbridge.cli import main
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import SessionRow
from rtcbridge.sim.arrivals import DAY, read

CONFIG = '[[pools]]\nname = "gpu"\nmax_nodes = 9\n[[pools]]\nname = "cpu"\nprovider = "static"\n'


@pytest.fixture(autouse=True)
async def store(tmp_path, monkeypatch):
    """A store as a bridge leaves it: a hundred sessions of one pool, one of another, and one that is open."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridge.toml").write_text(CONFIG)
    with open_store(f"sqlite:///{tmp_path}/rtcbridge.db") as database:
        ledger = SessionLedger(database)

        def add(name, pool, started, lasted=None):
            ledger.session_started(SessionRow(id=name, pool=pool, node="n", project="TEST01", started=started))
            if lasted is not None:
                ledger.session_ended(name, started + lasted, "closed, by the client")

        for index in range(100):
            add(f"s{index:02}", "gpu", 5 * DAY + 60.0 * index, 30.5)
        add("other", "cpu", 5 * DAY + 3005.0, 10.0)
        add("open", "gpu", 5 * DAY + 7.0)
        await ledger.close()
    return tmp_path


def exported(capsys, *arguments):
    assert main(["sessions", "--csv", "--config", "bridge.toml", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_every_ended_session_is_exported_oldest_first(capsys):
    rows = list(csv.DictReader(exported(capsys).splitlines()))
    assert len(rows) == 101
    assert [row["session"] for row in rows[50:53]] == ["s50", "other", "s51"]
    assert (rows[1]["started"], rows[1]["seconds"]) == ("432060.000", "30.500")
    assert (rows[1]["pool"], rows[1]["node"], rows[1]["project"]) == ("gpu", "n", "TEST01")
    assert rows[1]["reason"] == "closed, by the client"


def test_what_is_exported_can_be_simulated(capsys, store):
    (store / "sessions.csv").write_text(exported(capsys, "--pool", "gpu"))
    assert read(store / "sessions.csv")[:2] == [(0.0, 30.5), (60.0, 30.5)]
    figures = []
    for record in (["sessions.csv"], ["rtcbridge.db"], ["rtcbridge.db", "--pool", "gpu", "--config", "bridge.toml"]):
        assert main(["simulate", "--json", "--arrivals", *record]) == 0
        figures.append(json.loads(capsys.readouterr().out)[0])
    assert [each["sessions"] for each in figures] == [90, 91, 90]  # the first tenth is not counted
    assert (figures[0]["floor"], figures[2]["floor"]) == (2, 0)


def test_the_pool_of_a_store_without_a_configuration(capsys):
    assert main(["simulate", "--json", "--arrivals", "rtcbridge.db", "--pool", "gpu"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sessions"] == 90


def test_mistakes(capsys, store):
    assert main(["simulate", "--arrivals", "rtcbridge.db", "--pool", "none"]) == 2
    assert capsys.readouterr().err == "rtcbridge simulate: rtcbridge.db: expected at least one session\n"
    (store / "bad.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    assert main(["simulate", "--arrivals", "bad.db"]) == 1
    assert "bad.db" in capsys.readouterr().err
    (store / "empty.toml").write_text('[store]\nurl = "sqlite:///none.db"\n')
    assert main(["sessions", "--csv", "--config", "empty.toml"]) == 1
    assert "none.db: no such file" in capsys.readouterr().err
    assert not (store / "none.db").exists()
