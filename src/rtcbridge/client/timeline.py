"""Which picture of the source a picture that comes back was made of: by the time at which it comes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from statistics import median

_WINDOW = 9  # pictures over which it is judged whether we are off by one
_OFF = 0.6  # of the gap between two pictures
_GAPS = 5  # between pictures that came back, of which the median says how many are left out as a rule
_MOST_STEP = 1.5  # pictures sent for each that comes back, above which many are left out
_KEEP = 10.0  # seconds for which a picture that was sent may come back


class Timeline:
    """Nothing in a picture says which one it is, but order is kept, and the latency is known and hardly changes.

    Where all come back, a picture is the next one, unless it comes so late that more must have been left out; and where
    the last ones were off by most of a gap, they were off by one. Where a slow model leaves out many, it is the one
    that was sent nearest to when it should have been.

    Args:
        latency: seconds from sending a picture to its return.
    """

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self._sent: deque[tuple[float, float]] = deque()
        self._first = 0  # index of the oldest in `_sent`
        self._last = -1  # index that was given last
        self._late: deque[float] = deque(maxlen=_WINDOW)
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._came = 0.0  # when the last one did

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
        if self._last < 0 and moment < self._sent[0][0] - self._gap(0) / 2:
            return None
        if self._came:
            self._gaps.append(now - self._came)
        self._came = now
        index = self._choose(moment)
        if index <= self._last:
            return None  # more came back than was sent
        self._last = index
        return index, self._sent[index - self._first][1]

    def _choose(self, moment: float) -> int:
        expected, newest = max(self._last + 1, self._first), self._first + len(self._sent) - 1
        nearest = self._nearest(moment)
        step = median(self._gaps) / self._gap(nearest - self._first) if self._gaps else 1.0
        if step > _MOST_STEP or nearest > expected + 1 or expected > newest:
            self._late.clear()
            return nearest
        self._late.append(self._lateness(moment, expected))
        if len(self._late) < _WINDOW or abs(median(self._late)) < _OFF:
            return expected
        late = median(self._late)
        self._late.clear()
        return min(expected + 1, newest) if late > 0 else expected - 1

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
