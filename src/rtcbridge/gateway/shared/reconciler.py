"""Performs the plan of the pools that this replica leads, from what the engine knows of them."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from rtcbridge.core.errors import CloseCode, TransitionError
from rtcbridge.core.node import UP, Node, NodeEvent, NodeState, Order
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.bridge import REDIAL, restored_node
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.gateway.shared.audit import Audit
from rtcbridge.gateway.shared.bridge import SharedBridge
from rtcbridge.gateway.shared.pool import SharedPool
from rtcbridge.gateway.shared.wire import Ask, CutNode, DrainNode, Look, Verdict
from rtcbridge.ports import Provider
from rtcbridge.ports_engine import EngineError, NodeView, PoolView

log = structlog.get_logger(__name__)

_ROUND = 0.5  # seconds between rounds that nothing has asked for
_SHARE, _LONGEST = 2.0, 1.0  # of the time of a round, the pause behind it, and the longest that counts, in seconds
_PACE = 0.02  # seconds between two rounds at least: each reads the whole pool


class _Info(msgspec.Struct):
    """What the replica with a node's socket says of it."""

    managed: bool = False
    labels: dict[str, Any] = {}


class SharedReconciler(Reconciler):
    """See `Reconciler`; a pool's plan is performed by one replica at a time, the one with the lease.

    Args:
        bridge: The replica.
        providers: The provider of each pool, by the pool's name.
        url: Where nodes dial in; it ends in `/node`.
    """

    def __init__(self, bridge: SharedBridge, providers: Mapping[str, Provider], url: str) -> None:
        super().__init__(bridge, providers, url)
        self._shared = bridge
        self._sockets: dict[str, tuple[str, int]] = {}  # by node: the replica with its socket, and the epoch of that
        self._drained: dict[str, int] = {}  # the epoch under which a node was told to drain
        self._took: dict[str, float] = {}  # seconds of the last round, by pool
        self._supply: dict[str, tuple[int, str]] = {}
        self._woken: dict[str, int] = dict.fromkeys(bridge.pools, 0)
        bridge.judge = self.judge
        self._waited: dict[str, set[str]] = {name: set() for name in bridge.pools}
        bridge.look = self._look_at

    def start(self) -> None:
        """See `Reconciler`."""
        super().start()
        self._tasks.append(asyncio.create_task(Audit(self._shared).run(), name="audit"))

    def wake(self, pool: Pool) -> None:
        """See `Reconciler`."""
        self._woken[pool.spec.name] += 1
        super().wake(pool)

    def _look_at(self, look: Look) -> None:
        if (pool := self._shared.pools.get(look.pool)) is not None and self._acts(pool):
            if look.session:
                self._waited[look.pool].add(look.session)
            self.wake(pool)

    def _acts(self, pool: Pool) -> bool:
        return pool.spec.name in self._shared.tokens

    def _next_due(self, pool: Pool, now: float) -> float:
        return now + _ROUND if not self._acts(pool) else min(now + _ROUND, super()._next_due(pool, now))

    async def _may(self, pool: Pool) -> bool:
        """Ask once more right before the provider is: this replica may have been frozen since."""
        assert isinstance(pool, SharedPool)
        try:
            lead = await pool.store.lead()
        except EngineError:
            return False
        return bool(lead.token) and lead.token == self._shared.tokens.get(pool.spec.name)

    # --- may a node register? ---

    def judge(self, ask: Ask) -> Verdict | None:
        """Say whether a node may register; None if this replica does not lead its pool, and so cannot know."""
        pool = self._shared.pools.get(ask.pool)
        if pool is None or not self._acts(pool):
            return None
        if (known := self._shared.nodes.get(ask.node)) is not None and known[0] is not pool:
            return Verdict(ask.number, accepted=False)
        node, now = pool.nodes.get(ask.node), self._bridge.clock()
        if (node is None and ask.managed) or (node is not None and node.managed is not ask.managed):
            return Verdict(ask.number, accepted=False)
        if node is None:
            node = Node(ask.node, pool.spec, NodeState.READY, now, managed=False)
            self._shared.take_in(pool, node)
        else:
            try:
                pool.observe(node.id, NodeEvent.REGISTERED, now)
            except TransitionError as error:
                log.warning("node may not register now", error=str(error))
                return Verdict(ask.number, accepted=False)
        node.heard, node.capacity, node.labels = now, ask.capacity, ask.labels
        self.changed(pool, node)
        draining = node.state is NodeState.DRAINING
        supply = max(0, pool.supply() - (0 if node.linked else node.free))
        return Verdict(ask.number, True, epoch=node.epoch, open=_takes_sessions(node), draining=draining, supply=supply)

    # --- rounds ---

    async def _round(self, pool: Pool, now: float | None = None) -> None:
        assert isinstance(pool, SharedPool)
        name = pool.spec.name
        await asyncio.sleep(max(_PACE, _SHARE * self._took.get(name, 0.0)))  # a large pool is not read all the time
        self._wakes[name].clear()
        woken = self._woken[name]
        now = self._bridge.clock()
        try:
            if not await self._lead(pool):
                return
            view = await pool.store.look()
            if view.recovering:  # not all have said again what they have
                await self._publish(pool, "")
                return
            self._sync(pool, view, now)
            await super()._round(pool, now)  # by one time: if this replica is frozen in between, nobody is silent
            await self._apply(pool, view)
        except EngineError as error:
            log.warning("the pool waits for the engine", pool=name, error=str(error))
        self._took[name] = min(_LONGEST, self._bridge.clock() - now)
        if self._woken[name] != woken:
            self._wakes[name].set()

    async def _lead(self, pool: SharedPool) -> bool:
        """Ask to lead the pool, or to go on doing so."""
        name = pool.spec.name
        lead = await pool.store.lead()
        pool.replicas = lead.replicas
        if not lead.token:
            if self._shared.tokens.pop(name, None) is not None:
                log.warning("another replica leads the pool now", pool=name, leader=lead.leader)
                self._give_up(pool)
        elif self._shared.tokens.get(name) != lead.token:
            rows = await asyncio.to_thread(self._bridge.ledger.take_nodes, name, lead.token)
            self._give_up(pool)
            now, bridge = self._bridge.clock(), self._shared
            for row in rows:
                node = restored_node(row, pool.spec, now, bridge.wall())
                node.heard = now + max(0.0, REDIAL - bridge.silence)
                bridge.take_in(pool, node)
            self._shared.tokens[name] = lead.token
            log.info("leads the pool", pool=name, nodes=len(pool.nodes))
        await self._shared.leaders.note(name, self._shared.me if lead.token else lead.leader)
        return bool(lead.token)

    def _give_up(self, pool: SharedPool) -> None:
        """Forget what this replica knows of the nodes, and end what it is doing to them."""
        for id in pool.nodes:
            if (running := self._operations.get(id)) is not None:
                running.task.cancel()
            self._bridge.nodes.pop(id, None)
            self._drained.pop(id, None)
            self._sockets.pop(id, None)
        self._dirty[pool.spec.name].clear()
        pool.empty()

    def _sync(self, pool: SharedPool, view: PoolView, now: float) -> None:
        """Take in what the engine knows of nodes and sessions."""
        for id, there in view.nodes.items():
            self._sockets[id] = there.replica, there.epoch
            node = pool.nodes.get(id)
            if node is None:
                info = _info(there)
                if info.managed:
                    continue
                node = Node(id, pool.spec, NodeState.READY, now, managed=False)
                node.labels = info.labels
                self._shared.take_in(pool, node)
            self._sync_node(pool, node, there, now)
        for node in [node for node in pool.nodes.values() if node.state in UP and node.id not in view.nodes]:
            if node.linked:  # its replica has given it up
                self.tell(pool, node, NodeEvent.SILENT)
        waited = self._waited[pool.spec.name]
        pool.mirror(view, waited, now)
        waited.clear()

    def _sync_node(self, pool: SharedPool, node: Node, there: NodeView, now: float) -> None:
        if there.epoch != node.epoch:
            if node.state not in UP:
                with suppress(TransitionError):
                    pool.observe(node.id, NodeEvent.REGISTERED, now)
            node.epoch = there.epoch
            node.labels = _info(there).labels or node.labels
            self.changed(pool, node)
        if node.state not in UP:
            return
        if node.capacity != there.capacity:
            node.capacity = there.capacity
        linked = bool(there.replica)
        if linked:
            node.heard = now  # its replica sees to it that it is not silent
        if node.linked is not linked:
            node.linked = linked

    async def _apply(self, pool: SharedPool, view: PoolView) -> None:
        """Let the engine and the replicas know what the nodes are now, and how many slots are on their way.

        Those that wait hear of the supply: what raises it is said before what takes slots away, so that nobody is told
        in between that there is nothing for him; and the other way round.
        """
        there = [(each, pool.nodes.get(id)) for id, each in view.nodes.items()]
        version = view.version
        for each, node in there:
            if node is not None and _takes_sessions(node) and not each.open and each.replica:
                await pool.store.node_open(each.id, each.epoch, True)
                version = ""
        await self._publish(pool, version)
        for each, node in there:
            if node is None or (node.state not in UP and node.epoch == each.epoch):
                await self._end(pool, each, node)
            elif each.open and not _takes_sessions(node):
                await pool.store.node_open(each.id, each.epoch, False)
            if node is not None and node.state is NodeState.DRAINING and each.replica:
                self._drain(node, each.replica, each.epoch)

    async def _end(self, pool: SharedPool, there: NodeView, node: Node | None) -> None:
        await pool.store.node_gone(there.id, there.epoch)
        if there.replica and node is None:
            self._shared.tell(there.replica, CutNode(there.id, there.epoch, CloseCode.POLICY, "gone"))
        elif there.replica and node is not None:
            self._tell_link(node)

    async def _publish(self, pool: SharedPool, version: str) -> None:
        name, supply = pool.spec.name, pool.supply()
        before, cause = self._supply.get(name, (0, ""))
        cause = "" if supply > before else pool.cause or cause
        self._supply[name] = supply, cause
        if not await pool.store.publish(self._shared.tokens.get(name, 0), supply, cause, version):
            self.wake(pool)

    def _tell_link(self, node: Node) -> None:
        """Let the replica with a node's socket know of its new state."""
        replica, epoch = self._sockets.get(node.id, ("", 0))
        if not replica:
            return
        if node.state is NodeState.DRAINING:
            self._drain(node, replica, epoch)
        elif node.state not in UP:
            self._shared.tell(replica, CutNode(node.id, epoch, CloseCode.RESTART, node.state.value))
            node.linked = False

    def _drain(self, node: Node, replica: str, epoch: int) -> None:
        if self._drained.get(node.id) != epoch:
            self._drained[node.id] = epoch
            self._shared.tell(replica, DrainNode(node.id, epoch))


def _takes_sessions(node: Node) -> bool:
    return node.state is NodeState.READY and node.order is Order.NONE


def _info(there: NodeView) -> _Info:
    try:
        return msgspec.json.decode(there.info or "{}", type=_Info)
    except msgspec.DecodeError:
        log.warning("what is said of a node cannot be read", node=there.id)
        return _Info()
