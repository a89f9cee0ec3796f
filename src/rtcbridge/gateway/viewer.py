"""How the bridge's pools, nodes and sessions become what the admin API shows."""

from collections import Counter
from collections.abc import Mapping
from math import inf

from rtcbridge.core.assignment import Standing
from rtcbridge.core.node import COMING, Node, NodeState
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.bridge import Bridge, Entry, declared_model
from rtcbridge.gateway.views import NodeView, Override, PoolView, SessionView

_STOPPED = frozenset({NodeState.STOPPING, NodeState.STOPPED})


class Viewer:
    """Makes the views. A call may look at every node of a pool or at its whole line, so make one for a whole answer.

    Args:
        bridge: What is shown.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._now = bridge.clock()
        self._epoch = bridge.wall() - self._now  # of the monotonic clock, in Unix seconds
        self._lines: dict[str, Mapping[str, Standing]] = {}

    def pool(self, pool: Pool, overrides: dict[str, Override], pause: str) -> PoolView:
        """Show a pool, with what is changed of its settings, and why it makes and starts no nodes now, if so."""
        spec, provider = pool.spec, self._bridge.config.pool(pool.spec.name)
        slots = Counter[str]()
        states = Counter[str]()
        for node in pool.nodes.values():
            states[node.state.value] += 1
            if node.state in COMING:
                slots["coming"] += node.capacity
            elif node.state in _STOPPED:
                slots["stopped"] += node.capacity
            elif node.linked:
                slots["free"] += node.free
        first = next(iter(pool.line), None)
        return PoolView(
            name=spec.name,
            provider=provider.provider if provider else "",
            model=declared_model(pool),
            slots=spec.slots,
            min_ready=spec.min_ready,
            beta=spec.beta,
            hold_beta=spec.hold_beta,
            demand_window=spec.demand_window,
            max_nodes=spec.max_nodes if spec.elastic else None,
            idle_timeout=spec.idle_timeout,
            stopped_reserve=spec.stopped_reserve,
            overrides=overrides,
            nodes=dict(states),
            sessions=len(pool.holders),
            free=slots["free"],
            coming=slots["coming"],
            stopped=slots["stopped"],
            waiting=len(pool.line),
            waiting_since=born(first) if first is not None else None,
            eta=pool.eta(first, self._now) if first is not None else None,
            starts=self._bridge.starts[spec.name].total(self._now),
            breaker=pause or None,
        )

    def node(self, node: Node) -> NodeView:
        """Show a node."""
        link = self._bridge.links.get(node.id)
        return NodeView(
            id=node.id,
            pool=node.spec.name,
            managed=node.managed,
            state=node.state.value,
            since=self._wall(node.since),
            deadline=None if node.deadline == inf else self._wall(node.deadline),
            started=node.started,
            capacity=node.capacity,
            sessions=len(node.sessions),
            linked=node.linked,
            load=link.load if link else None,
            stats=link.stats if link else None,
            epoch=node.epoch,
            order=node.order.value,
            reason=node.reason,
            labels=node.labels,
        )

    def session(self, entry: Entry) -> SessionView:
        """Show a session."""
        session, pool = entry.session, entry.pool
        name = pool.spec.name
        position = eta = None
        if not session.node:
            if name not in self._lines:  # the whole line at once: one by one would take long
                self._lines[name] = {standing.session: standing for standing in pool.waiting(self._now)}
            if standing := self._lines[name].get(session.id):
                position, eta = standing.position, standing.eta
            else:  # it waits in the line of a fallback
                position, eta = pool.position(session.id), pool.eta(session.id, self._now)
        return SessionView(
            id=session.id,
            pool=name,
            node=session.node,
            project=entry.project,
            state=session.state.value,
            since=born(session.id),
            connected=entry.client is not None and not entry.client.away,
            position=position,
            eta=eta,
        )

    def _wall(self, moment: float) -> float:
        return round(moment + self._epoch, 3)


def born(session: str) -> float:
    """When a session came: its id begins with that. Unix seconds."""
    return int(session[:12], 16) / 1000
