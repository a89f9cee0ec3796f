"""What one replica holds in a pool, by its own books: an engine that has lost its data is told from here."""

from dataclasses import dataclass, field

from msgspec import Struct

from rtcbridge.ports_engine import Grant, News, Standing, Wake

# News that are not about what this replica holds.
_OF_OTHERS = frozenset({News.ORPHAN.value, News.MAYBE.value, News.DOUBTED.value})


class Wish(Struct, frozen=True):
    """How a session wants to be served: see `Store.reserve`."""

    rank: int = 0
    exclude: str = ""
    project: str = ""
    limit: int = 0


class Held(Struct):
    """A slot of a session of this replica. `serial`: the news up to this number are in it."""

    node: str
    epoch: int
    replica: str
    live: bool
    serial: int
    wish: Wish


class Waiting(Struct):
    """A place in line of a session of this replica."""

    wish: Wish
    score: str
    suspended: bool
    serial: int


@dataclass
class NodeHere:
    """A node whose socket this replica has, or had last: then `socket` is "". `sessions`: those that it listed."""

    capacity: int
    socket: str
    epoch: int
    open: bool
    info: str
    sessions: list[str] = field(default_factory=list)


class Rumour(Struct, frozen=True):
    """News as they come: `kind` is that of `News`, or one of those that are for the mirror alone.

    These are `opened`, `shut` and `forgotten`: what another replica has done to a node that this one has.
    """

    kind: str
    session: str
    node: str
    epoch: int
    replica: str
    serial: int

    @property
    def subject(self) -> str:
        """Whose calls it has to wait for."""
        return self.session or about_node(self.node)

    @property
    def wake(self) -> Wake:
        """What the replica is told."""
        return Wake(News(self.kind), self.session, self.node, self.epoch, self.replica)


def parse_rumour(text: str) -> Rumour:
    """Read an entry of a replica's stream, as `wake` in `pool.lua` writes it."""
    kind, session, node, epoch, replica, serial = text.split("|")
    return Rumour(kind, session, node, int(epoch), replica, int(serial))


def about_node(node: str) -> str:
    """What calls of a node are noted under; no session has such an id."""
    return f"|{node}"


class Mirror:
    """The slots, places and nodes of a replica, and which of its sessions and nodes have calls under way.

    News come on another connection than answers do. Those of a session or node with a call under way wait for its
    answer, and those that are older than an answer are dropped.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.waiting: dict[str, Waiting] = {}
        self.nodes: dict[str, NodeHere] = {}
        self.releasing: dict[str, str] = {}  # given back, and why, but the engine has not said that it knows
        self._calls: dict[str, int] = {}
        self._kept: dict[str, list[Rumour]] = {}

    def begin(self, subject: str) -> None:
        """A call of this session or node goes out."""
        self._calls[subject] = self._calls.get(subject, 0) + 1

    def end(self, subject: str) -> list[Wake]:
        """It has come back: return the news that waited for that."""
        left = self._calls.pop(subject) - 1
        if left:
            self._calls[subject] = left
            return []
        if subject not in self._kept:
            return []
        kept = self._kept.pop(subject)
        return [wake for rumour in kept for wake in self.take(rumour)]

    def wish(self, session: str) -> Wish | None:
        """How a session that has a slot or a place wanted to be served."""
        own = self.held.get(session) or self.waiting.get(session)
        return None if own is None else own.wish

    def settle(self, session: str, standing: Standing, serial: int, wish: Wish, score: str = "") -> None:
        """Note what an answer says that a session has."""
        if isinstance(standing, Grant):
            old = self.held.get(session)
            live = old is not None and old.live and old.node == standing.node
            self.waiting.pop(session, None)
            self.held[session] = Held(standing.node, standing.epoch, standing.replica, live, serial, wish)
        else:
            self.held.pop(session, None)
            self.waiting[session] = Waiting(wish, score, standing.place == 0, serial)

    def forget(self, session: str) -> None:
        """A session has nothing any more."""
        held = self.held.pop(session, None)
        here = self.nodes.get(held.node) if held is not None else None
        if here is not None and session in here.sessions:
            here.sessions.remove(session)
        self.waiting.pop(session, None)

    def take(self, rumour: Rumour) -> list[Wake]:
        """Note what news say; return them if they are to be passed on."""
        if rumour.kind in _OF_OTHERS:
            return [rumour.wake]
        if rumour.subject in self._calls:
            self._kept.setdefault(rumour.subject, []).append(rumour)
            return []
        return self._take_node(rumour) if not rumour.session else self._take_session(rumour)

    def _take_node(self, rumour: Rumour) -> list[Wake]:
        here = self.nodes.get(rumour.node)
        if here is None:
            return []
        match rumour.kind:
            case "opened" | "shut" if here.epoch == rumour.epoch:
                here.open = rumour.kind == "opened"
            case "forgotten" if here.epoch <= rumour.epoch:
                del self.nodes[rumour.node]
            case "replaced" if here.epoch < rumour.epoch:
                del self.nodes[rumour.node]
                return [rumour.wake]
        return []

    def _take_session(self, rumour: Rumour) -> list[Wake]:
        session = rumour.session
        held, waiting = self.held.get(session), self.waiting.get(session)
        own = held or waiting
        if own is None or rumour.serial <= own.serial:
            return []
        own.serial = rumour.serial
        match rumour.kind:
            case "taken":
                self.held.pop(session, None)
                self.waiting.pop(session, None)
            case "moved" if held is not None:
                held.epoch, held.replica = rumour.epoch, rumour.replica
            case "lost" if held is not None:
                del self.held[session]
            case "granted" if waiting is not None:
                del self.waiting[session]
                self.held[session] = Held(rumour.node, rumour.epoch, rumour.replica, False, rumour.serial, waiting.wish)
            case _:
                return []
        return [rumour.wake]
