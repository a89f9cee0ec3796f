"""Several policies in the same worlds, and which of them to take."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from msgspec import Struct

from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim.arrivals import Session
from rtcbridge.sim.bound import Bound, clairvoyant
from rtcbridge.sim.engine import Simulation
from rtcbridge.sim.outcome import Outcome, Summary, summarize
from rtcbridge.sim.world import World

_WARM_UP = 7200.0  # seconds from the beginning that are not counted, or a tenth of the whole if that is less


class Case(Struct, frozen=True):
    """One sequence of sessions, by arrival, and the seed of everything else."""

    sessions: Sequence[Session]
    seed: int

    @property
    def span(self) -> tuple[float, float]:
        """From when to when is counted, in seconds."""
        first, last = self.sessions[0][0], self.sessions[-1][0]
        return first + min(_WARM_UP, (last - first) / 10), last


class Study(Struct, frozen=True):
    """Cases, and the world that they share. `stopped`: nodes at the beginning; None: as many as the peak needs."""

    world: World
    cases: tuple[Case, ...]
    stopped: int | None = None

    def bound(self, case: Case, slots: int) -> Bound:
        """The clairvoyant cost of a case."""
        return clairvoyant(case.sessions, self.world, slots, *case.span)

    def simulate(self, spec: PoolSpec, case: Case) -> Outcome:
        """Run one policy in one case."""
        begin, end = case.span
        stopped = self.bound(case, spec.slots).nodes if self.stopped is None else self.stopped
        return Simulation(
            spec, self.world, case.sessions, case.seed, stopped=stopped, begin=begin, end=end
        ).run()  # fmt: skip


_study: Study | None = None  # a worker's own


def _begin(study: Study) -> None:
    global _study
    _study = study


def _work(task: tuple[PoolSpec, int]) -> Outcome:
    assert _study is not None
    spec, case = task
    outcome = _study.simulate(spec, _study.cases[case])
    outcome.samples.clear()
    return outcome


def sweep(study: Study, specs: Sequence[PoolSpec], jobs: int) -> list[Summary]:
    """Run every policy in every case, in `jobs` processes; return a summary of each policy, in their order."""
    tasks = [(spec, case) for spec in specs for case in range(len(study.cases))]
    bounds = [study.bound(case, specs[0].slots).usd for case in study.cases]
    if jobs == 1:
        _begin(study)
        outcomes = [_work(task) for task in tasks]
    else:
        workers = min(jobs, len(tasks))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(study,)) as pool:
            outcomes = list(pool.map(_work, tasks))
    width = len(study.cases)
    return [summarize(outcomes[index : index + width], bounds) for index in range(0, len(tasks), width)]


def frontier(summaries: Sequence[Summary]) -> list[Summary]:
    """Those for which no other has fewer waiting clients at the same or less cost; cheapest first."""
    best: list[Summary] = []
    for summary in sorted(summaries, key=lambda one: (one.usd_a_day, one.waited)):
        if not best or summary.waited < best[-1].waited:
            best.append(summary)
    return best


def recommend(summaries: Sequence[Summary], waited: float) -> Summary | None:
    """The cheapest of those in which at most this share of clients waited; None if there is none."""
    good = [summary for summary in summaries if summary.waited <= waited]
    return min(good, key=lambda one: (one.usd_a_day, one.waited), default=None)
