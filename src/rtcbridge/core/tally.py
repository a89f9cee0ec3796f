"""Sums and orders over the nodes of a pool, kept up to date node by node, so that nothing walks all of them."""

from bisect import bisect_left, bisect_right, insort
from heapq import heappop, heappush
from math import inf
from typing import Final

from msgspec import Struct

from rtcbridge.core.node import COMING, OPERATIONS, UP, Node, NodeEvent, NodeState, Order

_DORMANT = frozenset({NodeState.STOPPING, NodeState.STOPPED})
_AWAITED = COMING | _DORMANT | {NodeState.LOST}


class _Share(Struct):
    """What one node adds to the sums, and where it stands in the orders."""

    supply: int = 0  # slots that a place in line may count on
    capacity: int = 0  # slots of a node that is up or coming
    sessions: int = 0  # sessions on such a node, or on one that will soon be gone: they need slots
    stopping: int = 0  # slots of a node that is being stopped
    dormant: int = 0  # slots of `supply` that come only if the machine is started
    open: tuple[int, str] | None = None
    idle: tuple[float, str] | None = None


_NOTHING: Final = _Share()


def share(node: Node) -> _Share:
    """Return what this node adds now. One that is to be stopped or destroyed is not counted on."""
    state, used = node.state, len(node.sessions)
    kept = node.order is Order.NONE
    if state is NodeState.READY:
        open = idle = None
        if node.linked and kept:
            open = (-used, node.id) if node.free else None
            idle = (node.idle_since, node.id) if node.managed and not used else None
        return _Share(0 if node.linked else node.free, node.capacity if kept else 0, used, 0, 0, open, idle)
    capacity = node.capacity if kept else 0
    return _Share(
        supply=capacity if state in _AWAITED else 0,
        capacity=capacity if state in COMING else 0,
        sessions=used if state in COMING or node.leaving else 0,
        stopping=capacity if state is NodeState.STOPPING else 0,
        dormant=capacity if state in _DORMANT else 0,
    )


def ordered_step(node: Node) -> NodeEvent | None:
    """Return the step that a node's order asks for; None where its state leads there by itself."""
    if node.order is Order.NONE:
        return None
    if node.state is NodeState.READY:
        return NodeEvent.DRAIN
    if node.order is Order.DESTROY:
        idle = node.state in _DORMANT or (node.state is NodeState.DRAINING and not node.sessions)
        return NodeEvent.DESTROY if idle or node.state is NodeState.BOOTING else None
    return NodeEvent.STOP if node.state is NodeState.BOOTING else None


class Tally:
    """The nodes of a pool in sum. `note` a node after each change of it, `forget` it when it is gone."""

    def __init__(self) -> None:
        self.supply = self.capacity = self.sessions = self.stopping = self.dormant = 0
        self.open: list[tuple[int, str]] = []  # nodes with a free slot: the fullest first, then by id
        self.idle: list[tuple[float, str]] = []  # managed nodes without a session: the longest idle first
        self.stopped: dict[str, Node] = {}  # those that the policy may start
        self.emptied: dict[str, Node] = {}  # draining, without a session, and to be stopped
        self.ordered: dict[str, Node] = {}  # with a step to be taken for their order
        self.acting: dict[str, Node] = {}  # in a state that a provider's operation ends
        self._shares: dict[str, _Share] = {}
        self._nodes: dict[str, Node] = {}
        self._alarms: list[tuple[float, str]] = []  # a heap of times not later than what is due
        self._alarm: dict[str, float] = {}  # the entry of it that counts
        self._stamps: dict[str, tuple[NodeState, float, float]] = {}  # what the alarm was set for

    def share(self, node: str) -> _Share:
        """Return what this node adds; nothing if there is no such node."""
        return self._shares.get(node, _NOTHING)

    def note(self, node: Node) -> None:
        """Take in how a node stands now."""
        id, state = node.id, node.state
        self._nodes[id] = node
        self._replace(id, share(node))
        for condition, nodes in (
            (state is NodeState.STOPPED and node.order is Order.NONE, self.stopped),
            (state is NodeState.DRAINING and not node.sessions and node.order is not Order.DESTROY, self.emptied),
            (ordered_step(node) is not None, self.ordered),
            (state in OPERATIONS, self.acting),
        ):
            if condition:
                nodes[id] = node
            else:
                nodes.pop(id, None)
        if self._stamps.get(id) != (stamp := (state, node.deadline, node.retry_at)):
            self._stamps[id] = stamp
            self._wake_at(id, self._earliest(node))

    def count(self, node: Node) -> None:
        """Take in that a session has come to a node or left it: `note`, in fewer steps where it is ready."""
        id = node.id
        mine = self._shares.get(id)
        if mine is None or node.state is not NodeState.READY or not node.linked or node.order is not Order.NONE:
            self.note(node)
            return
        used = len(node.sessions)
        self.sessions += used - mine.sessions
        mine.sessions = used
        self._place(mine, (-used, id) if used < node.capacity else None)
        if node.managed:
            self._rest(mine, None if used else (node.idle_since, id))

    def forget(self, node: str) -> None:
        """Take out a node that is gone."""
        self._replace(node, _Share())
        for nodes in (self.stopped, self.emptied, self.ordered, self.acting, self._nodes):
            nodes.pop(node, None)
        for facts in (self._shares, self._alarm, self._stamps):
            facts.pop(node, None)

    def _replace(self, id: str, new: _Share) -> None:
        old = self._shares.get(id, _NOTHING)
        if new == old:
            return
        self._shares[id] = new
        self.sessions += new.sessions - old.sessions
        if (
            new.capacity != old.capacity
            or new.supply != old.supply
            or new.stopping != old.stopping
            or new.dormant != old.dormant
        ):
            self.supply += new.supply - old.supply
            self.capacity += new.capacity - old.capacity
            self.stopping += new.stopping - old.stopping
            self.dormant += new.dormant - old.dormant
        open, idle = new.open, new.idle
        new.open, new.idle = old.open, old.idle
        self._place(new, open)
        self._rest(new, idle)

    def _place(self, share: _Share, open: tuple[int, str] | None) -> None:
        """Move a node to where it now stands among those with a free slot."""
        before, share.open = share.open, open
        if before != open:
            if before:
                del self.open[bisect_left(self.open, before)]
            if open:
                insort(self.open, open)

    def _rest(self, share: _Share, idle: tuple[float, str] | None) -> None:
        """Move a node to where it now stands among the idle ones."""
        before, share.idle = share.idle, idle
        if before != idle:
            if before:
                del self.idle[bisect_left(self.idle, before)]
            if idle:
                insort(self.idle, idle)

    # --- time ---

    @staticmethod
    def _earliest(node: Node) -> float:
        """A time before which nothing of this node can be due, whatever is heard of it meanwhile."""
        due = min(node.deadline, node.heard) if node.state in UP else node.deadline
        return min(due, node.retry_at) if node.state in OPERATIONS else due

    def _wake_at(self, id: str, time: float) -> None:
        if time < self._alarm.get(id, inf):
            self._alarm[id] = time
            heappush(self._alarms, (time, id))

    @staticmethod
    def ends(node: Node, silence: float) -> float:
        """When the node's state ends by itself: at its deadline, or when it has been silent for too long."""
        return min(node.deadline, node.heard + silence) if node.state in UP else node.deadline

    def _due(self, node: Node, now: float, silence: float) -> float:
        due = self.ends(node, silence)
        retry = node.managed and node.state in OPERATIONS and not node.busy and node.retry_at > now
        return min(due, node.retry_at) if retry else due

    def pop_due(self, now: float, silence: float) -> list[Node]:
        """Return the nodes whose state ends now; `note` each of them again."""
        ended = []
        while self._alarms and self._alarms[0][0] <= now:
            node = self._pop_alarm()
            if node is None:
                continue
            if self.ends(node, silence) <= now:
                ended.append(node)
            else:
                self._wake_at(node.id, self._due(node, now, silence))
        return ended

    def _pop_alarm(self) -> Node | None:
        time, id = heappop(self._alarms)
        if self._alarm.get(id) != time:
            return None  # an earlier one was set since, or the node is gone
        del self._alarm[id]
        return self._nodes[id]

    def next_due(self, now: float, silence: float) -> float:
        """Return when the next state ends, or the next refused operation is tried again."""
        while self._alarms:
            time, id = self._alarms[0]
            node = self._nodes.get(id)
            due = self._due(node, now, silence) if node is not None and self._alarm.get(id) == time else -inf
            if due == time:
                return due
            if (node := self._pop_alarm()) is not None:
                self._wake_at(id, due)
        return inf

    def next_idle(self, now: float, idle_timeout: float) -> float:
        """Return when the next node will have been idle for long enough, of those that have not yet."""
        index = bisect_right(self.idle, now, key=lambda entry: entry[0] + idle_timeout)
        return self.idle[index][0] + idle_timeout if index < len(self.idle) else inf
