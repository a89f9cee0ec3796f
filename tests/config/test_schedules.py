"""Windows of time: open from the time alone, over changes of daylight saving time too."""

from datetime import datetime
from math import inf
from zoneinfo import ZoneInfo

import pytest

from rtcbridge.config.schedules import Schedule, in_force
from rtcbridge.core.spec import Window

BERLIN = "Europe/Berlin"  # clocks go on at 2:00 on 2026-03-29, and back at 3:00 on 2026-10-25


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(cron: str = "0 8 * * mon-fri", zone: str = BERLIN, min_ready: int = 4, **length: object) -> Schedule:
    return Schedule(cron, zone, Window(min_ready=min_ready), **(length or {"until": "18:30"}))  # type: ignore[arg-type]


OFFICE = [  # 2026-11-23 is a Monday
    ("2026-11-23T07:59:59", False, "2026-11-23T08:00"),
    ("2026-11-23T08:00:00", True, "2026-11-23T18:30"),
    ("2026-11-23T12:34:56", True, "2026-11-23T18:30"),
    ("2026-11-23T18:30:00", False, "2026-11-24T08:00"),
    ("2026-11-27T19:00:00", False, "2026-11-30T08:00"),
    ("2026-11-28T12:00:00", False, "2026-11-30T08:00"),
]


@pytest.mark.parametrize(("now", "is_open", "change"), OFFICE)
def test_office_hours(now: str, is_open: bool, change: str) -> None:
    assert window().look(at(now)) == (is_open, at(change))


def test_until_is_the_next_such_time_of_day() -> None:
    night = window("0 22 * * *", until="06:00")
    assert night.look(at("2026-11-23T23:00")) == (True, at("2026-11-24T06:00"))
    assert night.look(at("2026-11-24T05:59:59")) == (True, at("2026-11-24T06:00"))
    assert night.look(at("2026-11-24T06:00")) == (False, at("2026-11-24T22:00"))
    assert window("0 8 * * *", until="08:00").look(at("2026-11-24T07:00")) == (True, at("2026-11-24T08:00"))


def test_a_duration_may_be_longer_than_the_time_between_two_openings() -> None:
    always = window("0 * * * *", duration=7200.0)
    assert always.look(at("2026-11-23T12:59")) == (True, at("2026-11-23T14:00"))


def test_a_window_over_the_change_to_summer_time() -> None:
    assert window("0 22 * * *", until="06:00").look(at("2026-03-28T23:00")) == (True, at("2026-03-29T06:00"))
    assert at("2026-03-29T06:00") - at("2026-03-28T22:00") == 7 * 3600
    long = window("0 22 * * *", duration=8 * 3600.0)
    assert long.look(at("2026-03-29T06:30")) == (True, at("2026-03-29T07:00"))  # eight hours are eight hours
    assert window("30 2 * * *", duration=60.0).look(at("2026-03-29T03:00:30"))[0]  # what is skipped comes at once


def test_a_window_over_the_change_from_summer_time() -> None:
    assert at("2026-10-25T06:00") - at("2026-10-24T22:00") == 9 * 3600
    assert window("0 22 * * *", until="06:00").look(at("2026-10-25T05:30")) == (True, at("2026-10-25T06:00"))
    once = window("30 2 * * *", duration=600.0)
    opened = [fold for fold in (0, 1) if once.look(at("2026-10-25T02:35", fold=fold))[0]]
    assert len(opened) == 1  # the hour comes twice, the window once


def test_zones() -> None:
    assert window(zone="Asia/Kolkata").look(at("2026-11-23T08:00", "Asia/Kolkata"))[0]
    assert not window(zone="UTC").look(at("2026-11-23T08:00", "Asia/Kolkata"))[0]


def test_one_that_comes_every_four_years() -> None:
    leap = window("0 0 29 2 *", zone="UTC", duration=60.0)
    assert leap.look(at("2026-11-23T00:00", "UTC")) == (False, at("2028-02-29T00:00", "UTC"))


def test_the_last_open_window_that_names_a_size_decides() -> None:
    day = Schedule("0 8 * * *", BERLIN, Window(min_ready=2, max_nodes=9), until="20:00")
    rush = Schedule("0 17 * * *", BERLIN, Window(min_ready=6), duration=3600.0)
    some = [day, rush]
    assert in_force(some, at("2026-11-23T07:00")) == (None, at("2026-11-23T08:00"))
    assert in_force(some, at("2026-11-23T16:00")) == (Window(min_ready=2, max_nodes=9), at("2026-11-23T17:00"))
    assert in_force(some, at("2026-11-23T17:10")) == (Window(min_ready=6, max_nodes=9), at("2026-11-23T18:00"))
    assert in_force([], 0.0) == (None, inf)
