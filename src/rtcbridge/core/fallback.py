"""A session that waits in several pools at once: in its own, and in those that this one falls back to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rtcbridge.core.errors import Error
from rtcbridge.core.events import Failed, Full, Pending, PoolEvent
from rtcbridge.core.line import Waiter
from rtcbridge.core.messages import Status

if TYPE_CHECKING:
    from rtcbridge.core.assignment import Assignment


class Claim:
    """The places of one session in the lines of several pools; the first slot ends them all.

    It is told the best that any of them promises. `tried` are the pools that it was ever in line of,
    `holder` is the pool whose slot it has, if that is not its own.

    Args:
        session: the session.
        home: its own pool.
        front: whether it came to the front of the line; it then does in the others too.
        told: what it was told so far.
    """

    __slots__ = ("cause", "front", "holder", "home", "places", "session", "told", "tried")

    def __init__(self, session: str, home: "Assignment", front: bool, told: Status | None) -> None:
        self.session, self.home, self.front, self.told = session, home, front, told
        self.places: dict[Assignment, Waiter] = {}
        self.tried: list[Assignment] = []
        self.holder: Assignment | None = None
        self.cause: Error | None = None  # why it is no longer promised what it was

    def take(self, pool: "Assignment", waiter: Waiter) -> None:
        """Note a place in line."""
        waiter.claim = self
        self.places[pool] = waiter
        if pool not in self.tried:
            self.tried.append(pool)

    def verdict(self) -> PoolEvent | None:
        """Return what the session is to be told, all places together; None for nothing new, or not yet known."""
        said = {waiter.status for waiter in self.places.values()}
        if Status.PENDING in said:
            status = Status.PENDING
        elif None in said:
            return None  # that pool's word follows
        else:
            status = Status.FULL
        before, self.told = self.told, status
        if status is before:
            return None
        if status is Status.PENDING:
            return Pending()
        if before is Status.PENDING and self.cause is not None:
            return Failed(self.cause)
        return Full()

    def drop_places(self, but: "Assignment | None" = None) -> None:
        """Leave all lines, except for that of a pool which has seen to it."""
        for pool in self.places:
            if pool is not but:
                pool.line.pop(self.session)
                pool.stir()
        self.places.clear()


def chain(pool: str, fallback: Mapping[str, str]) -> list[str]:
    """Return the pools that a session of this one is tried in, in order.

    Raises:
        ValueError: it comes back to a pool that it has passed; the text is the way there.
    """
    way = [pool]
    while name := fallback.get(way[-1]):
        if name in way:
            raise ValueError(" → ".join([*way, name]))
        way.append(name)
    return way
