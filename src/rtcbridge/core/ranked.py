"""Lines in which projects matter: priorities, maxima, and fairness between projects of one priority."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from math import inf

from rtcbridge.core.line import FRONT, Key, Line, Waiter
from rtcbridge.core.messages import Status
from rtcbridge.core.projects import Share
from rtcbridge.core.spec import PoolSpec

_OVERDUE = -1e9  # the rank of those that have waited for so long that nobody may overtake them


class RankedLine(Line):
    """Sessions of a higher priority go first; those of a project that has its maximum are passed by.

    Args:
        overtaking: seconds after which a waiting session is overtaken by none that came later; infinity for never.
    """

    ranked = True

    def __init__(self, overtaking: float = inf) -> None:
        super().__init__()
        self.unbalanced: dict[Share, None] = {}  # shares of whose sessions too many or too few may be served
        self._overtaking = overtaking
        self._waiting: deque[Waiter] = deque()  # by `since`; some have left
        self._now = 0.0

    def append(self, session: str, waiter: Waiter) -> None:
        """Put a session behind all others of its priority."""
        self._last += 1
        waiter.key = (waiter.share.account.rank if waiter.share else 0.0, self._last, session)
        self.put_back(session, waiter)

    def pop_first(self) -> tuple[str, Waiter] | None:
        """Take out the first that may be served; None if nobody may."""
        key = self._first()
        if key is None:
            return None
        waiter = self.pop(key[2])
        assert waiter is not None
        return key[2], waiter

    def _first(self) -> Key | None:
        return self.queue[0] if self.queue else None

    def _enter(self, waiter: Waiter) -> None:
        share = waiter.share
        waiter.barred = share is not None and share.capped and not share.enter(waiter.key)
        if not waiter.barred:
            self._insert(waiter)

    def _exit(self, waiter: Waiter) -> None:
        if waiter.suspended:
            return
        share = waiter.share
        if share is not None and share.capped:
            share.exit(waiter.key, waiter.barred)
        if not waiter.barred:
            self._remove(waiter)
        waiter.barred = False

    # --- what time and other pools change ---

    def prepare(self, now: float) -> None:
        """Let those who have waited for too long go first, and as many of each project be served as may be."""
        self._now = now
        waiting = self._waiting
        while waiting and waiting[0].since + self._overtaking <= now:
            waiter = waiting.popleft()
            rank, number, session = waiter.key
            if self.waiters.get(session) is waiter and rank > _OVERDUE:
                self._exit(waiter)
                waiter.key = (_OVERDUE, number, session)
                if not waiter.suspended:
                    self._enter(waiter)
                    self._untold[session] = None
        while self.unbalanced:
            self._balance(self.unbalanced.popitem()[0])

    def _balance(self, share: Share) -> None:
        room = share.room
        while len(share.queued) > room:
            key = share.queued.pop()
            insort(share.barred, key)
            waiter = self.waiters[key[2]]
            self._remove(waiter)
            waiter.barred = True
            self._untold[key[2]] = None
        while share.barred and len(share.queued) < room:
            key = share.barred.pop(0)
            share.queued.append(key)
            waiter = self.waiters[key[2]]
            waiter.barred = False
            self._insert(waiter)
            self._untold[key[2]] = None

    def divide(self, supply: int) -> list[tuple[str, Waiter, Status]]:
        """Let the first `supply` sessions be within; return who has to be told what."""
        moved = self._divide(supply)
        if self._overtaking < inf:
            for _, waiter, _ in moved:
                if waiter.since == inf:
                    waiter.since = self._now
                    self._waiting.append(waiter)
        return moved

    def _divide(self, supply: int) -> list[tuple[str, Waiter, Status]]:
        return super().divide(supply)

    def place(self, waiter: Waiter) -> int:
        """Return a session's place; one that is barred also waits for those of its own project before it."""
        ahead = bisect_left(waiter.share.barred, waiter.key) if waiter.barred and waiter.share else 0
        return super().place(waiter) + ahead


class _Lane:
    """The sessions of one project and one priority, oldest first, and how many of them are within the supply."""

    __slots__ = ("keys", "share", "within")

    def __init__(self, share: Share | None) -> None:
        self.share = share
        self.keys: list[Key] = []
        self.within = 0

    @property
    def held(self) -> int:
        return self.share.held if self.share is not None else 0


class FairLine(RankedLine):
    """Within a priority, the project goes first that holds the fewest slots of the pool, then first come first served.

    Each session that is served counts, so that the k-th waiting session of a project (from 0) which holds h slots
    stands at level h + k: the order of the whole line, as long as no slot is given back. What a step
    costs grows with the number of projects that wait, not with that of their sessions.
    """

    def __init__(self, overtaking: float = inf) -> None:
        super().__init__(overtaking)
        self._lanes: dict[float, dict[Share | None, _Lane]] = {}  # by rank and project; none is empty

    def __iter__(self) -> Iterator[str]:
        """All sessions, in the order in which they would be served if no slot were given back and all could be."""
        return iter([key[2] for _, _, key in sorted(self._levels())])

    def _levels(self) -> Iterator[tuple[float, int, Key]]:
        counts: dict[tuple[float, Share | None], int] = {}
        for waiter in sorted(self.waiters.values(), key=lambda waiter: waiter.key):
            rank, share = waiter.key[0], _lane_of(waiter)
            level = counts.get((rank, share), share.held if share else 0)
            counts[rank, share] = level + 1
            yield rank, level, waiter.key

    def _insert(self, waiter: Waiter) -> None:
        super()._insert(waiter)
        lanes = self._lanes.setdefault(waiter.key[0], {})
        share = _lane_of(waiter)
        lane = lanes.get(share)
        if lane is None:
            lane = lanes[share] = _Lane(share)
        index = bisect_left(lane.keys, waiter.key)
        lane.keys.insert(index, waiter.key)
        lane.within += index < lane.within

    def _remove(self, waiter: Waiter) -> None:
        super()._remove(waiter)
        rank, share = waiter.key[0], _lane_of(waiter)
        lane = self._lanes[rank][share]
        index = bisect_left(lane.keys, waiter.key)
        del lane.keys[index]
        lane.within -= index < lane.within
        if not lane.keys:
            del self._lanes[rank][share]
            if not self._lanes[rank]:
                del self._lanes[rank]

    def _first(self) -> Key | None:
        if not self._lanes:
            return None
        lanes = self._lanes[min(self._lanes)].values()
        return min(lanes, key=lambda lane: (lane.held, lane.keys[0])).keys[0]

    def _divide(self, supply: int) -> list[tuple[str, Waiter, Status]]:
        moved, self._untold = self._untold, {}
        for rank in sorted(self._lanes):
            lanes = list(self._lanes[rank].values())
            for lane, within in zip(lanes, fill(lanes, supply), strict=True):
                for key in lane.keys[min(lane.within, within) : max(lane.within, within)]:
                    moved[key[2]] = None
                lane.within = within
                supply -= within
        return [(session, self.waiters[session], self._status(self.waiters[session])) for session in moved]

    def _status(self, waiter: Waiter) -> Status:
        if waiter.barred:
            return Status.FULL
        lane = self._lanes[waiter.key[0]][_lane_of(waiter)]
        return Status.PENDING if bisect_left(lane.keys, waiter.key) < lane.within else Status.FULL

    def places(self) -> list[tuple[str, Waiter]]:
        """Return the sessions that may not have every node, and are not suspended, in order."""
        return sorted(super().places(), key=lambda each: self.place(each[1]))

    def place(self, waiter: Waiter) -> int:
        """Return a session's place, as long as no slot is given back."""
        rank, share = waiter.key[0], _lane_of(waiter)
        ahead = sum(len(lane.keys) for other, lanes in self._lanes.items() if other < rank for lane in lanes.values())
        lanes = self._lanes.get(rank, {})
        own = lanes.get(share) or _Lane(share)
        index = bisect_left(own.keys, waiter.key)
        if waiter.barred and waiter.share is not None:
            index += bisect_left(waiter.share.barred, waiter.key)
        level = own.held + index
        for lane in lanes.values():
            before = level - lane.held
            if lane is own or before < 0:
                continue
            ahead += min(before, len(lane.keys))
            ahead += before < len(lane.keys) and lane.keys[before] < waiter.key
        return ahead + index + 1


def make_line(spec: PoolSpec) -> RankedLine:
    """Make the line of a pool in which projects matter."""
    return (FairLine if spec.fair else RankedLine)(spec.overtake_timeout or inf)


def _lane_of(waiter: Waiter) -> Share | None:
    """Those at the front, and those who have waited for too long, are served as they came."""
    return None if waiter.key[0] in (FRONT, _OVERDUE) else waiter.share


def fill(lanes: Sequence[_Lane], slots: int) -> list[int]:
    """Return how many of each lane are among the first `slots`, of all these lanes together."""
    sizes = [(lane.held, lane.held + len(lane.keys)) for lane in lanes]
    if sum(high - low for low, high in sizes) <= slots:
        return [high - low for low, high in sizes]
    level = filled = lanes_there = 0  # all below the level are among the first, and so many they are
    for height, change in sorted([(low, 1) for low, _ in sizes] + [(high, -1) for _, high in sizes]):
        more = (height - level) * lanes_there
        if filled + more > slots:
            level += (slots - filled) // lanes_there
            break
        level, filled, lanes_there = height, filled + more, lanes_there + change
    counts = [min(high, max(low, level)) - low for low, high in sizes]
    at_level = [
        (lane.keys[count], index)
        for index, (lane, count, (low, high)) in enumerate(zip(lanes, counts, sizes, strict=True))
        if low <= level < high
    ]
    for _, index in sorted(at_level)[: slots - sum(counts)]:
        counts[index] += 1
    return counts
