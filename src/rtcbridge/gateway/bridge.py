"""The bridge: it carries events to sessions and pools, and does what they ask."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from rtcbridge.config import Config
from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, ProtocolError
from rtcbridge.core.events import (
    Acquire,
    Away,
    Begin,
    Effect,
    End,
    Event,
    Granted,
    Inform,
    Reassign,
    Refuse,
    Resume,
    SendClient,
    SendNode,
    Source,
    Stay,
    Suspend,
    Yield,
)  # fmt: skip
from rtcbridge.core.messages import CANDIDATE_PREFIX, Dialect
from rtcbridge.core.node import UP, Node, NodeState, Order, duration
from rtcbridge.core.pool import Pool
from rtcbridge.core.pools import Pools
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import PoolSpec, SessionSpec
from rtcbridge.gateway.access import Access, Terms
from rtcbridge.gateway.admission import Admission
from rtcbridge.gateway.links import Link, Socket, Way
from rtcbridge.gateway.recent import RecentCount
from rtcbridge.gateway.recipient import Client
from rtcbridge.gateway.timers import Lane, Timer, TimerWheel
from rtcbridge.ports import Authenticator, Bounds, IceGrant, IceServers, Identity, Ledger, NodeRow, SessionRow

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.routes import Route

log = structlog.get_logger(__name__)

REDIAL = 8.0  # seconds after a restart in which nodes dial in again; the agent pauses up to 5 between two tries
_POLL_KEYS = 0.2  # seconds between looks for keys that another process revoked


class Entry:
    """A session with what the gateway knows of it: its client's socket, its pool, its next deadline."""

    __slots__ = (
        "begun", "bounds", "client", "delivered", "due", "early", "link", "pool", "prefix", "project", "route",
        "session", "target", "timer",
    )  # fmt: skip

    def __init__(
        self, session: Session, pool: Pool, project: str, client: Client | None, bounds: Bounds | None = None
    ) -> None:
        self.session = session
        self.bounds = bounds  # of a client with restrictions
        self.pool = pool
        self.project = project
        self.client = client
        self.prefix = CANDIDATE_PREFIX[Dialect.FLAT]  # what stands before a candidate for the client
        self.target = messages.node_candidate_prefix(session.id)  # and before one for the node
        self.link: Way | None = None  # set while candidates go straight between client and node
        self.route: Route | None = None  # where several bridges share the pool
        self.timer: Timer | Lane | None = None
        self.due = inf
        self.early: list[Callable[[], object]] | None = None  # what the client says while the pool is being asked
        self.begun = False  # the ledger and the node know of it
        self.delivered = False  # its offer went out on a socket of the node


class Bridge:
    """All sessions, nodes and pools of one process. Everything runs on the event loop's thread.

    Args:
        config: The configuration.
        auth: Says whom a credential belongs to.
        ledger: Keeps nodes and sessions across restarts.
        wheel: Timers.
        clock: Monotonic seconds.
        pools: What is there instead of pools of this process alone.

    Attributes:
        ice: The STUN and TURN servers that clients and nodes are told; None for none.
    """

    def __init__(
        self,
        config: Config,
        auth: Authenticator,
        ledger: Ledger,
        wheel: TimerWheel,
        clock: Callable[[], float],
        pools: Pools | None = None,
    ) -> None:
        self.config = config
        self.auth = auth
        self.ledger = ledger
        self.wheel = wheel
        self.clock = clock
        self.wall = time.time
        self.session_spec = session_spec(config)
        self.access = Access(config, clock)
        self.admission = Admission(self)
        self.silence = config.nodes.heartbeat * config.nodes.missed
        self.ice: IceServers | None = None
        self.pools = Pools(config.pool_specs(), config.project_specs()) if pools is None else pools
        self.nodes: dict[str, tuple[Pool, Node]] = {}
        self.links: dict[str, Link] = {}
        self.sessions: dict[str, Entry] = {}
        self.clients: set[Socket] = set()
        self.starts = {name: RecentCount() for name in self.pools}  # of sessions, by pool
        self.ends = Counter[str]()  # the same
        self.changed: Callable[[Pool], None] = lambda pool: None  # the reconciler listens here
        self._deadlines = wheel.lane(self.session_spec.answer_timeout, self._due)
        self._pool_of: dict[str, Pool] = {}  # by project
        self._unsettled = self.pools.unsettled
        self._verbose = config.log.level == "debug"
        self._settling = False
        self._closed = False

    # --- start ---

    def restore(self) -> None:
        """Take up the nodes and sessions of this bridge's earlier life."""
        now = self.clock()
        for row in self.ledger.nodes():
            if (pool := self.pools.get(row.pool)) is None:
                log.warning("node of a pool that is no longer configured is left alone", node=row.id, pool=row.pool)
                continue
            node = restored_node(row, pool.spec, now, self.wall())
            node.heard = now + max(0.0, REDIAL - self.silence)
            self.add_node(pool, node)
        for open_session in self.ledger.open_sessions():
            self._adopt(open_session, now)
        log.info("restored", nodes=len(self.nodes), sessions=len(self.sessions))
        self._poll_keys()

    def _adopt(self, row: SessionRow, now: float) -> None:
        pool, node = self.nodes.get(row.node, (None, None))
        if pool is None or node is None or node.state not in UP:
            self.ledger.session_ended(row.id, self.wall(), "node lost")
            return
        entry = self.sessions[row.id] = self.adopted(row, pool, now)
        self.admission.hold(entry)
        entry.begun = entry.delivered = True
        pool.adopt(row.id, row.node, row.project, now - max(0.0, self.wall() - row.started))
        self._reschedule(entry, now)

    def adopted(self, row: SessionRow, pool: Pool, now: float) -> Entry:
        """A live session as its row has it. Its client is gone."""
        bounds = msgspec.json.decode(row.bounds, type=Bounds) if row.bounds else None
        spec = self.admission.spec(bounds)
        session = Session.adopted(row.id, row.node, spec, now)
        if spec.max_session:
            session.expires = now + max(0.0, row.started + spec.max_session - self.wall())
        return Entry(session, pool, row.project, None, bounds)

    def add_node(self, pool: Pool, node: Node) -> Link:
        """Take in a node that is new to this process."""
        pool.add(node)
        self.nodes[node.id] = (pool, node)
        link = self.links[node.id] = Link(node.id, self.config.server.node_outbox)
        return link

    def drop_node(self, node: Node) -> None:
        """Forget a node that is gone."""
        self.nodes.pop(node.id, None)
        if link := self.links.pop(node.id, None):
            link.cut(CloseCode.NORMAL, "gone")

    # --- clients ---

    def pool_of(self, identity: Identity) -> Pool | None:
        """The pool in whose line a client's sessions wait: its project's own, else the shared default.

        A client token may allow others only; None if it allows none.
        """
        if identity.restrictions is not None:
            return self.pools.get(self.access.pool_of(identity) or "")
        pool = self._pool_of.get(identity.project)
        if pool is None:
            pool = self._pool_of[identity.project] = self.pools[self.config.pool_for(identity.project)]
        return pool

    def client_event(self, client: Client, project: str, pool: Pool, event: Event, terms: Terms | None = None) -> None:
        """Take a message of an authenticated client, or the end of its socket. Raises ProtocolError."""
        entry = client.entry
        if entry is None or entry.session.id not in self.sessions:
            dialect = entry.session.dialect if entry is not None else None
            if type(event) is messages.Candidate and entry is not None:
                entry.session.receive(Source.CLIENT, event, 0.0)  # of an ended session: dropped
                return
            if terms is not None:
                session = self.admission.session(client.new_id(self.wall()), terms, entry.session if entry else None)
                entry = Entry(session, pool, project, client, terms.bounds)
                self.sessions[session.id] = client.entry = entry
                self.admission.begin(terms, entry, event)
                self._set_prefix(entry)
                return
            entry = Entry(Session(client.new_id(self.wall()), self.session_spec, dialect), pool, project, client)
            self.sessions[entry.session.id] = client.entry = entry
        self.deliver(entry, Source.CLIENT, event)
        if entry.session.dialect is Dialect.PAYLOAD:
            self._set_prefix(entry)

    def client_gone(self, entry: Entry, event: Event) -> None:
        """The socket of a session's client has ended."""
        try:
            self.deliver(entry, Source.CLIENT, event)
        except ProtocolError:  # pragma: no cover - every state of a session with a client has this event
            log.exception("a client's end was not expected", session=entry.session.id)

    @staticmethod
    def _set_prefix(entry: Entry) -> None:
        if entry.session.dialect is Dialect.PAYLOAD:
            entry.prefix = CANDIDATE_PREFIX[Dialect.PAYLOAD]

    def _poll_keys(self) -> None:
        """Close the sockets of keys that were revoked, here or by another process."""
        if self._closed:
            return
        if self.auth.changed():
            for client in [client for client in self.clients if not self.auth.is_valid(client.key)]:
                client.close(CloseCode.POLICY, "")
            for link in list(self.links.values()):
                if link.socket is not None and link.socket.key and not self.auth.is_valid(link.socket.key):
                    link.socket.close(CloseCode.POLICY, "")
        self.wheel.call_later(_POLL_KEYS, self._poll_keys)

    # --- events and effects ---

    def deliver(self, entry: Entry, source: Source, event: Event) -> None:
        """Give a session one event and do what it asks. Raises ProtocolError; then nothing has changed."""
        now = self.clock()
        session = entry.session
        before = session.state
        self._perform(entry, session.receive(source, event, now), now)
        if session.state is not before:
            entry.link = self.way(entry, session.node) if session.relaying else None
            self._reschedule(entry, now)
        if self._unsettled and not self._settling:
            self._settle_all()

    def _perform(self, entry: Entry, effects: list[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, SendClient):  # no patterns here: they take three times as long
                if entry.client is not None:
                    entry.client.send(effect.data)
            elif isinstance(effect, SendNode):
                if (way := self.way(entry, effect.node)) is not None:
                    way.send(self._with_ice(entry, effect.data) if effect.is_offer else effect.data)
            elif isinstance(effect, Begin):
                self._begin(entry, effect.node, now)
            elif isinstance(effect, End):
                self._end(entry, effect, now)
            elif isinstance(effect, Acquire):
                self._acquire(entry, effect, now)
            elif isinstance(effect, (Inform, Refuse)):
                self._tell(entry.client, effect)
            else:
                self._ask(entry, effect, now)

    def ice_grant(self, user: str) -> IceGrant:
        """The STUN and TURN servers for one peer, which is called `user` in the logs of a TURN server."""
        return IceGrant() if self.ice is None else self.ice.grant(user)

    def _with_ice(self, entry: Entry, offer: bytes) -> bytes:
        """An offer, with what the node is to gather its candidates with: made anew for each, so that it is fresh."""
        return messages.with_ice(offer, self.ice_grant(f"{entry.session.id}-node").servers, self.config.ice.policy)

    @staticmethod
    def _tell(client: Client | None, effect: Inform | Refuse) -> None:
        if client is None:
            return
        if isinstance(effect, Inform):
            client.inform(effect.status)
        else:
            client.refuse(effect.error)

    def _acquire(self, entry: Entry, effect: Acquire, now: float) -> None:
        """Get a slot at once, or a place in line."""
        session, pool = entry.session, entry.pool
        if (node := pool.take(session.id, now)) is not None:
            self._touched(pool)
            self._perform(entry, session.receive(Source.POOL, Granted(node), now), now)
        else:
            pool.join(session.id, patient=effect.patient, front=effect.front, project=entry.project)
            self._unsettled[pool.spec.name] = pool

    def _touched(self, pool: Pool) -> None:
        """Slots were taken or freed."""
        if not pool.settled:
            self._unsettled[pool.spec.name] = pool
        elif pool.restless:
            self.changed(pool)

    def _ask(self, entry: Entry, effect: Stay | Yield | Suspend | Resume | Reassign, now: float) -> None:
        """Pass on what a session wants of its pool."""
        pool, session = entry.pool, entry.session.id
        self._unsettled[pool.spec.name] = pool
        match effect:
            case Stay():
                pool.stay(session)
            case Yield():
                pool.yield_slot(session, now)
            case Suspend():
                pool.suspend(session, now)
            case Resume():
                pool.resume(session)
            case Reassign(exclude=node):
                self._record(entry, pool, "")  # else a restart would adopt it on a node that may serve others by then
                pool.leave(session, now)
                pool.join(session, patient=False, front=True, exclude=node, project=entry.project)

    def _begin(self, entry: Entry, node: str, now: float) -> None:
        link = self.links.get(node)
        pool, _ = self.nodes.get(node, (entry.pool, None))
        if not entry.begun:
            self.starts[pool.spec.name].add(now)
        entry.begun, entry.delivered = True, link is not None and link.socket is not None
        self._record(entry, pool, node)

    def _record(self, entry: Entry, pool: Pool, node: str) -> None:
        """Let the ledger know on which node a session has begun; on none while it is tried on another one."""
        self.ledger.session_started(
            SessionRow(
                id=entry.session.id,
                pool=pool.spec.name,
                node=node,
                project=entry.project,
                started=self.wall(),
                bounds=msgspec.json.encode(entry.bounds).decode() if entry.bounds is not None else "",
            )
        )

    def end(self, entry: Entry, effect: End) -> None:
        """Take a session out of the books whose state has been set to ENDED."""
        self._reschedule(entry, self.clock())
        self._end(entry, effect, self.clock())

    def _end(self, entry: Entry, effect: End, now: float) -> None:
        session, pool, client = entry.session, entry.pool, entry.client
        if entry.begun:
            its, _ = self.nodes.get(session.node, (pool, None))
            self.ends[its.spec.name] += 1
            self.ledger.session_ended(session.id, self.wall(), effect.reason)
            self._end_on_node(entry, effect.reason)
        pool.leave(session.id, now)
        if entry.bounds is not None:
            self.admission.release(entry)
        self.sessions.pop(session.id, None)
        self._touched(pool)
        if client is not None and effect.rejoin:
            self._rejoin(entry, client)
        elif client is not None:
            client.over(effect.reason)
        if self._verbose:
            log.debug("session ended", session=session.id, node=session.node, reason=effect.reason)

    def way(self, entry: Entry, node: str) -> Way | None:
        """The way of a session's messages to a node; None if the node is gone."""
        return self.links.get(node)

    def takes_updates(self, node: str) -> bool:
        """Whether a node knows of updates."""
        _, known = self.nodes[node]
        return known.labels.get(messages.UPDATES) is True

    def _end_on_node(self, entry: Entry, reason: str) -> None:
        """Tell the node of a session that it has ended, if that can still reach it."""
        _, node = self.nodes.get(entry.session.node, (None, None))
        if node is not None and node.state in UP:
            self.links[node.id].send(messages.encode(messages.SessionEnd(entry.session.id, reason)))

    def _rejoin(self, entry: Entry, client: Client) -> None:
        """A client whose node was lost goes to the front of the line, with a session of its own."""
        spec = self.admission.spec(entry.bounds)
        again = Session.rejoined(client.new_id(self.wall()), spec, entry.session.dialect)
        client.entry = Entry(again, entry.pool, entry.project, client, entry.bounds)
        self.admission.hold(client.entry)
        self.sessions[again.id] = client.entry
        self._set_prefix(client.entry)
        entry.pool.join(again.id, patient=True, front=True, project=entry.project)
        self._unsettled[entry.pool.spec.name] = entry.pool
        if client.away:
            self.client_gone(client.entry, Away())

    def _reschedule(self, entry: Entry, now: float) -> None:
        """Have the timer go off at the session's deadline, or before: then it is set anew."""
        due = entry.session.deadline
        ended = entry.session.state is State.ENDED
        if entry.timer is not None and (ended or due < entry.due):
            if isinstance(entry.timer, Lane):
                entry.timer.discard(entry)
            else:
                entry.timer.cancel()
            entry.timer = None
        if entry.timer is None and due < inf and not ended:
            # Not later than an answer would be due: then most sessions set one timer in their life.
            latest = now + self.session_spec.answer_timeout
            entry.due = min(due, latest)
            if due >= latest:
                entry.timer = self._deadlines
                self._deadlines.add(entry)
            else:
                entry.timer = self.wheel.call_later(max(0.0, due - now), self._due, entry)

    def _due(self, entry: Entry) -> None:
        entry.timer = None
        now = self.clock()
        if entry.session.deadline > now:
            self._reschedule(entry, now)
            return
        try:
            self.deliver(entry, Source.CLOCK, entry.session.overdue(now))
        except ProtocolError:
            log.exception("a deadline in a state that has none", session=entry.session.id)

    # --- pools ---

    def settle(self, pool: Pool) -> None:
        """Let a pool give its free slots away and tell those in line where they stand."""
        self._unsettled[pool.spec.name] = pool
        self._settle_all()

    def _settle_all(self) -> None:
        if self._settling:  # the loop below goes on until nothing is left
            return
        self._settling = True
        try:
            while self._unsettled:
                _, pool = self._unsettled.popitem()
                for session, verdict in pool.settle(self.clock()):
                    if entry := self.sessions.get(session):
                        try:
                            self.deliver(entry, Source.POOL, verdict)
                        except ProtocolError:
                            log.exception("a pool's word does not fit the session", session=session)
                        self._unsettled[pool.spec.name] = pool
                if pool.restless:
                    self.changed(pool)
        finally:
            self._settling = False

    # --- what is kept ---

    async def save(self, node: Node) -> None:
        """Write down how a node stands now; durable when it returns."""
        if node.state is NodeState.GONE:
            await self.ledger.delete_node(node.id)
        else:
            await self.ledger.save_node(self._row(node))

    def leads(self, pool: str) -> bool:
        """Whether this process knows all of a pool; of several bridges that share it, one does."""
        return True

    def fence(self, pool: str) -> int:
        """The token with which rows of a pool's nodes are written; one that is alone needs none."""
        return 0

    def _row(self, node: Node) -> NodeRow:
        return NodeRow(
            id=node.id,
            pool=node.spec.name,
            managed=node.managed,
            state=node.state.value,
            started=node.started,
            capacity=node.capacity,
            epoch=node.epoch,
            since=self.wall() - (self.clock() - node.since),
            reason=node.reason,
            labels=json.dumps(node.labels),
            ordered=node.order.value,
            fence=self.fence(node.spec.name),
        )

    def overview(self) -> list[Mapping[str, Any]]:
        """The pools with the model that their nodes declare, for the HTTP API."""
        return [{"name": name, "model": declared_model(pool)} for name, pool in self.pools.items()]

    def close(self) -> None:
        """Stop acting: what happens from now on changes nothing in the store."""
        self._closed = True


def declared_model(pool: Pool) -> object:
    """What the nodes of a pool say of their model; None while none has said it."""
    ready = sorted(pool.nodes.values(), key=lambda node: (node.state is not NodeState.READY, node.id))
    return next((node.labels["model"] for node in ready if "model" in node.labels), None)


def restored_node(row: NodeRow, spec: PoolSpec, now: float, wall: float) -> Node:
    """A node as an earlier life of this bridge left it. What was asked for begins anew, with a new deadline."""
    node = Node(row.id, spec, NodeState(row.state), now, managed=row.managed)
    node.capacity, node.epoch, node.started, node.reason = row.capacity, row.epoch, row.started, row.reason
    node.labels, node.order = json.loads(row.labels), Order(row.ordered)
    node.uncertain = node.state is NodeState.PROVISIONING
    if node.state in (NodeState.STOPPED, NodeState.DRAINING):  # neither depends on who was there to see it
        node.since = now - max(0.0, wall - row.since)
        node.deadline = node.since + duration(node.state, spec)
    return node


def session_spec(config: Config) -> SessionSpec:
    """The times and bounds of sessions."""
    sessions = config.sessions
    return SessionSpec(
        claim_timeout=sessions.claim_timeout,
        answer_timeout=sessions.answer_timeout,
        connect_timeout=sessions.connect_timeout,
        resume_grace=sessions.resume_grace,
        max_session=sessions.max_session,
        max_candidates=sessions.max_candidates,
    )


def new_session_id(now: float) -> str:
    """An id that nobody can guess: 80 random bits behind the time, so that the ledger grows at its end.

    Args:
        now: Unix seconds.
    """
    return f"{int(now * 1000):012x}{next(_random)}"


def _random_hex(size: int) -> Iterator[str]:
    """Random texts of so many bytes, in hexadecimal digits; the system is asked for many at once."""
    while True:
        block = secrets.token_bytes(256 * size)
        for start in range(0, len(block), size):
            yield block[start : start + size].hex()


_random = _random_hex((messages.SESSION_ID_LENGTH - 12) // 2)
