"""When will it be this session's turn? From how long starts and sessions took in this pool, and how old they are now.

Every slot that is to come, from a node that starts or from a session that ends, is a random time: the duration
observed so far, given that it has lasted as long as it has. How many slots have come at a time is a sum of independent
events, close to normal (the central limit theorem, with a correction for continuity); a slot that has come is
taken and given back again, which counts too (the renewal function).
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from math import ceil, exp, inf, log, sqrt
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")

WINDOW = 256  # durations that are remembered
CERTAINTY = 0.8  # the share of sessions that are to be served within the time that they are told
_Z = 0.8416  # the quantile of the normal distribution for it
_QUANTILES = 16  # moments that stand for one source
_SOURCES = 24  # of one kind, looked at one by one; more of them are sampled
_KNOTS = 32  # moments for which the returning slots are counted
_ROUNDING = 1e-9
_GRID, _SPAN = 48, 4.0  # steps of the renewal function, and how far they go, in means
_FRESH = 1.0  # seconds for which an outlook is used again


class Law:
    """The distribution of a duration, from what was observed of it: in steps, with an exponential tail.

    Of n observed, each step is 1 / (n + 1), as if one more had been longer than all: few say little.

    Raises:
        ValueError: nothing was observed.
    """

    def __init__(self, observed: Collection[float]) -> None:
        if not observed:
            raise ValueError("nothing was observed")
        self._sorted = sorted(observed)
        self._step = 1 / (len(observed) + 1)
        self.mean = max(sum(observed) / len(observed), 1e-3)
        variance = sum((each - self.mean) ** 2 for each in observed) / len(observed)
        self._spread = variance / self.mean**2  # the squared coefficient of variation
        self._grid: list[float] = []  # of the renewal function, when it is first asked for

    def share(self, seconds: float) -> float:
        """Return the probability that it has ended by then."""
        count = bisect_right(self._sorted, seconds)
        if count < len(self._sorted):
            return count * self._step
        return 1 - self._step * exp((self._sorted[-1] - seconds) / self.mean)

    def rest(self, age: float, share: float) -> float:
        """Return the time within which it ends with this probability (below 1), having lasted `age` seconds."""
        count = bisect_right(self._sorted, age)
        if count == len(self._sorted):
            return -self.mean * log(1 - share)
        gone = count * self._step
        reached = gone + (1 - gone) * share
        count = ceil(reached / self._step - _ROUNDING) - 1
        if count < len(self._sorted):
            return self._sorted[count] - age
        return self._sorted[-1] - self.mean * log((1 - reached) / self._step) - age

    def renewals(self, seconds: float) -> float:
        """Return how often it ends in this time, when it begins anew at each end: Cox, Renewal Theory (1962).

        R(t) = F(t) + ∫ R(t - s) dF(s), on a grid, and behind that along its asymptote.
        """
        step = self.mean * _SPAN / _GRID
        if not self._grid:
            shares = [self.share(step * n) for n in range(_GRID + 1)]
            grid = self._grid = [0.0]
            for n in range(1, _GRID + 1):
                before = (grid[n - i] * (shares[i] - shares[i - 1]) for i in range(1, n + 1))
                grid.append(shares[n] + sum(before))
        index = int(seconds / step)
        if index >= _GRID:
            return self._grid[-1] + (seconds - step * _GRID) / self.mean
        return self._grid[index] + (seconds / step - index) * (self._grid[index + 1] - self._grid[index])

    def variance(self, renewals: float) -> float:
        """Return the variance of so many renewals: their own, and that of the mean, which is only estimated."""
        return renewals * self._spread + renewals**2 * self._spread * self._step


class Source(NamedTuple):
    """`units` independent things of one law and age (seconds), each of which brings `slots` slots when it ends."""

    law: Law
    age: float
    units: float
    slots: float


class Outlook:
    """How many slots have come by which time, with `CERTAINTY`.

    Args:
        sources: where slots come from.
        sessions: how long a slot is taken; None if that is not known.
    """

    def __init__(self, sources: Sequence[Source], sessions: Law | None) -> None:
        self._times, self._sure = _sweep(sources, sessions)
        slots = sum(source.units * source.slots for source in sources)
        self._rate = slots / sessions.mean if sessions is not None else 0.0  # slots a second, in the long run

    def when(self, place: int) -> float | None:
        """Return after how many seconds the place in line (1 is the first) has been reached; None if not known."""
        times, sure = self._times, self._sure
        index = bisect_left(sure, place)
        if index < len(sure):
            if index == 0:
                return times[0]
            part = (place - sure[index - 1]) / (sure[index] - sure[index - 1])
            return times[index - 1] + part * (times[index] - times[index - 1])
        if not self._rate:
            return None
        return (times[-1] if times else 0.0) + (place - (sure[-1] if sure else 0.0)) / self._rate


def _sweep(sources: Sequence[Source], sessions: Law | None) -> tuple[list[float], list[float]]:
    """Return moments, and the number of slots that have come by each with the certainty that is wanted."""
    moments: list[tuple[float, int]] = []
    for number, (law, age, *_) in enumerate(sources):
        moments += [(law.rest(age, (part + 0.5) / _QUANTILES), number) for part in range(_QUANTILES)]
    moments.sort()
    knots: list[tuple[float, float, float]] = []  # the time, the mean, the variance
    ended = [0] * len(sources)
    mean = variance = 0.0
    every = max(1, len(moments) // _KNOTS)
    for count, (moment, number) in enumerate(moments, start=1):
        _, _, units, slots = sources[number]
        before = ended[number] / _QUANTILES
        ended[number] += 1
        after = ended[number] / _QUANTILES
        mean += units * slots / _QUANTILES
        variance += units * slots**2 * (after * (1 - after) - before * (1 - before))
        if count % every == 0 or count == len(moments):
            knots.append((moment, mean, variance))
    times: list[float] = []
    sure: list[float] = []
    most = -inf
    for moment, mean, variance in knots:
        again = 0.0
        if sessions is not None:
            again = _returns(knots, moment, sessions)
            variance += sessions.variance(again)
        most = max(most, mean + again + 0.5 - _Z * sqrt(max(0.0, variance)))
        if not sure or most > sure[-1]:
            times.append(moment)
            sure.append(most)
    return times, sure


def _returns(knots: Sequence[tuple[float, float, float]], until: float, sessions: Law) -> float:
    """Return how many of the slots that have come are given back until then."""
    total = before = 0.0
    for moment, mean, _ in knots:
        if moment >= until:
            break
        total += (mean - before) * sessions.renewals(until - moment)
        before = mean
    return total


class Estimator:
    """What one pool has seen of starts and sessions, and its outlook."""

    def __init__(self) -> None:
        self.starts, self.creations, self.sessions = (deque[float](maxlen=WINDOW) for _ in range(3))  # seconds
        self.held: dict[str, float] = {}  # sessions with a slot, and since when: the oldest first
        self._coming: dict[str, tuple[float, deque[float], bool]] = {}
        self._outlook: tuple[float, Outlook] | None = None

    # --- what is observed ---

    def begin(self, node: str, now: float, *, created: bool, whole: bool) -> None:
        """A node comes up. `whole`: its beginning was seen, so that it says how long it took."""
        self._coming[node] = (now, self.creations if created else self.starts, whole)

    def end(self, node: str, now: float, *, ready: bool) -> None:
        """A node is up, or will not be."""
        began, durations, whole = self._coming.pop(node, (0.0, self.starts, False))
        if ready and whole:
            durations.append(max(0.0, now - began))

    # --- what is expected ---

    def outlook(self, now: float, slots: int, starts: int, creations: int) -> Outlook:
        """Return what is to come, at most a second old.

        Args:
            now: seconds on the caller's clock.
            slots: of a node.
            starts: stopped nodes that are about to be started.
            creations: nodes that are about to be created.
        """
        if self._outlook is not None and 0 <= now - self._outlook[0] < _FRESH:
            return self._outlook[1]
        sessions = _law(self.sessions)
        laws = {id(kind): _law(kind) for kind in (self.starts, self.creations)}
        sources = [
            Source(law, now - began, units, slots)
            for (began, kind, _), units in _sample(self._coming)
            if (law := laws[id(kind)]) is not None
        ]
        for kind, count in ((self.starts, starts), (self.creations, creations)):
            if count and (law := laws[id(kind)]) is not None:
                sources.append(Source(law, 0.0, count, slots))
        if sessions is not None:
            sources += [Source(sessions, now - since, units, 1) for since, units in _sample(self.held)]
        outlook = Outlook(sources, sessions)
        self._outlook = (now, outlook)
        return outlook

    def delay(self, place: int, now: float, slots: int, starts: int, creations: int) -> float | None:
        """Return after how many seconds a place in line is served; None while that is not known. See `outlook`."""
        outlook = self.outlook(now, slots, starts, creations)
        seconds = outlook.when(place)
        age = now - self._outlook[0] if self._outlook is not None else 0.0
        return None if seconds is None else max(0.0, seconds - age)

    @property
    def coming(self) -> int:
        """How many nodes come up."""
        return len(self._coming)


def _law(durations: deque[float]) -> Law | None:
    return Law(durations) if durations else None


def _sample(things: Mapping[str, _T]) -> list[tuple[_T, float]]:
    """Some of the values, evenly spread, each with the number that it stands for."""
    step = -(-len(things) // _SOURCES) or 1
    some = list(islice(things.values(), step // 2, None, step))
    return [(each, len(things) / len(some)) for each in some]
