"""The sound waits as long as the pictures take."""

import asyncio
from typing import Any

import pytest

from rtcbridge.media import AudioFrame
from rtcbridge.node.delay import AudioDelay


class Clock:
    """A loop of which only time and timers are used."""

    def __init__(self) -> None:
        self.now = 10.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any) -> Any:
        self.timers.append((when, callback))
        clock, entry = self, self.timers[-1]

        class Handle:
            def cancel(self) -> None:
                clock.timers.remove(entry)

        return Handle()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [entry for entry in self.timers if entry[0] <= self.now]
        self.timers = [entry for entry in self.timers if entry[0] > self.now]
        for _, callback in due:
            callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def delay(clock: Clock) -> AudioDelay:
    loop: Any = clock
    assert asyncio.AbstractEventLoop.call_at
    return AudioDelay(loop)


def piece(n: int) -> AudioFrame:
    return AudioFrame(bytes([n, 0]), 48_000, 1)


def test_without_pictures_sound_passes_at_once(delay: AudioDelay) -> None:
    sent: list[AudioFrame] = []
    delay.put(piece(1), sent.append)
    assert sent == [piece(1)]


def test_sound_comes_as_late_as_the_pictures_and_in_order(delay: AudioDelay, clock: Clock) -> None:
    sent: list[AudioFrame] = []
    for _ in range(50):
        delay.observe(0.2)
    assert delay.seconds == pytest.approx(0.2)
    for n in range(3):
        delay.put(piece(n), sent.append)
        clock.advance(0.01)
    assert sent == []
    clock.advance(0.175)
    assert sent == [piece(0)]
    clock.advance(0.02)
    assert sent == [piece(0), piece(1), piece(2)]
    assert clock.timers == []


def test_a_smaller_delay_keeps_the_order(delay: AudioDelay, clock: Clock) -> None:
    sent: list[AudioFrame] = []
    delay.observe(0.5)
    delay.put(piece(1), sent.append)
    for _ in range(200):
        delay.observe(0.1)
    delay.put(piece(2), sent.append)
    clock.advance(0.2)
    assert sent == []
    clock.advance(0.31)
    assert sent == [piece(1), piece(2)]


def test_small_changes_are_not_followed_and_large_ones_are_bounded(delay: AudioDelay) -> None:
    delay.observe(0.1)
    for _ in range(100):
        delay.observe(0.12)
    assert delay.seconds == pytest.approx(0.1)
    for _ in range(100):
        delay.observe(60)
    assert delay.seconds <= 2.0


def test_the_queue_is_bounded_and_close_empties_it(delay: AudioDelay, clock: Clock) -> None:
    sent: list[AudioFrame] = []
    delay.observe(1.0)
    for n in range(1000):
        delay.put(piece(n % 256), sent.append)
    delay.close()
    clock.advance(5)
    assert sent == []
    assert clock.timers == []
