"""Which picture a frame was made of, by the time at which it comes: pure, over made-up networks."""

import random

import pytest

from rtcbridge.client.timeline import Timeline

FPS = 30


def run(latency: float, kept: set[int], jitter: float = 0.0, count: int = 300, seed: int = 1) -> list[tuple[int, int]]:
    """Send `count` pictures, have those in `kept` come back; return what each was taken for, and what it was."""
    chance = random.Random(seed)
    events = [(number / FPS, 0, number) for number in range(count)]
    last = 0.0
    for number in sorted(kept):
        last = max(last + 1e-4, number / FPS + latency + chance.uniform(0, jitter))
        events.append((last, 1, number))
    timeline, found = Timeline(latency + jitter / 2), []  # which is measured as the median
    for now, kind, number in sorted(events):
        if kind == 0:
            timeline.sent(now, number / FPS)
        elif (got := timeline.returned(now)) is not None:
            assert got[1] == pytest.approx(got[0] / FPS)
            found.append((got[0], number))
    return found


@pytest.mark.parametrize("latency", [0.003, 0.05, 0.5, 2.0])
def test_all_come_back_in_time(latency: float) -> None:
    assert run(latency, set(range(300))) == [(number, number) for number in range(300)]


@pytest.mark.parametrize("jitter", [0.01, 0.025])
def test_some_are_late(jitter: float) -> None:
    found = run(0.1, set(range(300)), jitter)
    assert max(abs(taken - real) for taken, real in found) <= 1
    assert sum(taken == real for taken, real in found) > 0.9 * len(found)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_a_slow_model_leaves_most_out(every: int) -> None:
    found = run(0.1, set(range(0, 300, every)))
    assert max(abs(taken - real) for taken, real in found) <= 1
    assert sum(taken == real for taken, real in found) > 0.9 * len(found)


def test_one_in_twenty_is_left_out() -> None:
    """It is noticed at once where two are missing, or within some pictures."""
    found = run(0.1, {number for number in range(300) if number % 20})
    assert max(abs(taken - real) for taken, real in found) <= 1
    assert sum(taken == real for taken, real in found) > 0.6 * len(found)


def test_a_gap_is_noticed_at_once() -> None:
    found = run(0.1, set(range(100)) | set(range(140, 300)))
    assert found[100] == (140, 140)


def test_what_was_sent_before_the_first_is_not_taken() -> None:
    timeline = Timeline(0.1)
    assert timeline.returned(1.0) is None
    for number in range(5):
        timeline.sent(2.0 + number / FPS, number / FPS)
    assert timeline.returned(2.05) is None
    assert timeline.returned(2.1) == (0, 0.0)


def test_no_picture_is_taken_twice_and_order_is_kept() -> None:
    timeline, found = Timeline(0.1), []
    timeline.sent(0.0, 0.0)
    timeline.sent(1 / FPS, 1 / FPS)
    for now in (0.1, 0.101, 0.102, 0.103):
        got = timeline.returned(now)
        found.append(got and got[0])
    assert found == [0, 1, None, None]
