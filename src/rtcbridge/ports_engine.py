"""The interfaces to what the replicas of a bridge share: who holds which slot, and messages from one to another."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from msgspec import Struct

from rtcbridge.ports_journal import Journal
from rtcbridge.ports_quotas import Quotas


class EngineError(Exception):
    """The engine cannot be used as asked. The text is one clear line without secrets."""


class EngineAwayError(EngineError):
    """The engine did not answer in time. What came of the call is not known; it may be repeated as it was."""


class FencedError(EngineError):
    """Another replica leads the pool by now; nothing was written."""


# --- what a session has ---


class Grant(Struct, frozen=True):
    """A slot. `epoch` is that of the node: it fences what was meant for an earlier life of it.

    `replica` is the address of the replica that has the node's socket, "" while none has.
    """

    node: str
    epoch: int
    replica: str = ""


class Place(Struct, frozen=True):
    """A place in line: 1 is the next to be served; 0 while it is suspended.

    `supply` is how many slots are on their way or could be, and `cause` why there are no more, by the last word of the
    replica that leads the pool; -1 while nobody can know, behind a loss of the engine's data, or a new leader has not
    said it yet. `barred`: its project
    holds as many slots as it may, so that it is passed over.
    """

    place: int
    supply: int
    cause: str = ""
    barred: bool = False


Standing: TypeAlias = Grant | Place


class News(Enum):
    """What a replica is told, unasked, of a session or of a node."""

    GRANTED = "granted"  # to the session's owner: its turn has come
    LOST = "lost"  # to the session's owner: its slot is gone
    MOVED = "moved"  # to the session's owner: its node has a new socket, maybe at another replica, or none any more
    ORPHAN = "orphan"  # to the replica that has or now gets the node's socket: hold or release this ownerless session
    MAYBE = "maybe"  # to the replica with the node's socket: a reservation is gone with its owner; was its offer sent?
    TAKEN = "taken"  # to who was the session's owner: another replica is now
    DOUBTED = "doubted"  # to the session's owner: it was told again to an engine that did not know it; it may be over
    REPLACED = "replaced"  # to the replica with an older socket of the node: another one counts, with this epoch


class Wake(Struct, frozen=True):
    """News of one session, or of a node; then `session` is "".

    `epoch` is the node's, and `replica` the one with its socket, as in `Grant`; neither is told of what is LOST.
    """

    news: News
    session: str
    node: str
    epoch: int = 0
    replica: str = ""


# --- what there is ---


class NodeView(Struct, frozen=True, kw_only=True):
    """A node as the engine has it. `replica` holds its socket, "" if none does; `open`: it takes new sessions.

    `socket` is the id of its last socket, "" once that has gone; `info` what the replica said that registered it.
    """

    id: str
    capacity: int
    epoch: int
    open: bool
    replica: str
    socket: str
    info: str
    sessions: Sequence[str]


class SessionView(Struct, frozen=True):
    """A slot that is held. `owner` is a replica, "" after its death; `live`: the node has its offer.

    `epoch` and `replica` are the node's, as in `Grant`. `project`: "" if it is not known.
    """

    id: str
    node: str
    epoch: int
    replica: str
    owner: str
    live: bool
    project: str = ""


class PoolView(Struct, frozen=True, kw_only=True):
    """All that the engine knows of a pool, at one instant.

    `line` has the sessions in the order in which they are served, `away` the suspended ones; `recovering`: seconds
    until slots are given away again, behind a loss of the engine's data; `excluding`: of those in line that may not
    have every node, the one that each may not have. `replicas` are those with a lease, by the
    addresses of their buses, and so is `leader`.
    """

    nodes: Mapping[str, NodeView]
    sessions: Mapping[str, SessionView]
    line: Sequence[str]
    away: Sequence[str]
    replicas: Sequence[str]
    leader: str
    supply: int
    recovering: float
    excluding: Mapping[str, str] = {}
    version: str = ""


class Registered(Struct, frozen=True):
    """What a node that has dialled in is given: its epoch, and the sessions that keep their slots there.

    Each of these has its owner's address, "" for an orphan.
    """

    epoch: int
    sessions: Mapping[str, str]


class Lead(Struct, frozen=True):
    """Who leads a pool. `token` is 0 if another replica does; `leader` is the address of the one that does."""

    token: int
    leader: str
    replicas: int  # how many there are


INFO_LIMIT = 64 * 1024  # bytes of a node's `info`


class Store(Journal, Protocol):
    """Who holds which slot of one pool, and who waits, as one replica sees and changes it.

    Every call is atomic, is idempotent by the session's or the node's socket's id, and raises EngineAwayError. A caller
    that gives up on a call releases the session, since the call may have been done. A slot
    that becomes free goes to the first in line within the same step: nobody waits beside a free slot that he
    may have. The slots used of a node are the cardinality of a set of sessions, never a counter.

    What this replica holds is told again, by the store itself, to an engine that has lost its data, and after this
    replica was taken for dead; what another has got meanwhile is reported as `News.LOST`, and a node that has another
    socket meanwhile as `News.REPLACED`.
    """

    async def reserve(
        self,
        session: str,
        *,
        rank: int = 0,
        front: bool = False,
        exclude: str = "",
        patient: bool = True,
        project: str = "",
        limit: int = 0,
    ) -> Standing:
        """Take a free slot if nobody is before it, else a place in line; what it has already is told as it is.

        Args:
            session: its id.
            rank: the lowest is served first, then first come first served; -1000 to 1000.
            front: before all others.
            exclude: a node that it may not have.
            patient: whether it takes a place beyond the supply; else it is left out, and the place is the one that it
                would have had.
            project: whose slots are counted.
            limit: of them; while so many are held, the session keeps its place and those behind it are served. 0: none.
                That of a session that waits already is replaced.
        """
        ...

    async def succeed(self, session: str, old: str, *, rank: int = 0, project: str = "", limit: int = 0) -> Standing:
        """Take what the session `old` has, whose slot was lost: a place before all others, or a slot by now.

        A session that is told `News.LOST` keeps that place until it is released, or another one of this replica
        succeeds it. If it has nothing any more, the place is at the front all the same, and only then
        `project` and `limit` are taken, which are as in `reserve`; else they are those of `old`.
        """
        ...

    async def release(self, session: str, reason: str = "") -> bool:
        """Give the slot or the place back; false if it had none. `reason`: why it ended, for the journal."""
        ...

    async def begin(self, session: str) -> bool:
        """The offer went to the node: from now on the slot outlives this replica. False if it holds none."""
        ...

    async def hold(self, session: str, node: str, epoch: int, *, project: str = "", limit: int = 0) -> bool:
        """Take over a live session that nobody owns; false if its slot is gone, it has ended, or it has an owner.

        `project` and `limit` are as in `reserve`, for a session of which the engine does not know them.
        """
        ...

    async def take_over(
        self, session: str, *, rank: int = 0, exclude: str = "", project: str = "", limit: int = 0
    ) -> Standing:
        """Own what another replica's session has, a slot or a place, as it is. Raises KeyError if it has nothing.

        The other one is told nothing: it has handed the session over, or it is dead. `rank` and what follows are those
        with which the session reserved, to be told again to an engine that has lost its data.
        """
        ...

    async def yield_slot(self, session: str, *, rank: int = 0) -> Standing:
        """Renew a reservation when nobody waits, else go to the end of the line. Raises KeyError if it holds none."""
        ...

    async def suspend(self, session: str) -> Place:
        """Give the slot back, keep a place, at the front if it had a slot; be served no more until `resume`."""
        ...

    async def resume(self, session: str) -> Standing:
        """Be served again when its turn comes. Raises KeyError if it neither waits nor holds a slot."""
        ...

    async def node_up(
        self,
        node: str,
        capacity: int,
        socket: str,
        sessions: Sequence[str] = (),
        epoch: int = 0,
        *,
        open: bool = True,
        info: str = "",
        supply: int | None = None,
    ) -> Registered:
        """A node has dialled in at this replica. The newest socket counts.

        A live session of this node that is not among `sessions` loses its slot; one among them that nobody claims
        keeps a slot as an orphan. The owners of the others are told `News.MOVED`, this replica of each orphan, and a
        replica that has an older socket of the node `News.REPLACED`. Raises ValueError.

        Args:
            node: its id.
            capacity: how many sessions it can run.
            socket: an id of the connection, never used before; with the same again, the same is answered.
            sessions: those alive on it.
            epoch: the last one that it knows.
            open: whether it takes new sessions.
            info: any text up to 64 KiB, for `look`.
            supply: what the leader says that the supply is without this node; so that no place is told a wrong one.

        Returns:
            A new epoch, above all before and above `epoch`; the sessions with a slot there.
        """
        ...

    async def node_down(self, node: str, epoch: int) -> bool:
        """The socket of a node has gone: it keeps its sessions, and is not open. False if its epoch is another.

        The sessions' owners are told `News.MOVED`, with no replica.
        """
        ...

    def over(self, node: str, session: str) -> None:
        """A session that a node of this replica has listed is over: it is not told to the engine again."""
        ...

    async def node_open(self, node: str, epoch: int, open: bool) -> bool:
        """Let a node take new sessions or not; false if its epoch is another, or if it has no socket to open for."""
        ...

    async def node_gone(self, node: str, epoch: int) -> bool:
        """Forget a node: its sessions lose their slots. False if its epoch is another, or it is unknown."""
        ...

    async def lead(self) -> Lead:
        """Lead the pool, or go on leading it, for one lease, unless another does.

        A token is above all that were given before, also by an engine that has lost its data since.
        """
        ...

    async def publish(self, token: int, supply: int, cause: str = "", version: str = "") -> bool:
        """Say how many slots are on their way, and why no more. Raises FencedError, and then nothing is written.

        False if the nodes have changed since the view of this `version`, and then nothing is written either.
        """
        ...

    async def places(self) -> Mapping[str, Place]:
        """Return the place of each session of this replica that waits."""
        ...

    async def find(self, session: str) -> SessionView | None:
        """Return the slot that a session holds, whoever owns it."""
        ...

    async def look(self) -> PoolView:
        """Return all, for people and for the replica that leads."""
        ...


# --- from one replica to another ---


class Packet(Struct, frozen=True, array_like=True):
    """A message of one session, in one direction.

    `term` rises when the session's peer moves to another replica; `number` counts from 1 within a term.
    """

    session: str
    direction: str
    term: int
    number: int
    data: bytes


class Bus(Protocol):
    """Takes messages to the replica that holds a socket: in order, each once, whatever happens to the engine.

    What is sent is kept until the receiver has it, and is sent again after a loss. It is lost only if the sender or the
    receiver dies.
    """

    address: str

    @property
    def sent(self) -> int:
        """How many messages were sent, ever."""
        ...

    @property
    def unacknowledged(self) -> int:
        """How many of them the receivers may not have yet; what waited for a dead one does not count."""
        ...

    def send(self, to: str, session: str, direction: str, data: bytes, *, term: int = 0) -> bool:
        """Send; false if what waits for that replica is over its limit, and then nothing is sent any more.

        Nothing is awaited: what is sent in one turn of the loop goes out at once.
        """
        ...

    def forget(self, session: str) -> None:
        """A session has ended: its numbers are not needed any more."""
        ...

    def drop(self, to: str) -> None:
        """A replica is dead: what waits for it is thrown away."""
        ...


class Engine(Protocol):
    """What all replicas share. One object a process; `woken` is called with the pool and the news."""

    @property
    def replica(self) -> str:
        """The id of this replica: another one each time it is started. The address of its bus, too."""
        ...

    @property
    def bus(self) -> Bus:
        """Takes messages to other replicas."""
        ...

    @property
    def quotas(self) -> Quotas:
        """How many sessions there are of whom."""
        ...

    def store(self, pool: str) -> Store:
        """Return the store of a pool; the same object each time."""
        ...

    def wall(self) -> float:
        """Unix seconds by one clock for all replicas, so that what one began another can end."""
        ...

    async def start(
        self, pools: Sequence[str], woken: Callable[[str, Wake], None], received: Callable[[str, Packet], None]
    ) -> None:
        """Join the other replicas, then keep the lease alive. Raises EngineError.

        Args:
            pools: their names.
            woken: is told the pool and the news; never while the session has a call under way, but behind its answer.
            received: is told the sender's address and what it has sent.
        """
        ...

    async def close(self) -> None:
        """Leave, as if dead at once. What this replica still holds is freed, live sessions excepted."""
        ...
