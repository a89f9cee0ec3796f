import msgspec
import pytest

from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim.arrivals import Rhythm, generate
from rtcbridge.sim.outcome import Outcome, Summary, summarize
from rtcbridge.sim.study import Case, Study, frontier, recommend, sweep
from rtcbridge.sim.world import World

SPEC = PoolSpec(name="p", max_nodes=80, stopped_timeout=0)


def outcome(waits, **sums) -> Outcome:
    return Outcome(spec=SPEC, connect=0.5, seconds=43_200.0, waits=[(0.0, wait) for wait in waits], **sums)


def test_seeds_are_added_up():
    summary = summarize(
        [
            outcome([0.0] * 97, usd=10.0, running=200.0, served=50.0),
            outcome([9.0], usd=20.0, abandoned=1, refused=1, lost=[1.0, 2.0]),
        ],
        [5.0, 15.0],
    )
    assert (summary.sessions, summary.p50, summary.p99) == (100, 0.5, 9.5)
    assert (summary.waited, summary.abandoned, summary.refused) == (0.03, 0.01, 0.01)
    assert (summary.usd_a_day, summary.bound_a_day, summary.ratio) == (30.0, 20.0, 1.5)
    assert summary.busy == 0.25


def test_nobody_came():
    summary = summarize([outcome([])], [0.0])
    assert (summary.sessions, summary.waited, summary.p99, summary.ratio, summary.busy) == (0, 0, 0, 0, 0)


def made(usd: float, waited: float) -> Summary:
    waits = [9.0] * round(waited * 1000) + [0.0] * round(1000 - waited * 1000)
    return summarize([outcome(waits, usd=usd)], [1.0])


def test_the_frontier_leaves_out_what_another_one_beats():
    a, b, c, d = made(1, 0.5), made(2, 0.5), made(3, 0.1), made(4, 0.2)
    assert frontier([d, c, b, a]) == [a, c]


@pytest.mark.parametrize(("goal", "usd"), [(0.5, 1), (0.2, 3), (0.1, 3), (0.05, None)])
def test_the_cheapest_that_is_good_enough_is_recommended(goal, usd):
    found = recommend([made(4, 0.1), made(3, 0.1), made(1, 0.5)], goal)
    assert (found and found.usd_a_day / 2) == usd


@pytest.mark.slow
def test_processes_change_nothing_and_more_ready_slots_mean_fewer_that_wait():
    cases = tuple(Case(generate(Rhythm(days=0.5), seed), seed) for seed in (1, 2))
    study = Study(World(), cases)
    specs = [msgspec.structs.replace(SPEC, beta=beta, idle_timeout=60.0) for beta in (0.0, 1.0, 2.0)]
    alone = sweep(study, specs, jobs=1)
    assert sweep(study, specs, jobs=2) == alone
    assert [one.beta for one in alone] == [0.0, 1.0, 2.0]
    assert alone[0].waited > alone[1].waited > alone[2].waited
    assert alone[0].usd_a_day < alone[1].usd_a_day < alone[2].usd_a_day
