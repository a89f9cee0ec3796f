"""The line of a pool: who waits, first come first served, divided where the supply ends."""

from bisect import bisect_left
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from rtcbridge.core.messages import Status

if TYPE_CHECKING:
    from rtcbridge.core.fallback import Claim
    from rtcbridge.core.projects import Share

Key: TypeAlias = tuple[float, int, str]  # rank, order of coming, session: the lowest is served first
FRONT = -inf  # the rank of those that come before all others


class Waiter:
    """A session in line.

    One that is not `patient` leaves the line when it would be full; `exclude` is a node that it may not have;
    `status` is what it was last told, None for a new one. `suspended`: its client is away, and it is not served.
    `barred`: nor is it while its project has its maximum. `share` is what its project has in this pool, `claim` its
    places in other pools; both are None where they do not matter. `since`: when it was first told to wait.
    """

    __slots__ = ("barred", "claim", "exclude", "key", "patient", "share", "since", "status", "suspended")

    def __init__(self, patient: bool, exclude: str, share: "Share | None" = None) -> None:
        self.patient, self.exclude, self.share = patient, exclude, share
        self.key: Key = (0.0, 0, "")
        self.status: Status | None = None
        self.claim: Claim | None = None
        self.suspended = self.barred = False
        self.since = inf


class Line:
    """Waiting sessions, each with a key that says when its turn comes. A step is a few calls, however long the line.

    `queue` has those that may be served, in order; `waiters` also has those that may not now: the suspended and the
    barred. The first ones of the queue are within the supply, the others beyond it. As the supply changes,
    only those that it passes change sides: `divide` returns them, and with them those that have not been told
    anything yet. `waiters`, `queue` and `excluding` are there to be read; they are changed by the methods only.
    """

    ranked = False  # whether `prepare` has to be called

    def __init__(self) -> None:
        self.waiters: dict[str, Waiter] = {}
        self.queue: list[Key] = []
        self.excluding: dict[str, Waiter] = {}  # those that may not have every node
        self._untold: dict[str, None] = {}
        self._within = 0
        self._last = 0  # how many have come
        self._pushed = 0  # how many of them to the front

    def __len__(self) -> int:
        return len(self.waiters)

    def __contains__(self, session: object) -> bool:
        return session in self.waiters

    def __iter__(self) -> Iterator[str]:
        """All sessions, in the order in which they would be served if all could be."""
        if len(self.queue) == len(self.waiters):
            return iter([key[2] for key in self.queue])
        return iter([key[2] for key in sorted(waiter.key for waiter in self.waiters.values())])

    def get(self, session: str) -> Waiter | None:
        """Return a waiting session."""
        return self.waiters.get(session)

    def place(self, waiter: Waiter) -> int:
        """Return a session's place: 1 if it is the next to be served, or would be if it could be."""
        return bisect_left(self.queue, waiter.key) + 1

    def prepare(self, now: float) -> None:
        """Take in what has changed for projects; only lines that are `ranked` know of any."""

    # --- coming and going ---

    def append(self, session: str, waiter: Waiter) -> None:
        """Put a session at the end."""
        self._last = last = self._last + 1
        waiter.key = key = (0.0, last, session)
        self.waiters[session] = waiter
        self.queue.append(key)
        self._untold[session] = None
        if waiter.exclude:
            self.excluding[session] = waiter

    def push(self, session: str, waiter: Waiter) -> None:
        """Put a session at the front."""
        self._pushed += 1
        waiter.key = (FRONT, -self._pushed, session)
        self.put_back(session, waiter)

    def put_back(self, session: str, waiter: Waiter) -> None:
        """Put a session where its key says."""
        self.waiters[session] = waiter
        self._enter(waiter)
        if waiter.status is None:
            self._untold[session] = None
        if waiter.exclude:
            self.excluding[session] = waiter

    def pop(self, session: str) -> Waiter | None:
        """Take a session out, if it is here."""
        waiter = self.waiters.pop(session, None)
        if waiter is not None:
            self._exit(waiter)
            self._untold.pop(session, None)
            self.excluding.pop(session, None)
        return waiter

    def pop_first(self) -> tuple[str, Waiter] | None:
        """Take out the first that may be served; None if nobody may."""
        if not self.queue:
            return None
        session = self.queue.pop(0)[2]
        waiter = self.waiters.pop(session)
        if self._within:
            self._within -= 1
        self._untold.pop(session, None)
        if waiter.exclude:
            del self.excluding[session]
        return session, waiter

    def suspend(self, session: str) -> None:
        """Pass a session by from now on; it keeps its place."""
        waiter = self.waiters.get(session)
        if waiter is not None and not waiter.suspended:
            self._exit(waiter)
            waiter.suspended = True
            self._untold.pop(session, None)

    def resume(self, session: str) -> None:
        """Let a session be served again when its turn comes, and be told where it stands."""
        waiter = self.waiters.get(session)
        if waiter is not None:
            waiter.status = None
            self._untold[session] = None
            if waiter.suspended:
                waiter.suspended = False
                self._enter(waiter)

    def _enter(self, waiter: Waiter) -> None:
        self._insert(waiter)

    def _exit(self, waiter: Waiter) -> None:
        if not waiter.suspended:
            self._remove(waiter)

    def _insert(self, waiter: Waiter) -> None:
        index = bisect_left(self.queue, waiter.key)
        self.queue.insert(index, waiter.key)
        if index < self._within:
            self._within += 1

    def _remove(self, waiter: Waiter) -> None:
        index = bisect_left(self.queue, waiter.key)
        del self.queue[index]
        if index < self._within:
            self._within -= 1

    # --- where they stand ---

    def places(self) -> list[tuple[str, Waiter]]:
        """Return the sessions that may not have every node, and are not suspended, in order."""
        some = [(waiter.key, session, waiter) for session, waiter in self.excluding.items() if not waiter.suspended]
        return [(session, waiter) for _, session, waiter in sorted(some)]

    def divide(self, supply: int) -> list[tuple[str, Waiter, Status]]:
        """Let the first `supply` sessions be within; return who has to be told what."""
        queue, before = self.queue, self._within
        self._within = within = min(supply, len(queue))
        moved, self._untold = self._untold, {}
        for key in queue[min(before, within) : max(before, within)]:
            moved[key[2]] = None
        end = queue[within] if within < len(queue) else (inf,)
        return [
            (session, waiter, Status.FULL if waiter.barred or waiter.key >= end else Status.PENDING)
            for session in moved
            for waiter in (self.waiters[session],)
        ]
