"""What is measured: the load of each scenario, the figure taken from it, and the ratio to reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    Attributes:
        name: as given on the command line.
        title: as printed.
        options: of the generator.
        figure: the member of the generator's result that is compared.
        unit: of that figure.
        target: what the bridge must reach: a ratio to Node `ws`, or, with `absolute`, the figure itself.
        lower_is_better: latency and memory; the ratio must then be at most the target.
        absolute: the target is not a ratio.
    """

    name: str
    title: str
    options: dict[str, str]
    figure: str
    unit: str
    target: float | None
    lower_is_better: bool = False
    absolute: bool = False

    @property
    def closed_loop(self) -> bool:
        """Whether the server is driven as fast as it can go."""
        return self.figure == "rate"


def _messages(clients: int, window: int, size: int, nodes: int = 8) -> dict[str, str]:
    return {
        "scenario": "messages",
        "clients": str(clients),
        "window": str(window),
        "size": str(size),
        "nodes": str(nodes),
    }


LATENCY = {"scenario": "latency", "clients": "500", "nodes": "8", "size": "253", "rate": "20000"}

SCENARIOS = (
    Scenario(
        name="pipelined",
        title="253-byte messages a second, 500 clients × 4 under way",
        options=_messages(clients=500, window=4, size=253),
        figure="rate",
        unit="/s",
        target=3.8,
    ),
    Scenario(
        name="many",
        title="253-byte messages a second, 2,000 clients × 1 under way",
        options=_messages(clients=2000, window=1, size=253),
        figure="rate",
        unit="/s",
        target=1.9,
    ),
    Scenario(
        name="large",
        title="4 KB messages a second, 500 clients × 4 under way",
        options=_messages(clients=500, window=4, size=4096),
        figure="rate",
        unit="/s",
        target=2.5,
    ),
    Scenario(
        name="spread",
        title="253-byte messages a second, 500 clients × 4, a node for each",
        options=_messages(clients=500, window=4, size=253, nodes=500),
        figure="rate",
        unit="/s",
        target=None,
    ),
    Scenario(
        name="setups",
        title="session set-ups a second, 64 at a time",
        options={"scenario": "setups", "clients": "64", "nodes": "8", "capacity": "64"},
        figure="rate",
        unit="/s",
        target=2.8,
    ),
    Scenario(
        name="p50",
        title="latency p50 at 20,000 messages a second",
        options=LATENCY,
        figure="p50_us",
        unit="µs",
        target=None,
        lower_is_better=True,
    ),
    Scenario(
        name="p99",
        title="latency p99 at 20,000 messages a second",
        options=LATENCY,
        figure="p99_us",
        unit="µs",
        target=0.5,
        lower_is_better=True,
    ),
    Scenario(
        name="idle",
        title="memory per idle authenticated connection, of 10,000",
        options={"scenario": "idle", "clients": "10000", "nodes": "1"},
        figure="kb",
        unit="KB",
        target=2.5,
        lower_is_better=True,
        absolute=True,
    ),
)
