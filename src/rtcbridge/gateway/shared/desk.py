"""What operators see and do at any replica: the others are asked for what they have, and told what to do."""

import asyncio
import itertools
from collections.abc import Callable

import structlog

from rtcbridge.core.events import Cancelled, Source
from rtcbridge.gateway.actions import ActionError, Actions
from rtcbridge.gateway.bridge import restored_node
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.wire import Act, AtDesk, Control, Done, EndSession, SessionsHere, TellSessions
from rtcbridge.gateway.viewer import Viewer
from rtcbridge.gateway.views import SessionView
from rtcbridge.ports_engine import EngineError

log = structlog.get_logger(__name__)

_PATIENCE = 2.0  # seconds that another replica has to answer
_FRESH = 0.3  # seconds for which what was found counts


class Desk:
    """Operators' view of what others have.

    Args:
        bridge: The replica.
        actions: What may be done to the nodes of the pools that it leads.

    Attributes:
        elsewhere: The sessions of other replicas, by id, and each with its replica.
    """

    def __init__(self, bridge: SharedBridge, actions: Actions) -> None:
        self._bridge = bridge
        self._actions = actions
        self.elsewhere: dict[str, tuple[str, SessionView]] = {}
        self._asked: dict[int, asyncio.Future[SessionsHere | Done]] = {}
        self._numbers = itertools.count(1)
        self._looked = -_FRESH
        self._looking = asyncio.Lock()
        bridge.at_desk = self.take

    async def look_around(self) -> None:
        """Bring what is shown up to date: nodes of pools that others lead, and the sessions of other replicas."""
        async with self._looking:
            if self._bridge.clock() - self._looked < _FRESH:
                return
            replicas: set[str] = set()
            try:
                for pool in self._bridge.shared_pools():
                    replicas |= await self._show(pool)
            except EngineError as error:
                log.warning("what other bridges have cannot be shown", error=str(error))
            others = sorted(replicas - {self._bridge.me})
            found = await asyncio.gather(*(self._ask(each, TellSessions) for each in others))
            self.elsewhere = {
                view.id: (replica, view)
                for replica, answer in zip(others, found, strict=True)
                if isinstance(answer, SessionsHere)
                for view in answer.sessions
            }
            self._looked = self._bridge.clock()

    async def _show(self, pool: SharedPool) -> set[str]:
        """Take the nodes of a pool that another leads from the ledger and the engine; return the replicas."""
        bridge, name = self._bridge, pool.spec.name
        view = await pool.store.look()
        if name in bridge.tokens:
            return set(view.replicas)
        rows = await asyncio.to_thread(bridge.ledger.nodes)
        if name in bridge.tokens:
            return set(view.replicas)  # it leads by now, and knows better
        now, wall = bridge.clock(), bridge.wall()
        for id in pool.nodes:
            bridge.nodes.pop(id, None)
        pool.empty()
        for row in rows:
            if row.pool != name:
                continue
            node = restored_node(row, pool.spec, now, wall)
            node.since = now - max(0.0, wall - row.since)
            if (there := view.nodes.get(row.id)) is not None:
                node.linked, node.capacity = bool(there.replica), there.capacity
            bridge.take_in(pool, node)
        pool.mirror(view, (), now)
        return set(view.replicas)

    # --- doing ---

    async def act(self, pool: str, node: str, action: str) -> bool:
        """Let the leader of a pool do something to a node; false if that is this replica. Raises ActionError."""
        if pool in self._bridge.tokens:
            return False
        leader = await self._bridge.leaders.of(pool)
        self._ended(await self._ask(leader, lambda number: Act(number, node, action)), f"node {node}")
        return True

    async def end_session(self, session: str, reason: str) -> None:
        """Let the owner of a session end it. Raises ActionError."""
        replica, _ = self.elsewhere[session]
        answer = await self._ask(replica, lambda number: EndSession(number, session, reason))
        self._ended(answer, f"session {session}")

    @staticmethod
    def _ended(answer: SessionsHere | Done | None, what: str) -> None:
        if not isinstance(answer, Done):
            raise ActionError(f"{what}: the bridge that has it does not answer now; it may have been done")
        if answer.error:
            raise ActionError(answer.error, found=answer.found)

    # --- between replicas ---

    async def _ask(self, replica: str, make: Callable[[int], Control]) -> SessionsHere | Done | None:
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._bridge.tell(replica, make(number))
        try:
            async with asyncio.timeout(_PATIENCE):
                answer: SessionsHere | Done = await future
                return answer
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def take(self, origin: str, message: AtDesk) -> None:
        """Take what another replica's desk asks or answers."""
        match message:
            case TellSessions(number=number):
                viewer = Viewer(self._bridge)
                here = [viewer.session(entry) for entry in self._bridge.sessions.values()]
                self._bridge.tell(origin, SessionsHere(number, here))
            case Act():
                self._bridge.do(self._act(origin, message))
            case EndSession(number=number, session=session, reason=reason):
                if (entry := self._bridge.sessions.get(session)) is None:
                    self._bridge.tell(origin, Done(number, f"There is no session {session}.", found=False))
                else:
                    self._bridge.deliver(entry, Source.OPERATOR, Cancelled(reason))
                    self._bridge.tell(origin, Done(number))
            case SessionsHere() | Done():
                if (asked := self._asked.get(message.number)) is not None and not asked.done():
                    asked.set_result(message)

    async def _act(self, origin: str, asked: Act) -> None:
        try:
            if asked.action not in ("drain", "stop", "start", "destroy"):
                raise ActionError(f"nodes have no {asked.action}")
            await getattr(self._actions, f"{asked.action}_node")(asked.node)
        except ActionError as error:
            self._bridge.tell(origin, Done(asked.number, str(error), found=error.found))
        else:
            self._bridge.tell(origin, Done(asked.number))
