"""One node's life, as a table: what may happen to it in each state, and when each state ends by itself."""

from collections.abc import Callable, Mapping
from enum import Enum
from math import inf
from typing import Any

from rtcbridge.core.errors import TransitionError
from rtcbridge.core.spec import PoolSpec


class NodeState(Enum):
    """Where a node stands. "Busy" is no state: it is `free == 0`."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and these are looked up for each message

    PROVISIONING = "provisioning"  # its creation is asked for
    BOOTING = "booting"  # the provider has accepted, the agent has not dialed in yet
    READY = "ready"
    LOST = "lost"  # silent for too long; awaited
    DRAINING = "draining"  # takes no new session
    STOPPING = "stopping"
    STOPPED = "stopped"
    STARTING = "starting"
    FAILED = "failed"  # did not come up; counts until it is destroyed
    TERMINATING = "terminating"
    GONE = "gone"


class NodeEvent(Enum):
    """What happens to a node."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and these are looked up for each message

    REGISTERED = "registered"  # its agent dialed in
    ACCEPTED = "accepted"  # the provider accepted the operation of this state
    REFUSED = "refused"  # the provider refused it
    SILENT = "silent"  # heartbeats are missing
    RUNS = "runs"  # the provider says: the machine runs, though it was stopped
    INTERRUPTED = "interrupted"  # the provider says: it will take the machine away soon
    HALTING = "halting"  # the provider says: the machine is being stopped
    HALTED = "halted"  # the provider says: the machine is there and does not run
    VANISHED = "vanished"  # the provider says: there is no such machine
    UNDONE = "undone"  # the provider says: what may have been asked for has not come about
    DRAIN = "drain"  # take no new session
    EMPTY = "empty"  # the last session of a draining node ended
    START = "start"
    STOP = "stop"  # somebody wants it stopped, with its sessions
    DESTROY = "destroy"
    RESTED = "rested"  # its start was refused a while ago, and may be tried again
    TIMEOUT = "timeout"  # the state's deadline has passed


class Order(Enum):
    """What is to become of a node, whatever the pool's policy says. It is stored with the node."""

    NONE = ""
    STOP = "stop"  # out of service until somebody starts it
    DESTROY = "destroy"


_S, _E = NodeState, NodeEvent

NODE_TRANSITIONS: Mapping[tuple[NodeState, NodeEvent], NodeState] = {
    (_S.PROVISIONING, _E.ACCEPTED): _S.BOOTING,
    (_S.PROVISIONING, _E.REFUSED): _S.FAILED,
    (_S.PROVISIONING, _E.REGISTERED): _S.READY,
    (_S.PROVISIONING, _E.UNDONE): _S.PROVISIONING,
    (_S.PROVISIONING, _E.DESTROY): _S.TERMINATING,
    (_S.PROVISIONING, _E.TIMEOUT): _S.FAILED,
    (_S.STARTING, _E.ACCEPTED): _S.BOOTING,
    (_S.STARTING, _E.REFUSED): _S.FAILED,
    (_S.STARTING, _E.REGISTERED): _S.READY,
    (_S.STARTING, _E.VANISHED): _S.FAILED,
    (_S.STARTING, _E.STOP): _S.STOPPING,
    (_S.STARTING, _E.DESTROY): _S.TERMINATING,
    (_S.STARTING, _E.TIMEOUT): _S.FAILED,
    (_S.BOOTING, _E.REGISTERED): _S.READY,
    (_S.BOOTING, _E.INTERRUPTED): _S.TERMINATING,
    (_S.BOOTING, _E.HALTING): _S.FAILED,
    (_S.BOOTING, _E.HALTED): _S.FAILED,
    (_S.BOOTING, _E.VANISHED): _S.FAILED,
    (_S.BOOTING, _E.STOP): _S.STOPPING,
    (_S.BOOTING, _E.DESTROY): _S.TERMINATING,
    (_S.BOOTING, _E.TIMEOUT): _S.FAILED,
    (_S.READY, _E.REGISTERED): _S.READY,
    (_S.READY, _E.ACCEPTED): _S.READY,  # it dialed in before the provider's answer came
    (_S.READY, _E.REFUSED): _S.READY,
    (_S.READY, _E.SILENT): _S.LOST,
    (_S.READY, _E.INTERRUPTED): _S.DRAINING,
    (_S.READY, _E.HALTING): _S.DRAINING,
    (_S.READY, _E.HALTED): _S.STOPPED,
    (_S.READY, _E.VANISHED): _S.GONE,
    (_S.READY, _E.DRAIN): _S.DRAINING,
    (_S.READY, _E.STOP): _S.STOPPING,
    (_S.READY, _E.DESTROY): _S.TERMINATING,
    (_S.LOST, _E.REGISTERED): _S.READY,
    (_S.LOST, _E.INTERRUPTED): _S.TERMINATING,
    (_S.LOST, _E.HALTING): _S.STOPPING,
    (_S.LOST, _E.HALTED): _S.STOPPED,
    (_S.LOST, _E.VANISHED): _S.GONE,
    (_S.LOST, _E.STOP): _S.STOPPING,
    (_S.LOST, _E.DESTROY): _S.TERMINATING,
    (_S.LOST, _E.TIMEOUT): _S.TERMINATING,
    (_S.DRAINING, _E.REGISTERED): _S.DRAINING,
    (_S.DRAINING, _E.EMPTY): _S.STOPPING,
    (_S.DRAINING, _E.SILENT): _S.STOPPING,
    (_S.DRAINING, _E.INTERRUPTED): _S.DRAINING,
    (_S.DRAINING, _E.HALTING): _S.DRAINING,
    (_S.DRAINING, _E.HALTED): _S.STOPPED,
    (_S.DRAINING, _E.VANISHED): _S.GONE,
    (_S.DRAINING, _E.STOP): _S.STOPPING,
    (_S.DRAINING, _E.DESTROY): _S.TERMINATING,
    (_S.DRAINING, _E.TIMEOUT): _S.STOPPING,
    (_S.STOPPING, _E.ACCEPTED): _S.STOPPED,
    (_S.STOPPING, _E.REFUSED): _S.STOPPING,
    (_S.STOPPING, _E.HALTED): _S.STOPPED,
    (_S.STOPPING, _E.VANISHED): _S.GONE,
    (_S.STOPPING, _E.DESTROY): _S.TERMINATING,
    (_S.STOPPING, _E.TIMEOUT): _S.TERMINATING,
    (_S.STOPPED, _E.START): _S.STARTING,
    (_S.STOPPED, _E.RUNS): _S.BOOTING,  # somebody else started it
    (_S.STOPPED, _E.REGISTERED): _S.READY,  # the same, and its agent was faster than the provider's list
    (_S.STOPPED, _E.VANISHED): _S.GONE,
    (_S.STOPPED, _E.DESTROY): _S.TERMINATING,
    (_S.STOPPED, _E.TIMEOUT): _S.TERMINATING,
    (_S.FAILED, _E.REGISTERED): _S.READY,  # late, but up
    (_S.FAILED, _E.DESTROY): _S.TERMINATING,
    (_S.FAILED, _E.RESTED): _S.STOPPING,  # whatever the refused start may have done to the machine
    (_S.FAILED, _E.TIMEOUT): _S.TERMINATING,
    (_S.TERMINATING, _E.ACCEPTED): _S.GONE,
    (_S.TERMINATING, _E.REFUSED): _S.TERMINATING,
    (_S.TERMINATING, _E.VANISHED): _S.GONE,
    (_S.TERMINATING, _E.TIMEOUT): _S.TERMINATING,
}

UP = frozenset({_S.READY, _S.DRAINING})  # sessions may live on it
COMING = frozenset({_S.PROVISIONING, _S.STARTING, _S.BOOTING})
OPERATIONS: Mapping[NodeState, str] = {
    _S.PROVISIONING: "create",
    _S.STARTING: "start",
    _S.STOPPING: "stop",
    _S.TERMINATING: "destroy",
}
_MACHINE_ONLY = frozenset({_S.STOPPING, _S.STOPPED, _S.TERMINATING})
_LEAVING = frozenset({_E.INTERRUPTED, _E.HALTING})
_REASONS: Mapping[NodeEvent, str] = {  # what the provider's list says, in words
    _E.INTERRUPTED: "the provider takes its machine away",
    _E.HALTING: "its machine is being stopped",
    _E.HALTED: "its machine has stopped",
    _E.VANISHED: "its machine has gone",
    _E.RUNS: "its machine was started by somebody else",
}
_RETRY = (1.0, 60.0)  # seconds before a refused operation is tried again: the first, and at most
_DOUBLINGS = 6  # of the first, after which the most is reached


DEADLINES: Mapping[NodeState, str] = {  # the setting of PoolSpec that bounds a state
    _S.PROVISIONING: "provision_timeout",
    _S.STARTING: "start_timeout",
    _S.BOOTING: "boot_timeout",
    _S.LOST: "lost_timeout",
    _S.DRAINING: "drain_timeout",
    _S.STOPPING: "stop_timeout",
    _S.STOPPED: "stopped_timeout",
    _S.FAILED: "failed_timeout",
    _S.TERMINATING: "destroy_timeout",
}


def duration(state: NodeState, spec: PoolSpec) -> float:
    """Return after how many seconds a state ends by itself; infinity for those that do not."""
    setting = DEADLINES.get(state)
    seconds: float = getattr(spec, setting) if setting else inf
    return seconds or inf if state is NodeState.STOPPED else seconds


class Node:
    """A machine with slots. One that no provider made (`managed` is false) is gone where others are stopped.

    Times are seconds on the caller's clock. `heard`: when it last spoke;
    `started`: its last boot was the start of a stopped machine; `refusals`: its last starts, in a row, that the
    provider refused; `busy`: an operation is under way; `uncertain`: an earlier life of this bridge may have asked for
    its creation; `leaving`: its machine will soon be gone, whatever we do. Only its pool changes `sessions`. `watch` is
    called after a change that matters to who gets which slot.
    """

    def __init__(self, id: str, spec: PoolSpec, state: NodeState, now: float, managed: bool = True) -> None:
        self.id = id
        self.spec = spec
        self.managed = managed
        self.state = state
        self.watch: Callable[[Node], object] | None = None
        self._capacity = spec.slots
        self._linked = False
        self.sessions: set[str] = set()
        self.epoch = 0
        self.started = False
        self.refusals = 0
        self.busy = False
        self.uncertain = False
        self.leaving = False
        self._order = Order.NONE
        self.reason = ""
        self.labels: Mapping[str, Any] = {}
        self.since = self.heard = self.idle_since = now
        self.deadline = now + duration(state, spec)
        self.retry_at = now
        self._retries = 0

    @property
    def capacity(self) -> int:
        """Slots, one session each."""
        return self._capacity

    @capacity.setter
    def capacity(self, slots: int) -> None:
        self._capacity = slots
        self._changed()

    @property
    def linked(self) -> bool:
        """Whether its socket is up. A node whose socket has dropped gets no new session."""
        return self._linked

    @linked.setter
    def linked(self, up: bool) -> None:
        self._linked = up
        self._changed()

    @property
    def order(self) -> Order:
        """What is to become of it, whatever the policy says."""
        return self._order

    @order.setter
    def order(self, order: Order) -> None:
        self._order = order
        self._changed()

    @property
    def refused(self) -> bool:
        """Whether the provider has refused the operation of the present state, and is to be asked again."""
        return self._retries > 0

    @property
    def free(self) -> int:
        """Slots that no session holds, while the node is ready and to stay so."""
        if self.state is not NodeState.READY or self._order is not Order.NONE:
            return 0
        return max(0, self._capacity - len(self.sessions))

    def _changed(self) -> None:
        if self.watch is not None:
            self.watch(self)

    def receive(self, event: NodeEvent, now: float) -> bool:
        """Take one event; return whether the state changed.

        Raises:
            TransitionError: the event is not allowed now; nothing has changed.
        """
        before = self.state
        try:
            state = NODE_TRANSITIONS[before, event]
        except KeyError:
            raise TransitionError(f"node {self.id}: {event.value} while {before.value}") from None
        if not self.managed and state in _MACHINE_ONLY:
            state = NodeState.GONE
        self.state = state
        if event is NodeEvent.UNDONE:
            self.uncertain = False
        if state is NodeState.DRAINING and event in _LEAVING:
            self.leaving = True
            self._order = Order.DESTROY if event is NodeEvent.INTERRUPTED else self._order
        if state is before and event is not NodeEvent.TIMEOUT:
            if event is NodeEvent.REFUSED:
                self._back_off(now)
        else:
            self._enter(event, before, now)
        self._changed()
        return state is not before

    def prolong(self, now: float) -> None:
        """Let the present state last as long again from now on."""
        self.deadline = now + duration(self.state, self.spec)
        self._changed()

    def _enter(self, event: NodeEvent, before: NodeState, now: float) -> None:
        self.since, self.deadline = now, now + duration(self.state, self.spec)
        self.retry_at, self._retries = now, 0
        if self.state is NodeState.READY or event is NodeEvent.START:
            self.reason = ""
        if self.state is NodeState.READY:
            self.refusals = 0
        if event is NodeEvent.REFUSED and before is NodeState.STARTING:
            self.refusals += 1
        if event in _REASONS:
            self.reason = _REASONS[event]
        elif event is NodeEvent.TIMEOUT and self.state is NodeState.FAILED:
            self.reason = f"{before.value} took longer than {duration(before, self.spec):g} s"
        if self.state is not before and self.state in UP:
            self.heard = self.idle_since = now
        self.uncertain = False
        self.leaving = self.leaving and self.state is NodeState.DRAINING
        if event is NodeEvent.START:
            self._order = Order.NONE
        elif event is NodeEvent.STOP:
            self._order = Order.STOP
        if event in (NodeEvent.START, NodeEvent.RUNS):
            self.started = True

    def _back_off(self, now: float) -> None:
        self.retry_at = now + min(_RETRY[1], _RETRY[0] * 2.0**self._retries)
        self._retries = min(self._retries + 1, _DOUBLINGS)
