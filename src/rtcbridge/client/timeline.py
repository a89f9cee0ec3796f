"""Which picture of the source a picture that comes back was made of: by the time at which it comes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from statistics import median

_WINDOW = 7  # pictures over which it is judged whether we are off by one
_OFF = 0.6  # of the gap between two pictures
_KEEP = 10.0  # seconds for which a picture that was sent may come back


class Timeline:
    """Nothing in a picture says which one it is, but order is kept, and the latency is known and hardly changes.

    A picture is taken for the next one, unless it comes so late that more than one must have been left out; where
    the last ones were on average late by most of a gap, one was left out unnoticed.

    Args:
        latency: seconds from sending a picture to its return.
    """

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self._sent: deque[tuple[float, float]] = deque()
        self._first = 0  # index of the oldest in `_sent`
        self._last = -1  # index that was given last
        self._late: deque[float] = deque(maxlen=_WINDOW)

    def sent(self, now: float, time: float) -> None:
        """A picture, `time` on the source's clock, has been sent."""
        self._sent.append((now, time))
        while self._sent and self._sent[0][0] < now - _KEEP - self.latency:
            self._sent.popleft()
            self._first += 1

    def returned(self, now: float) -> tuple[int, float] | None:
        """A picture has come: return the index and the time of its source; None for one from before the first."""
        if not self._sent:
            return None
        moment = now - self.latency
        expected = max(self._last + 1, self._first)
        end = self._first + len(self._sent)
        if self._last < 0 and moment < self._sent[0][0] - self._gap(0) / 2:
            return None
        nearest = self._nearest(moment)
        index = nearest if nearest > expected + 1 or expected >= end else expected
        late = self._lateness(moment, index)
        self._late.append(late)
        if index == expected and len(self._late) == _WINDOW and median(self._late) > _OFF and index + 1 < end:
            index += 1
            self._late.clear()
        if index <= self._last:
            return None  # more came back than was sent
        self._last = index
        return index, self._sent[index - self._first][1]

    def _nearest(self, moment: float) -> int:
        at = bisect_left(self._sent, (moment, float("-inf")))
        if at == len(self._sent) or (at and moment - self._sent[at - 1][0] <= self._sent[at][0] - moment):
            at -= 1
        return self._first + at

    def _lateness(self, moment: float, index: int) -> float:
        at = index - self._first
        return (moment - self._sent[at][0]) / self._gap(at)

    def _gap(self, at: int) -> float:
        """Seconds between the picture at this place and its neighbour; never 0."""
        if len(self._sent) < 2:
            return 1 / 30
        at = min(at, len(self._sent) - 2)
        return max(1e-3, self._sent[at + 1][0] - self._sent[at][0])
