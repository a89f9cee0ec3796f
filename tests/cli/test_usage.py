import json
import re
from datetime import UTC, datetime

import pytest

from rtcbridge.cli import main
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import SessionRow

NEW_YEAR = datetime(2026, 1, 1).astimezone().timestamp()  # of this machine's zone


@pytest.fixture(autouse=True)
async def folder(tmp_path, monkeypatch):
    """A store of three sessions; the last is open, since a moment ago."""
    monkeypatch.chdir(tmp_path)
    with open_store(f"sqlite:///{tmp_path}/rtcbridge.db") as store:
        ledger = SessionLedger(store)
        for name, project, started in (
            ("a", "TEST01", NEW_YEAR - 10.5),
            ("b", "OTHER1", NEW_YEAR + 3_600.0),
            ("c", "TEST01", NEW_YEAR + 7_200.0),
        ):
            ledger.session_started(SessionRow(id=name, pool="gpu", node="n", project=project, started=started))
        ledger.session_ended("a", NEW_YEAR + 20.25, "closed")
        ledger.session_ended("b", NEW_YEAR + 3_661.0, "closed")
        await ledger.close()
    return tmp_path


def printed(capsys, *arguments):
    assert main(["usage", *arguments]) == 0
    return capsys.readouterr().out


def test_a_table_of_a_day(capsys):
    assert printed(capsys, "--since", "2025-12-31", "--until", "2026-01-01T02:00") == (
        "PROJECT  SESSIONS  OPEN  SECONDS\nOTHER1   1         0     61.000\nTEST01   1         0     30.750\n"
    )


def test_csv_for_a_bill(capsys):
    out = printed(capsys, "--since", "2026-01-01", "--until", "2026-01-01T02:00:30", "--csv")
    assert out == "project,sessions,open,seconds\nOTHER1,1,0,61.0\nTEST01,2,1,50.25\n"


def test_json_of_one_project_until_now(capsys):
    (row,) = json.loads(printed(capsys, "--project", "TEST01", "--json"))
    lasted = datetime.now(UTC).timestamp() - (NEW_YEAR + 7_200.0)
    assert row.pop("seconds") == pytest.approx(30.75 + lasted, abs=30.0)
    assert row == {"project": "TEST01", "sessions": 2, "open": 1}


def test_an_open_session_counts_only_what_it_has_run(capsys):
    now = json.loads(printed(capsys, "--project", "TEST01", "--json"))[0]["seconds"]
    later = json.loads(printed(capsys, "--project", "TEST01", "--json", "--until", "2999-01-01"))[0]["seconds"]
    assert now <= later < now + 30.0


@pytest.mark.parametrize(
    "moments",
    [
        (f"{NEW_YEAR}", f"{NEW_YEAR + 20}"),
        (datetime.fromtimestamp(NEW_YEAR, UTC).isoformat(), datetime.fromtimestamp(NEW_YEAR + 20, UTC).isoformat()),
    ],
)
def test_moments_as_unix_seconds_and_with_a_zone(capsys, moments):
    since, until = moments
    assert printed(capsys, "--since", since, "--until", until, "--csv").splitlines()[1] == "TEST01,1,0,20.0"


def test_a_project_without_sessions_is_named(capsys):
    assert printed(capsys, "--project", "NONE00", "--csv").splitlines()[1] == "NONE00,0,0,0.0"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--project", "x"], "--project expects six characters A-Z 0-9, got 'x'"),
        (["--since", "yesterday"], "--since expects a day such as 2026-01-31, .*, got 'yesterday'"),
        (["--until", "12345"], "--until expects a day .*"),
        (["--since", "nan"], "--since expects a day .*"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], "--since expects a moment before --until.*"),
        (["--since", "2999-01-01"], "--since expects a moment before --until, and not in the future"),
        (["--json", "--csv"], ".*not allowed with.*"),
    ],
)
def test_what_is_not_understood(capsys, arguments, expected):
    assert main(["usage", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"rtcbridge usage: {expected}\n", err)
