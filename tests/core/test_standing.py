"""When a client in line is told again where it stands."""

from math import log

import pytest

from rtcbridge.core.standing import Told, pause, whole


@pytest.mark.parametrize("length", [10, 1_000, 100_000])
def test_the_looks_of_a_whole_line_are_bounded(length: int) -> None:
    assert sum(1 / pause(position) for position in range(1, length + 1)) < 10 * log(1 + length / 20)


@pytest.mark.parametrize(
    ("position", "eta", "now", "stale"),
    [
        (5, 100.0, 0.0, False),
        (4, 100.0, 0.0, True),  # it has moved up
        (5, 60.0, 40.0, False),  # as it counts down by itself
        (5, 100.0, 15.0, False),  # within a fifth of what is left
        (5, 100.0, 20.0, True),
        (5, 0.0, 99.0, False),
        (5, 5.0, 100.0, True),  # it should be served by now
        (5, None, 0.0, True),  # not known any more
    ],
)
def test_it_is_told_what_it_cannot_know(position: int, eta: float | None, now: float, stale: bool) -> None:
    assert Told(5, 100.0, 0.0).is_stale(position, eta, now) is stale


def test_an_unknown_time_that_stays_so_is_no_news() -> None:
    assert not Told(5, None, 0.0).is_stale(5, None, 50.0)
    assert Told(5, None, 0.0).is_stale(5, 3.0, 50.0)


def test_seconds_are_whole_and_not_too_early() -> None:
    assert (whole(None), whole(0.0), whole(1.2)) == (None, 0, 2)
