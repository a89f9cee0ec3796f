import json
import time

import pytest

from rtcbridge.cli import main
from rtcbridge.cli.table import span
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import NodeRow, OverrideRow, SessionRow

CONFIG = """
[[pools]]
slots = 2
min_ready = 1
[[pools]]
name = "gpu"
provider = "static"
"""


@pytest.fixture(autouse=True)
async def store(tmp_path, monkeypatch):
    """A store as a bridge leaves it: two nodes, two open sessions, one that ended."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridge.toml").write_text(CONFIG)
    now = time.time()
    with open_store(f"sqlite:///{tmp_path}/rtcbridge.db") as database:
        ledger = SessionLedger(database)
        await ledger.save_node(
            NodeRow(id="n-1", pool="default", managed=True, state="READY", capacity=2, since=now - 130.5)
        )
        await ledger.save_node(
            NodeRow(
                id="n-2",
                pool="default",
                managed=True,
                state="FAILED",
                capacity=1,
                since=now - 3.5,
                reason="no \x1b[31mGPU\nhere",
            )
        )
        await ledger.save_node(
            NodeRow(id="g-1", pool="gpu", managed=False, state="READY", capacity=4, since=now - 90_000.5)
        )
        for name, node, pool, age in (("s-1", "n-1", "default", 50.5), ("s-2", "n-1", "default", 20.5)):
            ledger.session_started(SessionRow(id=name, pool=pool, node=node, project="TEST01", started=now - age))
        ledger.session_started(SessionRow(id="s-3", pool="gpu", node="g-1", project="TEST02", started=now - 100.5))
        ledger.session_ended("s-3", now - 90.0, "")
        await ledger.close()
    monkeypatch.setattr(time, "time", lambda: now)  # however long the machine takes to look


def table(capsys, *arguments):
    assert main([*arguments, "--config", "bridge.toml"]) == 0
    out, err = capsys.readouterr()
    said = f"rtcbridge {arguments[0]}: no bridge runs on this store; the list is what it says\n"
    assert err == ("" if "--all" in arguments else said)
    return [line.split() for line in out.splitlines()]


def parsed(capsys, *arguments):
    assert main([*arguments, "--json", "--config", "bridge.toml"]) == 0
    return json.loads(capsys.readouterr().out)


def test_nodes(capsys):
    assert table(capsys, "nodes") == [
        ["NODE", "POOL", "STATE", "FOR", "SESSIONS", "MADE", "BY", "REASON"],
        ["g-1", "gpu", "READY", "1d", "1h", "0/4", "hand"],
        ["n-1", "default", "READY", "2m", "10s", "2/2", "provider"],
        ["n-2", "default", "FAILED", "3s", "0/1", "provider", "no", "�[31mGPU�here"],
    ]
    assert [line[0] for line in table(capsys, "nodes", "--pool", "gpu")] == ["NODE", "g-1"]


def test_nodes_as_json(capsys):
    first, second, third = parsed(capsys, "nodes")
    assert (first["id"], first["managed"], first["capacity"], first["sessions"]) == ("g-1", False, 4, 0)
    assert (second["id"], second["state"], second["sessions"]) == ("n-1", "READY", 2)
    assert third["reason"] == "no \x1b[31mGPU\nhere"


def test_open_sessions_and_all(capsys):
    head, first, second = table(capsys, "sessions")
    assert head == ["SESSION", "POOL", "NODE", "PROJECT", "STARTED", "LASTED", "END"]
    assert first[:4] == ["s-1", "default", "n-1", "TEST01"]
    assert first[6:] == ["50s"]
    assert second[0] == "s-2"
    every = table(capsys, "sessions", "--all")
    assert [line[0] for line in every] == ["SESSION", "s-2", "s-1", "s-3"]
    assert every[3][6:] == ["10s", "ended"]
    assert [line[0] for line in table(capsys, "sessions", "--all", "--limit", "1")] == ["SESSION", "s-2"]
    assert [row["ended"] for row in parsed(capsys, "sessions")] == [None, None]
    assert len(parsed(capsys, "sessions", "--all")) == 3


def test_pools(capsys):
    assert table(capsys, "pools") == [
        ["POOL", "PROVIDER", "SLOTS", "A", "NODE", "MIN", "READY", "NODES", "STATES", "SESSIONS"],
        ["default", "local", "2", "1", "2/4", "1", "FAILED,", "1", "READY", "2"],
        ["gpu", "static", "1", "0", "1/-", "1", "READY", "0"],
    ]
    first, second = parsed(capsys, "pools")
    assert first == {
        "name": "default",
        "provider": "local",
        "slots": 2,
        "min_ready": 1,
        "max_nodes": 4,
        "nodes": {"READY": 1, "FAILED": 1},
        "sessions": 2,
    }
    assert second["max_nodes"] is None


async def test_pools_as_they_were_changed_at_run_time(tmp_path, capsys):
    with open_store(f"sqlite:///{tmp_path}/rtcbridge.db") as database:
        ledger = SessionLedger(database)
        for pool, settings in (("default", '{"max_nodes":9}'), ("gpu", '{"max_nodes":9}'), ("old", "{}")):
            await ledger.save_override(OverrideRow(pool=pool, settings=settings, changed=1.0, key="1"))
        await ledger.close()
    assert [(row["max_nodes"], row["min_ready"]) for row in parsed(capsys, "pools")] == [(9, 1), (None, 0)]


def test_a_pool_that_only_the_store_knows_can_be_asked_for(capsys):
    assert main(["nodes", "--pool", "gpu"]) == 0, "without the configuration that has it"
    assert "g-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m 0s"), (3_661, "1h 1m"), (86_400, "1d 0h"), (90_000, "1d 1h")],
)
def test_spans_of_time(seconds, text):
    assert span(seconds) == text
