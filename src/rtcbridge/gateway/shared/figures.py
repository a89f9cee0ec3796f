"""Figures of what replicas share, for Prometheus: see `gateway.metrics`."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rtcbridge.gateway.shared.bridge import SharedBridge


class SharedFigures(Collector):
    """How much this replica asks of the engine, and says to the others.

    Args:
        bridge: The replica.
    """

    def __init__(self, bridge: SharedBridge) -> None:
        self._bridge = bridge

    def describe(self) -> Iterator[Metric]:
        """Nothing: to collect them when they are registered would be too early."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Look at everything once."""
        asked = CounterMetricFamily(
            "rtcbridge_engine_calls", "What sessions and nodes asked of the engine.", labels=("pool",)
        )
        pending = GaugeMetricFamily("rtcbridge_engine_calls_pending", "Of that, what is not done.", labels=("pool",))
        for pool in self._bridge.shared_pools():
            asked.add_metric((pool.spec.name,), pool.calls.added)
            pending.add_metric((pool.spec.name,), pool.calls.added - pool.calls.done)
        bus = self._bridge.engine.bus
        yield from (asked, pending)
        yield CounterMetricFamily("rtcbridge_bus_messages", "Messages to other bridges.", bus.sent)
        yield GaugeMetricFamily(
            "rtcbridge_bus_messages_unacknowledged", "Of these, the ones that may not be there yet.", bus.unacknowledged
        )
