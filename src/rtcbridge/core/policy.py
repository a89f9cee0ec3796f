"""How many slots a pool should have up. Pure arithmetic; the caller brings the time."""

from math import ceil, exp, inf, log, sqrt
from typing import NamedTuple

from rtcbridge.core.spec import PoolSpec

_NEAR = 1e-3  # sessions: an average so close to the demand is there
_PAST = 1e-4  # of the window: so long after a change of the band it has happened, in spite of rounding


def target(demand: int, floor: int, beta: float = 0.0, average: float | None = None) -> int:
    """Return how many slots should be up for a demand of so many sessions, served and waiting.

    Square-root staffing (Halfin and Whitt 1981): demand + max(floor, beta * sqrt(demand)), rounded up.
    `floor` is the pool's `min_ready`. With an `average` of the demand, that is what the root is taken of, as long
    as there is any demand: how much a demand will change depends on how many sessions come and go, which its
    average says better than the chance of the moment. Without demand there is nothing but the floor.
    """
    if not demand:
        return floor
    return demand + _buffer(floor, beta, demand if average is None else average)


def _buffer(floor: int, beta: float, demand: float) -> int:
    return max(floor, ceil(beta * sqrt(demand)))


class Band(NamedTuple):
    """Between these many slots up, nothing is done: fewer than `start` are too few, more than `stop` too many."""

    start: int
    stop: float


class Staffing:
    """The band of a pool as its demand changes.

    What starts and stops costs is in proportion to how many machines start and stop; the best policy for such costs
    leaves a demand room between two bounds instead of following it (Harrison and Taksar 1983, "Instantaneous control
    of Brownian motion"). The lower bound is `target`; the upper one is the same with `hold_beta`. The average is
    exponentially weighted, with `demand_window` as its time constant, and exact however often it is asked.
    """

    def __init__(self) -> None:
        self._demand = 0
        self._average: float | None = None  # None until the first demand is seen
        self._at = 0.0

    def band(self, spec: PoolSpec, demand: int, now: float) -> Band:
        """Return the band for the demand from now on."""
        average = self._advance(spec.demand_window, demand, now)
        start = target(demand, spec.min_ready, spec.beta, average)
        if not spec.hold_beta:
            return Band(start, inf)
        return Band(start, max(start, demand + _buffer(spec.min_ready, spec.hold_beta, average)))

    def _advance(self, window: float, demand: int, now: float) -> float:
        if not window or self._average is None:
            self._average = float(demand)
        elif now > self._at:
            rest = (self._average - self._demand) * exp((self._at - now) / window)
            self._average = self._demand + (rest if abs(rest) > _NEAR else 0.0)
        self._demand, self._at = demand, now
        return self._average

    def next_change(self, spec: PoolSpec) -> float:
        """Return when the band changes, if the demand does not; infinity if it stays."""
        average, demand = self._average, self._demand
        if not spec.demand_window or average is None or average == demand:
            return inf
        way = average - demand
        parts = []  # of the way that are left at a change
        for beta in (spec.beta, spec.hold_beta):
            if beta:
                step = ceil(beta * sqrt(average))
                mark = ((step if way < 0 else step - 1) / beta) ** 2
                if (part := (mark - demand) / way) > -_NEAR:
                    parts.append(min(1.0, max(part, _NEAR / abs(way))))
        return self._at + spec.demand_window * (_PAST - log(max(parts))) if parts else inf
