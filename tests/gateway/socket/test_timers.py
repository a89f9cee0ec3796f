from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise

import pytest

from gateway.socket.tools import TIMEOUT, FakeLoop
from rtcbridge.gateway.timers import RESOLUTION, TimerWheel

LATE = RESOLUTION + 0.002  # a tick, and the slack of the wake-up


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def wheel(loop: FakeLoop) -> TimerWheel:
    return TimerWheel(loop, loop.clock)  # type: ignore[arg-type]


def test_fires_once_with_its_arguments(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls = []
    timer = wheel.call_later(0.05, lambda *args: calls.append((loop.now, args)), 1, "two")
    assert timer.active
    assert len(wheel) == 1
    loop.advance(0.049)
    assert calls == []
    loop.advance(10)
    ((when, args),) = calls
    assert 1000.05 <= when <= 1000.05 + LATE
    assert args == (1, "two")
    assert not timer.active
    assert len(wheel) == 0
    timer.cancel()  # harmless


def test_no_wake_up_without_timers(loop: FakeLoop, wheel: TimerWheel) -> None:
    assert loop.pending() == 0
    first, second = wheel.call_later(1, print), wheel.call_later(2, print)
    assert loop.pending() == 1  # one timer of the loop, however many of ours
    first.cancel()
    second.cancel()
    assert loop.pending() == 0
    loop.advance(5)
    assert loop.wakes == 0


def test_an_earlier_timer_wakes_earlier(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls = []
    wheel.call_later(10, calls.append, "late")
    wheel.call_later(1, calls.append, "early")
    assert loop.pending() == 1
    loop.advance(2)
    assert calls == ["early"]
    loop.advance(20)
    assert calls == ["early", "late"]
    assert loop.wakes == 2


def test_timers_of_one_tick_keep_their_order_and_may_cancel_each_other(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls: list[int] = []
    wheel.call_later(1, calls.append, 1)
    wheel.call_later(1, lambda: third.cancel())
    third = wheel.call_later(1, calls.append, 3)
    wheel.call_later(1, calls.append, 4)
    loop.advance(2)
    assert calls == [1, 4]


def test_a_failing_callback_stops_no_other(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls: list[int] = []
    wheel.call_later(1, lambda: 1 / 0)
    wheel.call_later(1, calls.append, 2)
    wheel.call_later(2, calls.append, 3)
    loop.advance(3)
    assert calls == [2, 3]
    assert isinstance(loop.errors[0]["exception"], ZeroDivisionError)


def test_rescheduling_from_a_callback(loop: FakeLoop, wheel: TimerWheel) -> None:
    times: list[float] = []

    def again() -> None:
        times.append(loop.now)
        if len(times) < 5:
            wheel.call_later(0, again)

    wheel.call_later(0, again)
    loop.advance(1)
    assert len(times) == 5
    assert all(later > earlier for earlier, later in pairwise(times))
    assert loop.pending() == 0


@pytest.mark.parametrize("seed", range(20))
def test_against_a_plain_model(loop: FakeLoop, wheel: TimerWheel, seed: int) -> None:
    chance = random.Random(seed)
    expected: dict[int, float] = {}
    fired: dict[int, float] = {}
    timers = {}
    for number in range(300):
        delay = chance.choice([0, 0.01, 0.05, 0.5, 5, 60]) * chance.random()
        timers[number] = wheel.call_later(delay, lambda n: fired.setdefault(n, loop.now), number)
        expected[number] = loop.now + delay
        if chance.random() < 0.4:
            victim = chance.choice(list(timers))
            if victim not in fired:
                timers[victim].cancel()
                expected.pop(victim, None)
        loop.advance(chance.choice([0, 0, 0.01, 0.2]))
    assert len(wheel) == len(expected) - len(fired)
    loop.advance(120)
    assert fired.keys() == expected.keys()
    for number, due in expected.items():
        assert due - 1e-9 <= fired[number] <= due + LATE
    assert len(wheel) == loop.pending() == 0


async def test_on_a_real_loop_never_early() -> None:
    wheel = TimerWheel(asyncio.get_running_loop())
    done: asyncio.Queue[float] = asyncio.Queue()
    delays = [0.0, 0.05, 0.051, 0.0749, 0.1, 0.13]
    started = time.monotonic()
    for delay in delays:
        wheel.call_later(delay, lambda due: done.put_nowait(time.monotonic() - due), started + delay)
    for _ in delays:
        assert 0 <= await asyncio.wait_for(done.get(), TIMEOUT) < 1


def test_a_lane_calls_in_order_and_never_early(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls: list[tuple[str, float]] = []
    lane = wheel.lane(1.0, lambda item: calls.append((item, loop.now)))
    begun = loop.now
    lane.add("a")
    loop.advance(0.5)
    lane.add("b")
    lane.add("c")
    assert len(lane) == 3
    assert loop.pending() == 1  # one timer for all
    lane.discard("b")
    lane.discard("nobody")
    loop.advance(0.499)
    assert calls == []
    loop.advance(5)
    assert [item for item, _ in calls] == ["a", "c"]
    assert all(0 <= when - begun - due <= LATE for (_, when), due in zip(calls, (1.0, 1.5), strict=True))
    assert len(lane) == loop.pending() == 0
    lane.add("d")
    loop.advance(5)
    assert calls[-1][0] == "d"


def test_a_lane_survives_a_callback_that_fails_or_adds(loop: FakeLoop, wheel: TimerWheel) -> None:
    calls: list[object] = []

    def call(item: str) -> None:
        calls.append(item)
        if item == "again" and calls.count("again") < 3:
            lane.add(item)
        if item == "bad":
            raise ZeroDivisionError

    lane = wheel.lane(1.0, call)
    for item in ("bad", "good", "again"):
        lane.add(item)
    loop.advance(10)
    assert calls == ["bad", "good", "again", "again", "again"]
    assert [type(error["exception"]) for error in loop.errors] == [ZeroDivisionError]
    assert len(lane) == loop.pending() == 0


def test_a_lane_that_was_emptied_calls_nobody(loop: FakeLoop, wheel: TimerWheel) -> None:
    lane = wheel.lane(1.0, lambda item: pytest.fail(item))
    lane.add("a")
    lane.discard("a")
    loop.advance(5)
    assert loop.pending() == 0
