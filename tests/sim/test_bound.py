from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcbridge.sim.bound import clairvoyant
from rtcbridge.sim.world import Fixed, World

# A second of a machine costs 1, a second of a disk 0.01; a stop and a start take 70 s.
WORLD = World(start=Fixed(40.0), stop=30.0, running=3600.0, disk=36.0)


def cost(*sessions, slots=1, begin=0.0, end=1000.0):
    return clairvoyant(sorted(sessions), WORLD, slots, begin, end)


def test_one_session_pays_its_machine_and_the_way_there_and_back():
    bound = cost((100.0, 50.0))
    assert (bound.usd, bound.nodes, bound.starts) == (pytest.approx(50 + 70 + 10), 1, 1)


@pytest.mark.parametrize(
    ("gap", "paid", "starts"), [(20.0, 20.0, 1), (69.0, 69.0, 1), (71.0, 70.0, 2), (500.0, 70.0, 2)]
)
def test_a_machine_is_kept_when_that_is_cheaper(gap, paid, starts):
    bound = cost((0.0, 50.0), (50.0 + gap, 50.0))
    assert (bound.usd, bound.starts) == (pytest.approx(100 + 70 + paid + 10), starts)


def test_sessions_at_once_need_machines_at_once():
    assert cost((0.0, 100.0), (50.0, 100.0)).nodes == 2
    assert cost((0.0, 100.0), (50.0, 100.0)).usd == pytest.approx(200 + 2 * 70 + 20)


def test_a_node_of_two_slots_takes_two():
    assert cost((0.0, 100.0), (50.0, 100.0), slots=2).usd == pytest.approx(150 + 70 + 10)
    assert cost((0.0, 100.0), (50.0, 100.0), (60.0, 10.0), slots=2).nodes == 2


def test_what_is_outside_the_span_is_not_paid():
    bound = cost((0.0, 100.0), (450.0, 100.0), (900.0, 5.0), begin=50.0, end=500.0)
    assert (bound.usd, bound.starts) == (pytest.approx(50 + 50 + 2 * 70 + 4.5), 2)


def test_nobody_comes():
    assert cost() == cost((2000.0, 5.0))
    assert cost().usd == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=7))
def test_no_schedule_of_machines_costs_less(sessions):
    """Every way to keep machines up, minute by minute, by dynamic programming: a machine that comes up pays a cycle."""
    minute, cycle = 60.0, 70.0
    times = [(at * minute, lasts * minute) for at, lasts in sessions]
    need = [sum(at <= now < at + lasts for at, lasts in sessions) for now in range(10)]
    best = {0: 0.0}  # the least cost so far, by how many are up
    for least in need:
        best = {
            up: min(paid + up * minute + max(0, up - before) * cycle for before, paid in best.items())
            for up in range(least, 8)
        }
    bound = cost(*times, end=600.0)
    assert bound.usd == pytest.approx(min(best.values()) + bound.nodes * 6.0)


def test_any_span_adds_up():
    for begin, end in product((0.0, 30.0), (200.0, 1000.0)):
        assert cost((0.0, 100.0), begin=begin, end=end).usd == pytest.approx(170 - begin + (end - begin) / 100)
