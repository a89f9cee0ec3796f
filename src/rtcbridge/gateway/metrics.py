"""What Prometheus is told, at an address of its own: the public port must not tell it to everyone.

The figures are gathered when they are asked for; nothing is counted for them but starts and ends of sessions.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rtcbridge.core.breaker import BreakerState
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.listener import Listener
from rtcbridge.gateway.viewer import Viewer

_MAX_CONNECTIONS = 16


class Metrics:
    """Serves `/metrics`. Make it in a running event loop, `start` it, and `stop` it.

    Args:
        address: Where to listen: "host:port".
        bridge: What is told.
        ready: Whether the bridge takes clients.
        more: Gather further figures.
    """

    def __init__(self, address: str, bridge: Bridge, ready: Callable[[], bool], *more: Collector) -> None:
        self._address = address
        self._registry = CollectorRegistry()
        for figures in (_Figures(bridge, ready), *more):
            self._registry.register(figures)
        ProcessCollector(registry=self._registry)
        app = Starlette(routes=[Route("/metrics", self._answer)])
        self._listener = Listener({}, app, max_connections=_MAX_CONNECTIONS)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address is taken or not ours; its `filename` names it.
        """
        host, _, port = self._address.rpartition(":")
        try:
            await self._listener.start(host.strip("[]"), int(port))
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), f"server.metrics {self._address}") from None

    async def stop(self) -> None:
        """Stop listening."""
        await self._listener.close(timeout=1.0)

    async def _answer(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": content_type})


class _Figures(Collector):
    """The bridge's own figures, with the names that Prometheus' conventions ask for."""

    def __init__(self, bridge: Bridge, ready: Callable[[], bool]) -> None:
        self._bridge = bridge
        self._ready = ready
        self._version = version("rtcbridge")

    def describe(self) -> Iterator[Metric]:
        """Nothing: to collect them when they are registered would be too early."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Look at everything once."""
        yield InfoMetricFamily("rtcbridge", "The bridge.", {"version": self._version})
        yield GaugeMetricFamily("rtcbridge_ready", "1 while clients are taken.", float(self._ready()))
        yield GaugeMetricFamily(
            "rtcbridge_clients", "Authenticated clients whose sockets are up.", len(self._bridge.clients)
        )
        yield from self._sessions()
        yield from self._pools()

    def _sessions(self) -> Iterator[Metric]:
        bridge = self._bridge
        held = _gauge("sessions", "Sessions by their state.", "state")
        states: defaultdict[Pool, list[State]] = defaultdict(list)
        for entry in bridge.sessions.values():  # there may be very many: pairs would take three times as long to count
            states[entry.pool].append(entry.session.state)
        for pool, its in states.items():
            for state, count in Counter(its).items():
                held.add_metric((pool.spec.name, state.value), count)
        started = CounterMetricFamily("rtcbridge_sessions_started", "Sessions that got a node.", labels=("pool",))
        ended = CounterMetricFamily("rtcbridge_sessions_ended", "Of those, the ones that ended.", labels=("pool",))
        for name in bridge.pools:
            started.add_metric((name,), bridge.starts[name].ever)
            ended.add_metric((name,), bridge.ends[name])
        yield from (held, started, ended)

    def _pools(self) -> Iterator[Metric]:
        nodes = _gauge("nodes", "Nodes by their state.", "state")
        slots = _gauge("slots", "Slots of these nodes.", "state")
        line = _gauge("waiting", "Clients in line.")
        longest = _gauge("waiting_seconds", "How long the first in line has waited.")
        paused = _gauge("provider_paused", "1 while a failing provider is left alone, or tried with one node.")
        viewer, now = Viewer(self._bridge), self._bridge.wall()
        for name, pool in self._bridge.pools.items():
            if not self._bridge.leads(name):
                continue
            view = viewer.pool(pool, {}, "")
            for state, count in view.nodes.items():
                nodes.add_metric((name, state), count)
            shown = {"used": view.sessions, "free": view.free, "coming": view.coming, "stopped": view.stopped}
            for state, count in shown.items():
                slots.add_metric((name, state), count)
            line.add_metric((name,), view.waiting)
            longest.add_metric((name,), max(0.0, now - view.waiting_since) if view.waiting_since is not None else 0.0)
            paused.add_metric((name,), float(pool.breaker.state is not BreakerState.CLOSED))
        yield from (nodes, slots, line, longest, paused)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rtcbridge_{name}", text, labels=("pool", *labels))
