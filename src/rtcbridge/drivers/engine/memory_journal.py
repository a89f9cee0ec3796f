"""The journal of a pool in memory: see `pool.lua`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from rtcbridge.ports_journal import Journaled

LIMIT = 200_000  # ended sessions that are kept for the ledger
LEFT = "bridge lost"


@dataclass
class Entry:
    """A session whose offer has gone to the node, or maybe has: then that is forgotten at `doubtful`, a time."""

    node: str
    project: str
    began: float
    ended: float | None = None
    why: str = ""
    doubtful: float = inf


class Journal:
    """What the ledger is to have. `clock`: monotonic seconds; `wall`: Unix seconds."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.entries: dict[str, Entry] = {}
        self._ended: dict[str, None] = {}  # oldest first
        self._clock, self._wall = clock, wall

    def begin(self, session: str, node: str, project: str) -> None:
        """The offer goes to the node."""
        entry = self.entries.get(session)
        if entry is None:
            self.entries[session] = Entry(node, project, self._wall())
            return
        self._ended.pop(session, None)
        entry.node, entry.project = node, entry.project or project
        entry.ended, entry.why, entry.doubtful = None, "", inf

    def again(self, session: str) -> None:
        """It is tried on another node, and goes on."""
        entry = self.entries.get(session)
        if entry is not None and entry.doubtful == inf:
            self.begin(session, entry.node, entry.project)

    def end(self, session: str, why: str) -> None:
        """A session has nothing any more; the first end counts."""
        entry = self.entries.get(session)
        if entry is None or entry.ended is not None:
            return
        entry.ended, entry.why = self._wall(), why
        self._ended[session] = None
        if len(self._ended) > LIMIT:
            self.drop(next(iter(self._ended)))

    def has_ended(self, session: str) -> bool:
        """Whether a session began and has ended, as far as is still known."""
        entry = self.entries.get(session)
        return entry is not None and entry.ended is not None and entry.doubtful == inf

    def maybe(self, session: str, node: str, project: str, grace: float) -> None:
        """A reservation goes with its replica, whose offer may have gone out."""
        if session in self.entries:
            self.end(session, LEFT)
        else:
            time = self._wall()
            self.entries[session] = Entry(node, project, time, time, LEFT, self._clock() + grace)

    def surely(self, session: str, node: str) -> None:
        """It did go out."""
        entry = self.entries.get(session)
        if entry is not None and entry.doubtful < inf and entry.node == node:
            entry.doubtful = inf
            self._ended[session] = None

    def expire(self) -> None:
        """Forget what nobody has said more of."""
        now = self._clock()
        for session in [session for session, entry in self.entries.items() if entry.doubtful <= now]:
            self.drop(session)

    def drop(self, session: str) -> None:
        """Forget a session."""
        self.entries.pop(session, None)
        self._ended.pop(session, None)

    def confirm(self, sessions: Sequence[str]) -> None:
        """The ledger has these sessions with their ends."""
        for session in sessions:
            if session in self._ended:
                self.drop(session)

    def over(self, age: float) -> Iterator[Journaled]:
        """Those that ended some seconds ago, the oldest first."""
        until = self._wall() - age
        for session in list(self._ended):
            entry = self.entries[session]
            if entry.ended is None or entry.ended > until:
                return
            yield Journaled(session, entry.node, entry.project, entry.began, entry.ended, entry.why)
