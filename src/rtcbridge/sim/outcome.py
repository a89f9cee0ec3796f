"""What came of a simulation, and of several of one policy together."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct, field

from rtcbridge.core.spec import PoolSpec

_DAY = 86_400.0
_AT_ONCE = 1.0  # seconds; who waited no longer did not wait


class Sample(NamedTuple):
    """A moment, for the plot: seconds; sessions served, machines that are paid for."""

    time: float
    served: int
    running: int


class Outcome(Struct, kw_only=True):
    """The sums of one simulation. Machine times are in seconds, over all machines.

    `waits`: when each served client arrived, and how long it waited; `lost`: when each of the others did.
    """

    spec: PoolSpec
    connect: float
    seconds: float
    usd: float = 0.0
    running: float = 0.0
    disks: float = 0.0
    served: float = 0.0
    starts: int = 0
    creates: int = 0
    failures: int = 0
    abandoned: int = 0
    refused: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def serve(self, arrival: float, wait: float) -> None:
        """A client got its slot."""
        self.waits.append((arrival, wait))

    def lose(self, how: str, arrival: float) -> None:
        """A client left the line (`abandoned`) or was told that nothing is left for it (`refused`)."""
        self.lost.append(arrival)
        if how == "abandoned":
            self.abandoned += 1
        else:
            self.refused += 1


class Summary(Struct, frozen=True, kw_only=True):
    """One policy over all seeds: shares from 0 to 1, times to the first frame in seconds, money in USD.

    `waited` counts those that left without being served too. `ratio`: cost over the clairvoyant cost.
    """

    beta: float
    floor: int
    idle_timeout: float
    hold_beta: float
    demand_window: float
    sessions: int
    p50: float
    p95: float
    p99: float
    waited: float
    abandoned: float
    refused: float
    usd_a_day: float
    bound_a_day: float
    ratio: float
    busy: float
    starts: int
    creates: int


def summarize(outcomes: Sequence[Outcome], bounds: Sequence[float]) -> Summary:
    """Add up the outcomes of one policy; `bounds` has the clairvoyant cost of each, in USD."""
    spec = outcomes[0].spec
    waits = sorted(wait for outcome in outcomes for _, wait in outcome.waits)
    lost = sum(len(outcome.lost) for outcome in outcomes)
    sessions = len(waits) + lost
    days = sum(outcome.seconds for outcome in outcomes) / _DAY
    usd, bound = sum(outcome.usd for outcome in outcomes), sum(bounds)
    running = sum(outcome.running for outcome in outcomes) * spec.slots

    def frame(share: float) -> float:
        return waits[min(len(waits) - 1, int(share * len(waits)))] + outcomes[0].connect if waits else 0.0

    return Summary(
        beta=spec.beta,
        floor=spec.min_ready,
        idle_timeout=spec.idle_timeout,
        hold_beta=spec.hold_beta,
        demand_window=spec.demand_window,
        sessions=sessions,
        p50=frame(0.50),
        p95=frame(0.95),
        p99=frame(0.99),
        waited=(sum(wait > _AT_ONCE for wait in waits) + lost) / max(1, sessions),
        abandoned=sum(outcome.abandoned for outcome in outcomes) / max(1, sessions),
        refused=sum(outcome.refused for outcome in outcomes) / max(1, sessions),
        usd_a_day=usd / days,
        bound_a_day=bound / days,
        ratio=usd / bound if bound else 0.0,
        busy=sum(outcome.served for outcome in outcomes) / running if running else 0.0,
        starts=sum(outcome.starts for outcome in outcomes),
        creates=sum(outcome.creates for outcome in outcomes),
    )
