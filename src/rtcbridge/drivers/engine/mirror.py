"""What one replica holds in a pool, by its own books: an engine that has lost its data is told from here."""

from dataclasses import dataclass, field

from rtcbridge.ports_engine import Grant, News, Standing, Wake


@dataclass
class Held:
    """A slot of a session of this replica. `serial`: the news up to this number are in it."""

    node: str
    epoch: int
    live: bool
    serial: int


@dataclass
class Waiting:
    """A place in line of a session of this replica."""

    rank: int
    exclude: str
    score: str
    suspended: bool
    serial: int


@dataclass
class NodeHere:
    """A node whose socket this replica has."""

    capacity: int
    socket: str
    epoch: int
    open: bool
    sessions: list[str] = field(default_factory=list)


class Mirror:
    """The slots, places and nodes of a replica, and which of its sessions have calls under way.

    News come on another connection than answers do. Those of a session with a call under way wait for its answer,
    and those that are older than an answer are dropped.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.waiting: dict[str, Waiting] = {}
        self.nodes: dict[str, NodeHere] = {}
        self.releasing: set[str] = set()  # given back, but the engine has not said that it knows
        self._calls: dict[str, int] = {}
        self._kept: dict[str, list[tuple[Wake, bool, int]]] = {}

    def begin(self, session: str) -> None:
        """A call of this session goes out."""
        self._calls[session] = self._calls.get(session, 0) + 1

    def end(self, session: str) -> list[Wake]:
        """It has come back: return the news that waited for that."""
        self._calls[session] -= 1
        if self._calls[session]:
            return []
        del self._calls[session]
        kept = self._kept.pop(session, [])
        return [wake for entry in kept for wake in self.take(*entry)]

    def settle(self, session: str, standing: Standing, serial: int, rank: int, exclude: str, score: str) -> None:
        """Note what an answer says that a session has."""
        if isinstance(standing, Grant):
            old = self.held.get(session)
            live = old is not None and old.live and old.node == standing.node
            self.waiting.pop(session, None)
            self.held[session] = Held(standing.node, standing.epoch, live, serial)
        else:
            self.held.pop(session, None)
            self.waiting[session] = Waiting(rank, exclude, score, standing.place == 0, serial)

    def forget(self, session: str) -> None:
        """A session has nothing any more."""
        self.held.pop(session, None)
        self.waiting.pop(session, None)

    def take(self, wake: Wake, moved: bool, serial: int) -> list[Wake]:
        """Note what news say; return them if they are to be passed on. `moved`: only the node's epoch is new."""
        session = wake.session
        if wake.news is News.ORPHAN and not moved:
            return [wake]
        if session in self._calls:
            self._kept.setdefault(session, []).append((wake, moved, serial))
            return []
        held, waiting = self.held.get(session), self.waiting.get(session)
        own = held or waiting
        if own is None or serial <= own.serial:
            return []
        own.serial = serial
        if moved:
            if held is not None:
                held.epoch = wake.epoch
            return []
        if wake.news is News.LOST:
            if held is None:
                return []
            del self.held[session]
            return [wake]
        if waiting is None:
            return []
        del self.waiting[session]
        self.held[session] = Held(wake.node, wake.epoch, False, serial)
        return [wake]
