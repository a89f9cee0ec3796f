"""The circuit breaker by itself, and what a pool does with it."""

from typing import Any

import pytest

from rtcbridge.core.breaker import Breaker, BreakerState
from rtcbridge.core.errors import Error
from rtcbridge.core.events import Failed, Full, Pending
from rtcbridge.core.node import Node, NodeEvent, NodeState
from rtcbridge.core.pool import Create, Pool, Step
from rtcbridge.core.spec import PoolSpec

CLOSED, OPEN, HALF_OPEN = BreakerState
S, E = NodeState, NodeEvent
SILENCE = 1e9


def breaker(failures: int = 3) -> Breaker:
    return Breaker(failures, 5.0, 30.0)


def opened(now: float = 0.0, *, accepted: bool = False) -> Breaker:
    made = breaker()
    for number in range(3):
        made.fail(f"n{number}", f"no {number}", now, accepted=accepted)
    return made


def test_it_opens_after_so_many_failures_in_a_row_and_says_why() -> None:
    it = breaker()
    for number in range(2):
        it.fail("n", f"no {number}", 10.0, accepted=False)
        assert (it.state, it.allowance, it.reason) == (CLOSED, None, f"no {number}")
    it.fail("n", "no 2", 10.0, accepted=False)
    assert (it.state, it.allowance, it.reason, it.until) == (OPEN, 0, "no 2", 15.0)


def test_a_success_between_failures_begins_the_count_anew() -> None:
    it = breaker()
    for _ in range(5):
        it.fail("n", "no", 0.0, accepted=False)
        it.fail("n", "no", 0.0, accepted=False)
        it.accept()
        assert (it.state, it.reason) == (CLOSED, "")


def test_zero_failures_never_open_it() -> None:
    it = breaker(0)
    for _ in range(100):
        it.fail("n", "no", 0.0, accepted=False)
    assert (it.state, it.allowance) == (CLOSED, None)


def test_one_probe_at_a_time_after_the_pause() -> None:
    it = opened()
    assert it.expire(4.9) is False
    assert it.expire(5.0) is True
    assert (it.state, it.allowance) == (HALF_OPEN, 1)
    it.begin("probe")
    it.begin("another")  # that was on its way when the breaker opened
    assert (it.probe, it.allowance) == ("probe", 0)
    it.drop("another")
    assert it.allowance == 0
    it.drop("probe")
    assert it.allowance == 1


def test_each_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    it, now, pauses = opened(), 0.0, []
    for _ in range(60):
        pauses.append(it.until - now)
        now = it.until
        it.expire(now)
        it.begin("probe")
        it.fail("probe", "still no", now, accepted=False)
        assert (it.state, it.reason) == (OPEN, "still no")
    assert pauses == [5.0, 10.0, 20.0] + [30.0] * 57


def test_what_was_under_way_when_it_opened_says_nothing_new_when_it_fails() -> None:
    it = opened()
    it.fail("late", "late", 1.0, accepted=False)
    assert (it.until, it.reason) == (5.0, "no 2")
    it.expire(5.0)
    it.fail("later", "later", 6.0, accepted=False)
    assert (it.state, it.reason) == (HALF_OPEN, "no 2")


@pytest.mark.parametrize("late", [False, True])
def test_refusals_end_when_something_is_accepted(late: bool) -> None:
    it = opened()
    it.come_up()  # an older machine: what the provider does now is another matter
    assert it.state is OPEN
    if not late:
        it.expire(5.0)
        it.begin("probe")
    it.accept()
    assert (it.state, it.allowance, it.reason, it.probe) == (CLOSED, None, "", "")
    assert it.until == float("inf")


def test_machines_that_do_not_come_up_are_another_kind_of_failure() -> None:
    it = opened(accepted=True)
    it.expire(5.0)
    it.begin("probe")
    it.accept()
    assert (it.state, it.allowance) == (HALF_OPEN, 0), "it was accepted before, too"
    it.come_up()
    assert (it.state, it.reason) == (CLOSED, "")


def test_once_closed_the_first_pause_is_the_short_one_again() -> None:
    it = opened()
    it.expire(5.0)
    it.begin("probe")
    it.fail("probe", "no", 5.0, accepted=False)
    it.accept()
    for number in range(3):
        it.fail(f"n{number}", "no", 20.0, accepted=False)
    assert it.until == 25.0


# --- in a pool ---


def pool(**spec: Any) -> Pool:
    given = {"name": "p", "max_nodes": 9, "breaker_failures": 2, "breaker_pause": 5.0, "failed_timeout": 1000.0}
    return Pool(PoolSpec(**given | spec))


def follow(it: Pool, now: float, prefix: str = "n") -> list[Node]:
    """Do as the plan says; return the nodes that were begun."""
    begun = []
    for step in it.plan(now):
        if isinstance(step, Create):
            node = Node(f"{prefix}{len(it.nodes)}", it.spec, S.PROVISIONING, now)
            it.add(node)
            begun.append(node)
        else:
            it.observe(step.node, step.event, now)
            begun.append(it.nodes[step.node])
    return begun


def told(it: Pool, now: float) -> dict[str, Any]:
    verdicts: dict[str, Any] = {}
    while more := it.settle(now):
        verdicts |= dict(more)
    return verdicts


def refuse(it: Pool, nodes: list[Node], now: float, why: str = "quota") -> None:
    for node in nodes:
        node.reason = f"create: {why}"
        it.observe(node.id, E.REFUSED, now)


def test_a_pool_whose_provider_keeps_failing_begins_nothing_and_says_so() -> None:
    it = pool()
    for session in "abc":
        it.join(session, patient=True)
    assert told(it, 0) == dict.fromkeys("abc", Pending())
    refuse(it, follow(it, 0)[:2], 1)
    assert (it.breaker.state, it.breaker.reason) == (OPEN, "create: quota")
    assert it.plan(1) == []
    assert told(it, 1) == dict.fromkeys("bc", Failed(Error.POOL_FULL)), "the third node is still on its way"
    it.join("d", patient=True)
    assert told(it, 2) == {"d": Full()}
    assert it.next_due(2, SILENCE) == 6


def test_a_probe_is_made_after_the_pause_and_the_rest_when_it_is_accepted() -> None:
    it = pool()
    for session in "abc":
        it.join(session, patient=True)
    refuse(it, follow(it, 0), 1)
    told(it, 1)
    it.expire(6, SILENCE)
    assert told(it, 6) == {"a": Pending()}
    (probe,) = follow(it, 6, "probe")
    assert it.plan(6) == []
    assert told(it, 6) == {}, "one is on its way, and no more can be"
    it.observe(probe.id, E.ACCEPTED, 7)
    assert it.breaker.state is CLOSED
    assert told(it, 7) == dict.fromkeys("bc", Pending())
    assert it.plan(7) == [Create(), Create()]


def test_a_stopped_node_is_the_probe_if_there_is_one() -> None:
    it = pool()
    it.add(Node("old", it.spec, S.STOPPED, 0))
    for number in range(2):
        it.add(Node(f"n{number}", it.spec, S.PROVISIONING, 0))
    it.join("a", patient=True)
    it.join("b", patient=True)
    refuse(it, [it.nodes["n0"], it.nodes["n1"]], 1)
    assert it.plan(1) == []
    assert it.supply() == 0
    it.expire(6, SILENCE)
    assert it.supply() == 1
    assert it.plan(6) == [Step("old", E.START)]
    it.observe("old", E.START, 6)
    assert it.breaker.probe == "old"
    it.nodes["old"].reason = "start: none left"
    it.observe("old", E.REFUSED, 7)
    assert (it.breaker.state, it.breaker.until, it.breaker.reason) == (OPEN, 17, "start: none left")


def test_stopping_and_destroying_are_never_held_back() -> None:
    it = pool(failed_timeout=1.0, idle_timeout=1.0)
    it.add(Node("idle", it.spec, S.READY, 0))
    it.nodes["idle"].linked = True
    nodes = [Node(f"n{number}", it.spec, S.PROVISIONING, 0) for number in range(2)]
    for node in nodes:
        it.add(node)
    refuse(it, nodes, 1)
    assert it.breaker.state is OPEN
    it.expire(2, SILENCE)
    assert it.plan(2) == [Step("idle", E.DRAIN)]
    it.observe("idle", E.DRAIN, 2)
    it.observe("idle", E.EMPTY, 2)
    assert {(node.id, name) for node, name in it.operations(2)} == {
        ("n0", "destroy"),
        ("n1", "destroy"),
        ("idle", "stop"),
    }


def test_machines_that_never_dial_in_open_it_too() -> None:
    it = pool(boot_timeout=3.0)
    for number in range(2):
        it.add(Node(f"n{number}", it.spec, S.PROVISIONING, 0))
        it.observe(f"n{number}", E.ACCEPTED, 0)
    it.expire(3, SILENCE)
    assert (it.breaker.state, it.breaker.reason) == (OPEN, "booting took longer than 3 s")
    it.expire(8, SILENCE)
    it.join("a", patient=True)
    (probe,) = follow(it, 8, "probe")
    it.observe(probe.id, E.ACCEPTED, 9)
    assert it.breaker.state is HALF_OPEN
    it.observe(probe.id, E.REGISTERED, 10)
    assert it.breaker.state is CLOSED


def test_a_probe_that_is_destroyed_makes_room_for_another() -> None:
    it = pool(min_ready=1)
    for number in range(2):
        it.add(Node(f"n{number}", it.spec, S.PROVISIONING, 0))
    refuse(it, list(it.nodes.values()), 1)
    it.expire(6, SILENCE)
    (probe,) = follow(it, 6, "probe")
    it.observe(probe.id, E.DESTROY, 7)
    assert it.plan(7) == [Create()]


def test_a_creation_of_an_earlier_life_that_never_came_about_is_not_the_provider_s_fault() -> None:
    it = pool(provision_timeout=3.0)
    for number in range(4):
        it.add(Node(f"n{number}", it.spec, S.PROVISIONING, 0))
        it.nodes[f"n{number}"].uncertain = True
    it.expire(3, SILENCE)
    assert {node.state for node in it.nodes.values()} == {S.FAILED}
    assert it.breaker.state is CLOSED
