"""What people may do to nodes while the bridge runs: drain, stop, start, destroy.

Each is an order to the pool, not a call of the provider: it is stored before this returns, the reconciler carries
it out, and a bridge that is killed in between goes on with it.
"""

from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.node import Node, NodeEvent, NodeState, Order
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.ports import LedgerError

_S = NodeState
_STOPPABLE = frozenset({_S.STARTING, _S.BOOTING, _S.READY, _S.LOST, _S.DRAINING})


class ActionError(Exception):
    """An action that cannot be done now. The text is one clear line; nothing has changed unless it says so.

    `found` is false when there is no such node.
    """

    def __init__(self, text: str, *, found: bool = True) -> None:
        super().__init__(text)
        self.found = found


class Actions:
    """The actions on one running bridge.

    Args:
        bridge: The bridge.
        reconciler: Carries them out.
    """

    def __init__(self, bridge: Bridge, reconciler: Reconciler) -> None:
        self._bridge = bridge
        self._reconciler = reconciler

    async def drain_node(self, id: str) -> None:
        """Give a node no new session; when its last one has ended, stop it, until somebody starts it.

        One that was started by hand is told to end. Raises ActionError: it is neither ready nor draining.
        """
        pool, node = self._find(id)
        if node.state not in (_S.READY, _S.DRAINING):
            raise self._refusal(node, "only one that is ready can be drained")
        if node.order is Order.NONE:
            node.order = Order.STOP
        await self._carry_out(pool, node, NodeEvent.DRAIN if node.state is _S.READY else None)

    async def stop_node(self, id: str) -> None:
        """Stop a node now, with its sessions, until somebody starts it; one that is stopped stays so.

        Raises ActionError: it was started by hand, is being made or destroyed, or has failed.
        """
        pool, node = self._find_managed(id, "stop it where it runs, or drain it")
        if node.state in (_S.STOPPING, _S.STOPPED):
            if node.order is Order.NONE:
                node.order = Order.STOP
            await self._carry_out(pool, node, None)
        elif node.state in _STOPPABLE:
            await self._carry_out(pool, node, NodeEvent.STOP)
        else:
            raise self._refusal(node, "it cannot be stopped, but it can be destroyed")

    async def start_node(self, id: str) -> None:
        """Start a stopped node, and let the pool's policy have it again.

        Raises ActionError: it is not stopped, or the provider is not to be tried now.
        """
        pool, node = self._find_managed(id, "start it where it runs")
        if node.state is not _S.STOPPED:
            raise self._refusal(node, "only one that is stopped can be started")
        if pool.breaker.allowance == 0:
            raise ActionError(f"node {id}: {self._pause(pool)}")
        await self._carry_out(pool, node, NodeEvent.START)

    async def destroy_node(self, id: str) -> None:
        """Destroy a node now, with its sessions and its disk. Raises ActionError: it was started by hand."""
        pool, node = self._find_managed(id, "end it where it runs, or drain it")
        await self._carry_out(pool, node, NodeEvent.DESTROY if node.state is not _S.TERMINATING else None)

    def pause(self, pool: str) -> str:
        """Why nothing is created or started in a pool now, in words; empty while it may be. Raises KeyError."""
        which = self._bridge.pools[pool]
        return "" if which.breaker.state is BreakerState.CLOSED else self._pause(which)

    def _pause(self, pool: Pool) -> str:
        breaker = pool.breaker
        if breaker.state is BreakerState.OPEN:
            when = f"it is tried again in {max(0.0, breaker.until - self._bridge.clock()):.0f} s"
        else:
            when = f"it is tried with {breaker.probe or 'one node'}"
        return f"the provider keeps failing, and {when}: {breaker.reason}"

    def _find(self, id: str) -> tuple[Pool, Node]:
        try:
            return self._bridge.nodes[id]
        except KeyError:
            raise ActionError(f"there is no node {id}", found=False) from None

    def _find_managed(self, id: str, instead: str) -> tuple[Pool, Node]:
        pool, node = self._find(id)
        if not node.managed:
            raise ActionError(f"node {id} was started by hand: {instead}")
        return pool, node

    @staticmethod
    def _refusal(node: Node, why: str) -> ActionError:
        return ActionError(f"node {node.id} is {node.state.value}: {why}")

    async def _carry_out(self, pool: Pool, node: Node, event: NodeEvent | None) -> None:
        if event is not None:
            self._reconciler.tell(pool, node, event)
        self._reconciler.changed(pool, node)
        self._bridge.settle(pool)
        try:
            await self._bridge.save(node)
        except LedgerError as error:
            raise ActionError(f"node {node.id}: it is done, but may be forgotten at a restart: {error}") from None
