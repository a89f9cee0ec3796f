"""What perfect foresight would pay: the lower bound that a policy's cost is compared with."""

from collections.abc import Sequence

from msgspec import Struct

from rtcbridge.sim.arrivals import Session
from rtcbridge.sim.world import World


class Bound(Struct, frozen=True):
    """The clairvoyant cost of a span of time. `usd`: in all; `nodes`: at once, at most; `starts`: of machines."""

    usd: float
    nodes: int
    starts: int


def clairvoyant(sessions: Sequence[Session], world: World, slots: int, begin: float, end: float) -> Bound:
    """Return the cost of serving every session at once, all arrivals and lengths known, from `begin` to `end`.

    Sessions move between nodes at no cost, so that the k-th node is needed exactly while more than (k - 1) x
    `slots` sessions run. It is started so as to be ready in time, never fails, and is kept between two needs if
    that costs less than a stop and a start (the mean of both are paid). As many disks as nodes at the peak are
    paid all the time. A policy that lets clients wait or leave can cost less than this.
    """
    cycle = world.start.mean + world.stop
    changes = sorted(change for at, lasts in sessions for change in ((at, 1), (at + lasts, -1)))
    count = starts = peak = 0
    seconds = 0.0
    since: dict[int, float] = {}  # when a needed node began to be
    until: dict[int, float] = {}  # when one that is not needed now last was
    for time, step in changes:
        before = -(-count // slots)
        count += step
        now = -(-count // slots)
        if now > before:
            since[now] = time
        elif now < before:
            first, last = max(since.pop(before), begin), min(time, end)
            if last <= first:
                continue
            peak = max(peak, before)
            gap = first - until[before] if before in until else cycle
            starts += gap >= cycle
            seconds += last - first + min(gap, cycle)
            until[before] = last
    return Bound(world.cost(seconds, peak * (end - begin)), peak, starts)
