"""One timer wheel for all pings and protocol deadlines of a process.

After Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987), with a dictionary as the hash:
deadlines are rounded up to ticks, and all timers of a tick share one bucket. An event loop's own timers sit
in one heap, which is slow to cancel from and holds what was cancelled; here both ways are O(1).
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Any

RESOLUTION = 0.025
"""Seconds a tick. A timer fires at most this much late, and never early."""

_SLACK = 0.001  # uvloop rounds delays to milliseconds; without this a wake-up could come just before its tick


class Timer:
    """A call that is to come. Made by `TimerWheel.call_later`."""

    __slots__ = ("_args", "_callback", "_tick", "_wheel")

    def __init__(self, wheel: TimerWheel, tick: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._wheel: TimerWheel | None = wheel
        self._tick = tick
        self._callback: Callable[..., object] | None = callback
        self._args = args

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._wheel is not None

    def cancel(self) -> None:
        """Forget the call. Does nothing if it was made, or cancelled, before."""
        wheel, self._wheel = self._wheel, None
        if wheel is not None:
            self._callback, self._args = None, ()
            wheel._discard(self)

    def _fire(self) -> None:
        callback, args = self._callback, self._args
        self._wheel, self._callback, self._args = None, None, ()
        if callback is not None:
            callback(*args)


class TimerWheel:
    """All timers of one event loop, behind a single timer of that loop, or none while nothing is scheduled.

    Not thread-safe: to be used from the loop's own thread.

    Args:
        loop: The event loop that makes the calls.
        clock: Monotonic time in seconds.
    """

    __slots__ = ("_buckets", "_clock", "_loop", "_ticks", "_wake", "_wake_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._buckets: dict[int, dict[Timer, None]] = {}  # a dict and not a set: calls keep their order
        self._ticks: list[int] = []  # a heap; may name ticks whose bucket has been emptied
        self._wake: asyncio.TimerHandle | None = None
        self._wake_tick = 0

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` in `delay` seconds, or up to `RESOLUTION` later.

        An exception of the callback goes to the loop's exception handler; the other timers fire all the same.
        """
        tick = int((self._clock() + delay) / RESOLUTION) + 1
        timer = Timer(self, tick, callback, args)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {timer: None}
            heapq.heappush(self._ticks, tick)
            if self._wake is None or tick < self._wake_tick:
                self._arm(tick)
        else:
            bucket[timer] = None
        return timer

    def _discard(self, timer: Timer) -> None:
        bucket = self._buckets.get(timer._tick)
        if bucket is None:  # its tick is being fired just now
            return
        bucket.pop(timer, None)
        if not bucket:
            del self._buckets[timer._tick]
            if not self._buckets:
                self._ticks.clear()
                self._disarm()

    def _disarm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _arm(self, tick: int) -> None:
        self._disarm()
        self._wake_tick = tick
        self._wake = self._loop.call_later(max(0.0, tick * RESOLUTION - self._clock()) + _SLACK, self._turn)

    def _turn(self) -> None:
        self._wake = None
        now = self._clock()
        ticks = self._ticks
        while ticks and ticks[0] * RESOLUTION <= now:
            for timer in self._buckets.pop(heapq.heappop(ticks), ()):
                try:
                    timer._fire()
                except Exception as error:
                    self._loop.call_exception_handler({"message": "a timer's callback failed", "exception": error})
        while ticks and ticks[0] not in self._buckets:
            heapq.heappop(ticks)
        if ticks and (self._wake is None or ticks[0] < self._wake_tick):
            self._arm(ticks[0])

    def lane(self, delay: float, callback: Callable[[Any], object]) -> Lane:
        """Return a lane for timers that all take `delay` seconds and call `callback` with what was added."""
        return Lane(self, self._clock, delay, callback)


class Lane:
    """Timers of one length: what was added first is due first. Adding and discarding cost a dictionary operation.

    To be had from `TimerWheel.lane`. A call comes up to `RESOLUTION` late, and never early.
    """

    __slots__ = ("_added", "_callback", "_clock", "_delay", "_timer", "_wheel")

    def __init__(
        self, wheel: TimerWheel, clock: Callable[[], float], delay: float, callback: Callable[[Any], object]
    ) -> None:
        self._wheel = wheel
        self._clock = clock
        self._delay = delay
        self._callback = callback
        self._added: dict[Any, float] = {}  # when; oldest first
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._added)

    def add(self, item: Any) -> None:
        """Call back with this item when the delay has passed. It must be hashable, and not be in the lane."""
        self._added[item] = self._clock()
        if self._timer is None:
            self._timer = self._wheel.call_later(self._delay, self._turn)

    def discard(self, item: Any) -> None:
        """Forget the item, if it is here. The lane's own timer stays: one for all is not worth a cancellation."""
        self._added.pop(item, None)

    def _turn(self) -> None:
        self._timer = None
        added, now = self._added, self._clock()
        try:
            while added:
                item = next(iter(added))
                due = added[item] + self._delay
                if due > now:
                    break
                del added[item]
                self._callback(item)
        finally:
            if added and self._timer is None:
                first = next(iter(added.values()))
                self._timer = self._wheel.call_later(max(0.0, first + self._delay - now), self._turn)
