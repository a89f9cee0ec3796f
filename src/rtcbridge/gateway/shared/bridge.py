"""The bridge of a replica: sessions of its own clients, and messages for those of others."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import structlog

from rtcbridge.config import Config
from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, ProtocolError
from rtcbridge.core.events import (
    Acquire,
    End,
    Event,
    MediaDown,
    Reassign,
    Resume,
    Source,
    Stay,
    Suspend,
    Yield,
)
from rtcbridge.core.node import Node
from rtcbridge.core.pool import Pool
from rtcbridge.core.pools import Pools
from rtcbridge.core.projects import Projects
from rtcbridge.core.session import State
from rtcbridge.core.spec import PoolSpec
from rtcbridge.gateway.access import Terms
from rtcbridge.gateway.bridge import Bridge, Entry
from rtcbridge.gateway.clients import ClientSocket
from rtcbridge.gateway.links import Link, Way
from rtcbridge.gateway.recipient import Client
from rtcbridge.gateway.shared.admission import SharedAdmission
from rtcbridge.gateway.shared.doubts import Doubts
from rtcbridge.gateway.shared.inbox import Inbox
from rtcbridge.gateway.shared.leading import Leaders
from rtcbridge.gateway.shared.orphans import Orphans
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.routes import Route
from rtcbridge.gateway.shared.slots import SlotLink
from rtcbridge.gateway.shared.wire import (
    CONTROL,
    Ask,
    AtDesk,
    Control,
    Guest,
    Look,
    OfVisit,
    Verdict,
    encode_control,
)
from rtcbridge.gateway.timers import TimerWheel
from rtcbridge.gateway.visits import Visit
from rtcbridge.gateway.websocket import WebSocket
from rtcbridge.ports import Authenticator, Ledger
from rtcbridge.ports_engine import Engine, EngineError, Grant, News, Packet, Wake

log = structlog.get_logger(__name__)

_POLL = 0.2  # seconds between looks at the places of those that wait


class SharedBridge(Bridge):
    """See `Bridge`; the pools are shared through an engine.

    Args:
        engine: What the replicas share.

    Attributes:
        guests: Sessions of other replicas with a node here.
        leaders: The replicas that lead the pools.
        inbox: Takes what other replicas send.
        orphans: Takes over the sessions of a replica that has died.
        doubts: Sessions of this one that may have ended without it.
        gone: The replica that each session was handed over to, for a while.
        joining: By node that is about to be registered here, what has come for it.
        of_visit: Takes what other replicas say of visits.
        tokens: Of the pools that this replica leads, by pool.
        leaving: It stops, and begins no session any more.
        judge: Says whether a node may register; the reconciler's, where this replica leads.
        look: Has the plan of a pool made anew; the same.
        at_desk: Takes what other replicas' operators want.
    """

    pools: Pools

    def __init__(
        self,
        config: Config,
        auth: Authenticator,
        ledger: Ledger,
        wheel: TimerWheel,
        clock: Callable[[], float],
        engine: Engine,
    ) -> None:
        ranks = {project.id: project.priority for project in config.project_specs()}

        def make(spec: PoolSpec, projects: Projects | None, stirred: Callable[[str], object]) -> Pool:
            return SharedPool(spec, stirred, engine.store(spec.name), ranks, clock)

        super().__init__(config, auth, ledger, wheel, clock, Pools(config.pool_specs(), (), make))
        self.engine = engine
        self.admission = SharedAdmission(self)
        self.wall = engine.wall
        self.guests: dict[str, Guest] = {}
        self.leaders = Leaders(self.tell)
        self.orphans = Orphans(self)
        self.doubts = Doubts(self)
        self.inbox = Inbox(self)
        self.gone: dict[str, str] = {}
        self.joining: dict[str, list[tuple[str, Packet]]] = {}
        self.of_visit: Callable[[str, OfVisit], object] = lambda origin, message: None
        self.tokens: dict[str, int] = {}
        self.leaving = False
        self.judge: Callable[[Ask], Verdict | None] = lambda ask: None
        self.look: Callable[[Look], object] = lambda look: None
        self.at_desk: Callable[[str, AtDesk], object] = lambda origin, message: None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._polling: set[str] = set()
        for pool in self.shared_pools():
            pool.arrived = self.settle
            pool.nudge = self.nudge
            pool.moved = partial(self._moved_to, pool)

    @property
    def me(self) -> str:
        """The address of this replica."""
        return self.engine.bus.address

    def shared_pools(self) -> Iterator[SharedPool]:
        """The pools, as what they are here."""
        for pool in self.pools.values():
            assert isinstance(pool, SharedPool)
            yield pool

    def shared_pool(self, name: str) -> SharedPool:
        """One of them. Raises KeyError."""
        pool = self.pools[name]
        assert isinstance(pool, SharedPool)
        return pool

    def takes_updates(self, node: str) -> bool:
        """See `Bridge`; of a node that is elsewhere, the replica with its socket will say."""
        link = self.links.get(node)
        return link is None or link.updates

    def leads(self, pool: str) -> bool:
        """See `Bridge`."""
        return pool in self.tokens

    def fence(self, pool: str) -> int:
        """See `Bridge`."""
        return self.tokens.get(pool, 0)

    def take_in(self, pool: Pool, node: Node) -> None:
        """Take in a node of a pool that this replica leads; its socket may be anywhere."""
        pool.add(node)
        self.nodes[node.id] = (pool, node)

    def add_node(self, pool: Pool, node: Node) -> Link:
        """See `Bridge`; the link that is returned leads nowhere."""
        self.take_in(pool, node)
        return Link(node.id, 0)

    def drop_node(self, node: Node) -> None:
        """See `Bridge`; the end of the leader's round closes its socket."""
        self.nodes.pop(node.id, None)

    def restore(self) -> None:
        """Nodes are the leader's to restore; sessions, those of whoever has their node."""
        self._poll_keys()

    async def join(self) -> None:
        """Join the other replicas. Raises EngineError."""
        await self.engine.start(list(self.pools), self.woken, self.inbox.received)

    async def part(self) -> None:
        """Leave the other replicas."""
        for pool in self.shared_pools():
            await pool.calls.close(1.0)
        for task in self._tasks:
            task.cancel()
        await self.engine.close()

    def do(self, what: Coroutine[Any, Any, None]) -> None:
        """Do something in the background."""
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def client_event(self, client: Client, project: str, pool: Pool, event: Event, terms: Terms | None = None) -> None:
        """See `Bridge`."""
        is_new = client.entry is None or client.entry.session.id not in self.sessions
        if self.leaving and is_new and isinstance(client, ClientSocket):
            client.close(CloseCode.RESTART)
        else:
            super().client_event(client, project, pool, event, terms)

    # --- what a client says while the engine is asked ---

    def _acquire(self, entry: Entry, effect: Acquire, now: float) -> None:
        super()._acquire(entry, effect, now)
        self._hold_back(entry)

    def _ask(self, entry: Entry, effect: Stay | Yield | Suspend | Resume | Reassign, now: float) -> None:
        super()._ask(entry, effect, now)
        self._hold_back(entry)

    def _end(self, entry: Entry, effect: End, now: float) -> None:
        if effect.rejoin and entry.client is not None:
            self.shared_pool(entry.pool.spec.name).succeed(entry.session.id)
        self.shared_pool(entry.pool.spec.name).ending(entry.session.id, effect.reason)
        super()._end(entry, effect, now)
        if effect.rejoin and entry.client is not None and entry.client.entry is not None:
            self._hold_back(entry.client.entry)

    @staticmethod
    def _hold_back(entry: Entry) -> None:
        """Let what the client says next wait for the engine's answer, as it would for that of a pool in memory."""
        if entry.session.state is State.ASKED and entry.early is None:
            entry.early = []

    def deliver(self, entry: Entry, source: Source, event: Event) -> None:
        """See `Bridge`."""
        super().deliver(entry, source, event)
        if entry.early is not None and entry.session.state is not State.ASKED:
            early, entry.early = entry.early, None
            for message in early:
                message()

    # --- from sessions to nodes ---

    def way(self, entry: Entry, node: str) -> Way | None:
        """The node's link if that is here, else a way that leads there."""
        pool = entry.pool
        assert isinstance(pool, SharedPool)
        route = entry.route
        if route is None or route.node != node:
            outbox, unreachable = self.config.server.node_outbox, partial(self.wheel.call_later, 0.0, self._lose, entry)
            route = Route(entry.session.id, node, self.engine.bus, self.links.get, outbox, unreachable)
            entry.route = route
            if (grant := pool.grants.get(entry.session.id)) is not None and grant.node == node:
                route.move(grant.replica, grant.epoch)
        return route.link or route

    def _lose(self, entry: Entry) -> None:
        """What a session sends has no room on its way any more."""
        if self.sessions.get(entry.session.id) is entry:
            try:
                self.deliver(entry, Source.NODE, MediaDown("node unreachable"))
            except ProtocolError:
                log.exception("a session cannot lose its node", session=entry.session.id)

    def _begin(self, entry: Entry, node: str, now: float) -> None:
        pool = entry.pool
        assert isinstance(pool, SharedPool)
        super()._begin(entry, node, now)
        self.way(entry, node)
        assert entry.route is not None
        if entry.route.replica:  # else the node does not list it when it is back, and that is no loss
            pool.begun(entry.session.id)

    def _end_on_node(self, entry: Entry, reason: str) -> None:
        session = entry.session
        if entry.route is not None and entry.route.node == session.node and entry.route.replica:
            entry.route.send(messages.encode(messages.SessionEnd(session.id, reason)))
        self.engine.bus.forget(session.id)

    def moved(self, pool: SharedPool, node: str, replica: str, epoch: int, session: str = "") -> None:
        """A node has a socket at this replica now, or at none: tell the ways of its sessions here."""
        for id in [session] if session else list(pool.on_node.get(node, ())):
            if (grant := pool.grants.get(id)) is not None and epoch >= grant.epoch:
                pool.grants[id] = Grant(node, epoch, replica)
            entry = self.sessions.get(id)
            if grant is None or entry is None or entry.route is None or entry.route.node != node:
                continue
            if epoch >= entry.route.epoch:
                if replica and entry.begun:
                    pool.begun(id)
                entry.route.move(replica, epoch)
                entry.link = self.way(entry, node) if entry.session.relaying else None

    def _moved_to(self, pool: SharedPool, session: str, grant: Grant) -> None:
        self.moved(pool, grant.node, grant.replica, grant.epoch, session)

    # --- what the engine brings ---

    def woken(self, name: str, wake: Wake) -> None:
        """Take news from the engine."""
        pool = self.shared_pool(name)
        match wake.news:
            case News.GRANTED:
                pool.granted(wake.session, Grant(wake.node, wake.epoch, wake.replica))
            case News.LOST:
                pool.lost(wake.session)
            case News.MOVED:
                self.moved(pool, wake.node, wake.replica, wake.epoch, wake.session)
            case News.ORPHAN:
                pool.calls.add(wake.session, partial(self.orphans.adopt, pool, wake))
            case News.MAYBE:
                self._say_whether_served(pool, wake)
            case News.DOUBTED:
                self.doubts.add(pool, wake.session)
            case News.TAKEN:
                self.do(self._taken(pool, wake.session))
            case News.REPLACED:
                if (link := self.links.get(wake.node)) is not None and link.epoch < wake.epoch:
                    self.cut(link, CloseCode.POLICY, "replaced by a newer connection")

    def _say_whether_served(self, pool: SharedPool, wake: Wake) -> None:
        """The owner of a session has died, and may have sent its offer here before it could say so."""
        link, session, node = self.links.get(wake.node), wake.session, wake.node
        if isinstance(link, SlotLink) and link.has_served(session):
            pool.calls.add(session, lambda: pool.store.served(node, [session]))
            self.end_guest(session, node, "unknown")

    async def _taken(self, pool: SharedPool, session: str) -> None:
        """A replica that was taken for dead has a session again that this one went on with meanwhile."""
        if (entry := self.sessions.get(session)) is None:
            return  # it was handed over in good order
        try:
            there = await pool.store.find(session)
        except EngineError as error:
            log.warning("who has taken a session back is not known", session=session, error=str(error))
            there = None
        if self.sessions.get(session) is entry and (there is None or there.owner != self.me):
            pool.part_with(session, served=True)
            socket = entry.client.socket if isinstance(entry.client, Visit) else entry.client
            if isinstance(socket, WebSocket):  # he has to come back, to where his session is
                socket.close(CloseCode.RESTART)
            self.leave(entry, there.owner if there is not None else "")

    def cut(self, link: Link, code: CloseCode, reason: str) -> None:
        """Close a node's socket; what comes for the node from now on goes back."""
        if self.links.get(link.node) is link:
            del self.links[link.node]
            self.drop_guests(link.node)
            if isinstance(link, SlotLink):
                self.moved(self.shared_pool(link.pool), link.node, "", link.epoch)
        link.cut(code, reason)

    # --- sessions of others ---

    def enter(self, entry: Entry) -> None:
        """Take in a session that began at another replica."""
        session = entry.session.id
        self.sessions[session] = entry
        self.guests.pop(session, None)
        self.gone.pop(session, None)
        self.admission.hold(entry)
        self._set_prefix(entry)
        self._reschedule(entry, self.clock())

    def leave(self, entry: Entry, to: str) -> None:
        """Let another replica have a session; what still comes for it here goes there."""
        session = entry.session.id
        del self.sessions[session]
        self.engine.quotas.drop(session)
        entry.early = entry.client = entry.link = None
        entry.session.state = State.ENDED  # for its timer
        self._reschedule(entry, self.clock())
        self.gone[session] = to
        if entry.session.node in self.links:
            self.guests[session] = Guest(to, entry.session.node)

    def drop_guests(self, node: str) -> None:
        """The socket of a node has gone: its sessions are guests of whoever has the next one."""
        for session in [session for session, guest in self.guests.items() if guest.node == node]:
            del self.guests[session]
            self.engine.bus.forget(session)

    def end_guest(self, session: str, node: str, reason: str) -> None:
        """Tell a node here that a session has ended of which nobody knows."""
        self.guests.pop(session, None)
        if (link := self.links.get(node)) is not None:
            link.send(messages.encode(messages.SessionEnd(session, reason)))

    # --- leaders ---

    def tell(self, replica: str, message: Control) -> None:
        """Say something to another replica, or to this one."""
        if replica == self.me:
            self.inbox.control(replica, message)
        elif replica:
            self.engine.bus.send(replica, f"{CONTROL}{self.me}", CONTROL, encode_control(message))

    def nudge(self, pool: Pool, session: str = "") -> None:
        """Somebody waits: the leader should know, and the places are to be looked at from time to time."""
        name = pool.spec.name
        if leader := self.leaders.get(name):
            self.tell(leader, Look(name, session))
        if name not in self._polling:
            self._polling.add(name)
            self.do(self._poll_places(self.shared_pool(name)))

    async def _poll_places(self, pool: SharedPool) -> None:
        try:
            while pool.waiting_here:
                await asyncio.sleep(_POLL)
                try:
                    places = await pool.store.places()
                except EngineError:
                    continue
                for session, place in places.items():
                    pool.placed(session, place)
        finally:
            self._polling.discard(pool.spec.name)
