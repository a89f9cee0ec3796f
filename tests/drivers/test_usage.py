import itertools
import random

import pytest

from drivers.test_ledger import session
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.drivers.ledger.usage import Usage, usage


@pytest.fixture
def database(store_url):
    with open_store(store_url) as database:
        yield database


async def record(database, rows):
    ledger = SessionLedger(database)
    for row in rows:
        ledger.session_started(row)
        if row.ended is not None:
            ledger.session_ended(row.id, row.ended, "closed")
    await ledger.close()


async def test_a_period_counts_what_lies_in_it(database):
    await record(
        database,
        [
            session("before", started=10.0, ended=100.0),
            session("into", started=50.0, ended=130.25),
            session("within", started=110.0, ended=120.0),
            session("out of", started=190.0, ended=500.0),
            session("around", started=1.0, ended=999.0),
            session("after", started=200.0, ended=201.0),
            session("open", started=150.0),
            session("open from before", started=5.0),
            session("open later", started=200.0),
            session("nothing", started=100.0, ended=100.0),
            session("clock set back", started=160.0, ended=159.0),
            session("other", project="OTHER1", started=100.0, ended=200.0),
        ],
    )
    # into 30.25, within 10, out of 10, around 100, open 50, open from before 100
    test = Usage(project="TEST01", sessions=8, open=2, seconds=300.25)
    other = Usage(project="OTHER1", sessions=1, seconds=100.0)
    assert usage(database, 100.0, 200.0) == [other, test]
    assert usage(database, 100.0, 200.0, project="TEST01") == [test]
    assert usage(database, 100.0, 200.0, project="NONE00") == [Usage(project="NONE00")]
    assert usage(database, 2_000.0, 3_000.0, project="OTHER1") == [Usage(project="OTHER1")]
    assert usage(database, 0.0, 1.0) == []


async def test_an_end_without_its_start_is_nobodys(database):
    ledger = SessionLedger(database)
    ledger.session_ended("s1", 150.0, "node lost")
    await ledger.flush()
    assert usage(database, 0.0, 200.0) == []
    ledger.session_started(session(started=100.0))
    await ledger.close()
    assert usage(database, 0.0, 200.0) == [Usage(project="TEST01", sessions=1, seconds=50.0)]


async def test_periods_add_up(database):
    """The same sums by another way: the seconds of all sessions, one by one. Quarters of seconds add up exactly."""
    seeded = random.Random(7)
    rows = []
    for number in range(400):
        started = seeded.randrange(4_000) / 4
        ended = None if number % 9 == 0 else started + seeded.randrange(800) / 4
        project = f"TEST{number % 3:02}"
        rows.append(session(f"s{number:03}", project=project, started=started, ended=ended))
    await record(database, rows)

    def expected(project, since, until):
        spans = [(row.started, until if row.ended is None else row.ended) for row in rows if row.project == project]
        return sum(max(0.0, min(end, until) - max(start, since)) for start, end in spans)

    cuts = sorted(seeded.randrange(5_000) / 4 for _ in range(12))
    for since, until in itertools.pairwise(cuts):
        for row in usage(database, since, until):
            assert row.seconds == expected(row.project, since, until)
    for project in ("TEST00", "TEST01", "TEST02"):
        parts = [usage(database, *cut, project=project)[0].seconds for cut in itertools.pairwise(cuts)]
        assert sum(parts) == usage(database, cuts[0], cuts[-1], project=project)[0].seconds
