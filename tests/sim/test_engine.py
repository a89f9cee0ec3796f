"""The simulation, by cases small enough to be done by hand, and against the lower bound."""

import msgspec
import pytest

from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim.arrivals import Rhythm, generate
from rtcbridge.sim.engine import Simulation
from rtcbridge.sim.outcome import Outcome, summarize
from rtcbridge.sim.scenario import Scenario
from rtcbridge.sim.study import Case, Study
from rtcbridge.sim.world import Fixed, World

WORLD = World(
    start=Fixed(40.0), create=Fixed(300.0), stop=30.0, destroy=20.0, start_failures=0.0, running=3600.0, disk=36.0,
    patience=1e9,
)  # fmt: skip
REFERENCE = PoolSpec(name="p", max_nodes=80, stopped_timeout=0)


def run(*sessions, world=None, stopped=1, begin=0.0, end=2000.0, **spec) -> Outcome:
    world = msgspec.structs.replace(WORLD, **(world or {}))
    pool = PoolSpec(name="p", **{"stopped_timeout": 0, "idle_timeout": 100.0, **spec})
    return Simulation(pool, world, sessions, 1, stopped=stopped, begin=begin, end=end).run()


def test_a_stopped_node_is_started_used_kept_and_stopped():
    outcome = run((10.0, 200.0))
    assert outcome.waits == [(10.0, pytest.approx(40.0))]
    assert outcome.running == pytest.approx(40 + 200 + 100 + 30)
    assert outcome.disks == pytest.approx(2000)
    assert outcome.usd == pytest.approx(370 + 20)
    assert (outcome.starts, outcome.creates, outcome.served) == (1, 0, pytest.approx(200))


def test_without_a_stopped_node_one_is_created():
    outcome = run((10.0, 200.0), stopped=0)
    assert outcome.waits == [(10.0, pytest.approx(300.0))]
    assert (outcome.running, outcome.disks) == (pytest.approx(630), pytest.approx(1990))
    assert (outcome.starts, outcome.creates) == (0, 1)


def test_a_slot_that_is_kept_ready_is_there_at_once():
    outcome = run((100.0, 200.0), min_ready=1)
    assert outcome.waits == [(100.0, 0.0)]
    assert outcome.creates == 1  # another one is made ready


def test_the_square_root_buffer():
    sessions = [(100.0 + index / 10, 1e6) for index in range(9)]
    for beta, expected in ((0.0, 9), (1.0, 12), (2.0, 15)):
        assert run(*sessions, stopped=20, max_nodes=20, beta=beta).samples[-1].running == expected


def test_a_freed_slot_goes_to_the_one_that_waits():
    outcome = run((0.0, 200.0), (100.0, 50.0), max_nodes=1)
    assert outcome.waits == [(0.0, pytest.approx(40.0)), (100.0, pytest.approx(140.0))]


def test_impatient_clients_leave():
    outcome = run(*[(float(at), 10.0) for at in range(50)], stopped=0, world={"patience": 1.0})
    assert (outcome.abandoned, outcome.refused, outcome.waits) == (50, 0, [])
    assert len(outcome.lost) == 50


def test_a_refused_start_is_followed_by_a_creation():
    outcome = run((0.0, 10.0), world={"start_failures": 1.0}, max_nodes=2)
    assert (outcome.failures, outcome.creates) == (1, 1)
    assert outcome.waits == [(0.0, pytest.approx(310.0))]


def test_when_nothing_is_left_the_client_is_told():
    outcome = run((0.0, 10.0), world={"start_failures": 1.0}, max_nodes=1, failed_timeout=60.0)
    assert (outcome.refused, outcome.abandoned, outcome.waits) == (1, 0, [])


def test_a_long_stopped_node_is_destroyed_and_its_disk_no_longer_paid():
    outcome = run((1e6, 1.0), stopped_timeout=500.0)
    assert (outcome.running, outcome.disks) == (0, pytest.approx(520))


def test_the_reserve_is_not():
    assert run((1e6, 1.0), stopped=3, stopped_timeout=500.0, stopped_reserve=2).disks == pytest.approx(4520)


def test_what_happens_before_the_beginning_is_not_counted():
    outcome = run((0.0, 10.0), (1500.0, 10.0), begin=1000.0)
    assert [at for at, _ in outcome.waits] == [1500.0]
    assert (outcome.running, outcome.disks) == (pytest.approx(40 + 10 + 100 + 30), pytest.approx(1000))


def _week(days=7.0, seed=1, **policy):
    study = Study(World(), (Case(generate(Rhythm(days=days), seed), seed),))
    bound = study.bound(study.cases[0], 1)
    return study.simulate(msgspec.structs.replace(REFERENCE, **policy), study.cases[0]), bound


def test_the_same_seed_gives_the_same_outcome():
    first, second, other = (_week(days=0.5, seed=seed, beta=1.0)[0] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_a_policy_under_which_nobody_waits_costs_more_than_the_bound():
    outcome, bound = _week(days=0.5, beta=6.0, min_ready=8)
    summary = summarize([outcome], [bound.usd])
    assert summary.waited == 0
    assert summary.ratio > 1


@pytest.mark.slow
def test_the_reference_weeks_are_served_at_the_price_that_the_documents_name():
    """Three weeks: at most 0.5 % wait, at no more than 1.30 times the clairvoyant cost."""
    scenario = msgspec.structs.replace(Scenario(), seeds=(1, 2, 3))
    study = Study(scenario.world(), scenario.cases())
    (spec,) = scenario.policies()
    outcomes = [study.simulate(spec, case) for case in study.cases]
    summary = summarize(outcomes, [study.bound(case, 1).usd for case in study.cases])
    assert summary.sessions > 3 * 14_000
    assert summary.waited <= 0.005
    assert summary.ratio <= 1.30
    assert summary.p50 <= summary.p95 <= summary.p99
