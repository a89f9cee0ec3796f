"""What an operator may do to a node."""

from rtcbridge.core.errors import TransitionError
from rtcbridge.core.node import COMING, UP, Node, NodeEvent, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.reconciler import Reconciler

_ENDING = frozenset({NodeState.STOPPING, NodeState.STOPPED, NodeState.TERMINATING, NodeState.GONE})


class ActionError(Exception):
    """What was asked cannot be done to this node now; the text is one line."""


class Actions:
    """Drain, stop, start, destroy. Each takes the id of a node that there is, and may be asked for twice.

    Args:
        bridge: Has the nodes.
        reconciler: Does what their new states ask.
    """

    def __init__(self, bridge: Bridge, reconciler: Reconciler) -> None:
        self._bridge = bridge
        self._reconciler = reconciler

    def drain(self, id: str) -> None:
        """Give it no new session, and stop it when the last has ended. Raises ActionError."""
        pool, node = self._bridge.nodes[id]
        if node.state is not NodeState.DRAINING:
            self._tell(pool, node, NodeEvent.DRAIN, "only a node that is ready can be drained")

    def stop(self, id: str) -> None:
        """Stop it now; clients of its sessions go to the front of the line. Raises ActionError."""
        pool, node = self._bridge.nodes[id]
        if node.state in _ENDING:
            return
        if node.state not in UP:
            raise ActionError(f"node {id} is {node.state.value}: only a node that is ready can be stopped")
        self.drain(id)
        self._tell(pool, node, NodeEvent.TIMEOUT, "it cannot be stopped now")

    def start(self, id: str) -> None:
        """Start a stopped one. Raises ActionError."""
        pool, node = self._bridge.nodes[id]
        if node.state not in COMING | {NodeState.READY}:
            self._tell(pool, node, NodeEvent.START, "only a node that is stopped can be started")

    def destroy(self, id: str) -> None:
        """Remove its machine now, with its disk; clients of its sessions go to the front of the line."""
        pool, node = self._bridge.nodes[id]
        if node.state in UP:
            self.stop(id)
        if node.state in COMING:
            self._tell(pool, node, NodeEvent.TIMEOUT, "it cannot be destroyed now")
        while node.state not in (NodeState.TERMINATING, NodeState.GONE):
            event = NodeEvent.DESTROY if node.state in (NodeState.STOPPED, NodeState.FAILED) else NodeEvent.TIMEOUT
            self._tell(pool, node, event, "it cannot be destroyed now")

    def _tell(self, pool: Pool, node: Node, event: NodeEvent, otherwise: str) -> None:
        state = node.state.value
        try:
            self._reconciler.tell(pool, node, event)
        except TransitionError:
            raise ActionError(f"node {node.id} is {state}: {otherwise}") from None
