"""What a provider says of a machine, against what the pool believes of its node: one table."""

from collections.abc import Mapping
from enum import Enum

from rtcbridge.core.node import Node, NodeEvent, NodeState


class Machine(Enum):
    """How a node's machine stands by its provider's word. That there is none is said by None."""

    __hash__ = object.__hash__  # Enum's own is written in Python

    COMING = "coming"  # being made or started; it does not run yet
    RUNNING = "running"
    LEAVING = "leaving"  # it runs, and the provider will take it away soon: a spot interruption, an eviction
    STOPPING = "stopping"
    STOPPED = "stopped"  # it does not run, and can be started again


_LIVELIEST = (Machine.RUNNING, Machine.LEAVING, Machine.COMING, Machine.STOPPING, Machine.STOPPED)


def liveliest(one: Machine, other: Machine) -> Machine:
    """Return which of two machines that one node has counts."""
    return min(one, other, key=_LIVELIEST.index)


_S, _E, _M = NodeState, NodeEvent, Machine

# A pair that is not here changes nothing: both agree, or an operation is still to come that makes them agree.
REPORTS: Mapping[tuple[NodeState, Machine | None], NodeEvent] = {
    # An earlier life of this bridge may have asked for it: it is there, or else it is asked for (again).
    (_S.PROVISIONING, _M.COMING): _E.ACCEPTED,
    (_S.PROVISIONING, _M.RUNNING): _E.ACCEPTED,
    (_S.PROVISIONING, _M.LEAVING): _E.ACCEPTED,
    (_S.PROVISIONING, _M.STOPPING): _E.UNDONE,
    (_S.PROVISIONING, _M.STOPPED): _E.UNDONE,
    (_S.PROVISIONING, None): _E.UNDONE,
    # The answer was lost; one that is still stopped is started again.
    (_S.STARTING, _M.COMING): _E.ACCEPTED,
    (_S.STARTING, _M.RUNNING): _E.ACCEPTED,
    (_S.STARTING, _M.LEAVING): _E.ACCEPTED,
    (_S.STARTING, None): _E.VANISHED,
    # Somebody else's hand, or the cloud's. READY is never said here: only the node's agent can say that.
    (_S.BOOTING, _M.LEAVING): _E.INTERRUPTED,
    (_S.BOOTING, _M.STOPPING): _E.HALTING,
    (_S.BOOTING, _M.STOPPED): _E.HALTED,
    (_S.BOOTING, None): _E.VANISHED,
    (_S.READY, _M.LEAVING): _E.INTERRUPTED,
    (_S.READY, _M.STOPPING): _E.HALTING,
    (_S.READY, _M.STOPPED): _E.HALTED,
    (_S.READY, None): _E.VANISHED,
    (_S.LOST, _M.LEAVING): _E.INTERRUPTED,
    (_S.LOST, _M.STOPPING): _E.HALTING,
    (_S.LOST, _M.STOPPED): _E.HALTED,
    (_S.LOST, None): _E.VANISHED,
    (_S.DRAINING, _M.LEAVING): _E.INTERRUPTED,
    (_S.DRAINING, _M.STOPPING): _E.HALTING,
    (_S.DRAINING, _M.STOPPED): _E.HALTED,
    (_S.DRAINING, None): _E.VANISHED,
    (_S.STOPPED, _M.COMING): _E.RUNS,
    (_S.STOPPED, _M.RUNNING): _E.RUNS,
    (_S.STOPPED, None): _E.VANISHED,
    # The answer was lost.
    (_S.STOPPING, _M.STOPPED): _E.HALTED,
    (_S.STOPPING, None): _E.VANISHED,
    (_S.TERMINATING, None): _E.VANISHED,
    # A FAILED node counts until its time is over, also without a machine: else a provider that accepts and
    # fails would be asked again and again.
}
_DOWN = frozenset({_E.HALTED, _E.VANISHED})
# While the operation of a state is under way, the list can only say that it is done, though its answer has not come.
_DONE = frozenset(
    {
        (_S.PROVISIONING, _E.ACCEPTED),
        (_S.STARTING, _E.ACCEPTED),
        (_S.STOPPING, _E.HALTED),
        (_S.TERMINATING, _E.VANISHED),
    }
)


def report(node: Node, machine: Machine | None) -> NodeEvent | None:
    """Return what the provider's word means for this node; None if it changes nothing.

    To be asked of a list that was asked for after the node's last change, and not while an operation of an earlier
    state is still under way (`busy` is for that of the present one). An agent that speaks to us runs,
    whatever a list says: only its silence ends it.
    """
    event = REPORTS.get((node.state, machine))
    if event is None or (event in _DOWN and node.linked):
        return None
    if node.state is _S.TERMINATING and not (node.busy or node.refused):
        return None  # what a creation that was given up has still made may not show yet: it is destroyed in any case
    return None if node.busy and (node.state, event) not in _DONE else event
