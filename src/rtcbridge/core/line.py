"""The line of a pool: who waits, first come first served, divided where the supply ends."""

from collections import OrderedDict
from collections.abc import Iterator

from rtcbridge.core.messages import Status


class Waiter:
    """A session in line.

    One that is not `patient` leaves the line when it would be full; `exclude` is a node that it may not have;
    `status` is what it was last told, None for a new one.
    """

    __slots__ = ("exclude", "patient", "status")

    def __init__(self, patient: bool, exclude: str) -> None:
        self.patient, self.exclude = patient, exclude
        self.status: Status | None = None


class Line:
    """Waiting sessions by id, oldest first. Every step costs the same, however long the line is.

    The first ones are `within` the supply, the others `beyond` it. As the supply changes, only those that it
    passes change sides: `divide` returns them, and with them those that have not been told anything yet.
    """

    def __init__(self) -> None:
        self._within: OrderedDict[str, Waiter] = OrderedDict()
        self._beyond: OrderedDict[str, Waiter] = OrderedDict()
        self._untold: dict[str, None] = {}
        self.excluding: dict[str, Waiter] = {}  # those that may not have every node

    def __bool__(self) -> bool:
        return bool(self._beyond or self._within)

    def __len__(self) -> int:
        return len(self._within) + len(self._beyond)

    def __contains__(self, session: object) -> bool:
        return session in self._within or session in self._beyond

    def __iter__(self) -> Iterator[str]:
        yield from self._within
        yield from self._beyond

    def get(self, session: str) -> Waiter | None:
        """Return a waiting session."""
        return self._within.get(session) or self._beyond.get(session)

    def append(self, session: str, waiter: Waiter) -> None:
        """Put a session at the end."""
        self._beyond[session] = waiter
        self._note(session, waiter)

    def push(self, session: str, waiter: Waiter) -> None:
        """Put a session at the front."""
        self._within[session] = waiter
        self._within.move_to_end(session, last=False)
        self._note(session, waiter)

    def _note(self, session: str, waiter: Waiter) -> None:
        if waiter.status is None:
            self._untold[session] = None
        if waiter.exclude:
            self.excluding[session] = waiter

    def pop(self, session: str) -> Waiter | None:
        """Take a session out, if it is here."""
        waiter = self._within.pop(session, None) or self._beyond.pop(session, None)
        self._untold.pop(session, None)
        self.excluding.pop(session, None)
        return waiter

    def pop_first(self) -> tuple[str, Waiter]:
        """Take out the oldest. Raises KeyError if nobody waits."""
        session, waiter = (self._within or self._beyond).popitem(last=False)
        self._untold.pop(session, None)
        self.excluding.pop(session, None)
        return session, waiter

    def places(self) -> Iterator[tuple[int, str, Waiter]]:
        """Walk over the sessions that may not have every node, oldest first, with their places in line."""
        left = len(self.excluding)
        for place, session in enumerate(self, start=1):
            if not left:
                return
            if waiter := self.excluding.get(session):
                left -= 1
                yield place, session, waiter

    def divide(self, supply: int) -> list[tuple[str, Waiter, Status]]:
        """Let the first `supply` sessions be within; return who has to be told what."""
        within, beyond = self._within, self._beyond
        moved = self._untold
        self._untold = {}
        while len(within) > supply:
            session, waiter = within.popitem()
            beyond[session] = waiter
            beyond.move_to_end(session, last=False)
            moved[session] = None
        while len(within) < supply and beyond:
            session, waiter = beyond.popitem(last=False)
            within[session] = waiter
            moved[session] = None
        return [
            (session, known, Status.PENDING if session in within else Status.FULL)
            for session in moved
            if (known := self.get(session))
        ]
