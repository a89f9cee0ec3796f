"""Every order in which clients, nodes, deadlines and a provider can act, in small pools: nothing may go wrong.

The search runs over the real bridge, reconciler, pool, nodes and sessions (`gateway.proof.model`). Each run prints
how much was searched. With `PROVE` in the environment it goes until nothing is left, or much further.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from gateway.proof.model import Model, no_event_loop
from gateway.proof.mutants import mutate
from gateway.proof.search import CounterexampleError, Result, check_ways_out, search
from rtcbridge import config
from rtcbridge.core import session as session_module
from rtcbridge.core.events import Full, Source
from rtcbridge.core.node import Node
from rtcbridge.core.pool import Pool
from rtcbridge.core.session import State
from rtcbridge.core.tally import Tally
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.nodes import NodeSocket
from rtcbridge.gateway.reconciler import Reconciler

_PROVE = "PROVE" in os.environ
_ALL = 10_000
_FEW = 3  # events, in the fast tests


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    with no_event_loop():
        yield


@dataclass(frozen=True)
class Size:
    """A small pool, and how far it is searched: in a slow test, and when there is time (`_ALL`: to the end)."""

    clients: int
    own: int = 0  # nodes that dial in by themselves
    made: int = 0  # nodes that a provider may make
    slots: int = 1
    min_ready: int = 0
    crashes: bool = False
    candidates: bool = False
    admin: bool = False
    projects: int = 1
    per_project: int = 0
    stopped: bool = False  # a stopped node at the beginning
    attempts: int = 3
    away: bool = False  # clients go away and come back
    fallback: int = 0  # nodes of the pool that this one falls back to
    depth: int = 5
    deepest: int = _ALL

    def make(self) -> Model:
        pool = config.Pool(
            name="p",
            provider="command" if self.made else "static",
            slots=self.slots,
            max_nodes=self.made,
            min_ready=self.min_ready,
            idle_timeout=0.5,
            max_per_project=self.per_project,
            start_attempts=self.attempts,
            fallback="q" if self.fallback else "",
        )
        pools, own = [pool], [self.own]
        if self.fallback:
            pools.append(config.Pool(name="q", provider="static", slots=self.slots))
            own.append(self.fallback)
        return Model(
            pools, self.clients, own, self.crashes, self.candidates, self.admin, self.projects, self.stopped, self.away
        )


SIZES = {
    "one client, one node, crashes": Size(1, own=1, crashes=True, depth=_ALL),
    "one client, one node, candidates": Size(1, own=1, candidates=True),
    "one client, two nodes": Size(1, own=2, deepest=10),
    "two clients, one node": Size(2, own=1),
    "two clients, one node of two slots": Size(2, own=1, slots=2, deepest=9),
    "two clients, two nodes": Size(2, own=2, depth=4, deepest=8),
    "two clients, two nodes, crashes": Size(2, own=2, crashes=True, depth=4, deepest=7),
    "one client, one made node": Size(1, made=1),
    "one client, two made nodes": Size(1, made=2, depth=4, deepest=8),
    "two clients, two made nodes of two slots": Size(2, made=2, slots=2, depth=4, deepest=7),
    "one client, a made node kept ready, crashes": Size(1, made=1, min_ready=1, crashes=True, depth=4, deepest=10),
    "one client, one made node, an admin": Size(1, made=1, admin=True, depth=4, deepest=10),
    "one client, a made node and an own one": Size(1, own=1, made=2, depth=4, deepest=7),
    "one client, a stopped node": Size(1, made=1, stopped=True, attempts=2, deepest=9),
    "three clients of two projects with a maximum": Size(
        3, own=1, slots=2, projects=2, per_project=1, depth=4, deepest=7
    ),
    "two clients that go away, one node": Size(2, own=1, away=True, deepest=8),
    "two clients, a pool that falls back to another": Size(2, own=1, fallback=1, depth=4, deepest=7),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_nothing_goes_wrong(size: Size) -> None:
    result = search(size.make, depth=_FEW)
    print(result)
    assert result.states > 10


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_nothing_goes_wrong_further_on(
    size: Size, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    result = search(size.make, depth=size.deepest if _PROVE else size.depth)
    with capsys.disabled():
        if _PROVE:
            print(f"\n{request.node.callspec.id}: {result}")
    print(result)
    assert result.states > 50


# --- the search can fail ---

TWO, MADE, CRASHES = Size(2, own=2), Size(1, made=1), Size(1, own=1, crashes=True)
SHARED = Size(2, own=1, slots=2)
MAXIMUM = Size(3, own=1, slots=2, projects=2, per_project=1)
STOPPED = Size(1, made=1, stopped=True, attempts=1)
AWAY = Size(2, own=1, away=True)
FALLBACK = Size(2, own=1, fallback=1)
Mutant = tuple[Size, type, str, str, str]

MUTANTS: dict[str, Mutant] = {
    "a release does not wake the line": (TWO, Pool, "leave", "self._tally.count(node)", "pass"),
    "slots without end": (TWO, Node, "free", "max(0, self._capacity - len(self.sessions))", "1"),
    "a slot is freed and nobody looks": (TWO, Bridge, "_touched", "self._unsettled[pool.spec.name] = pool", "pass"),
    "slots without end, of ready nodes": (
        TWO, Tally, "count", "if used < node.capacity else None", "if True else None",
    ),
    "a slot at once, and none the fewer": (TWO, Pool, "take", "self._hold(session, node, None)", "pass"),
    "a slot at once that nobody is told of": (
        TWO, Bridge, "_acquire", "self._perform(entry, session.receive(Source.POOL, Granted(node), now), now)", "pass",
    ),
    "a slot at once beyond the maximum": (MAXIMUM, Pool, "take", "self._projects is not None or", ""),
    "a maximum that is not counted": (MAXIMUM, Pool, "_release", "self._held.pop(session).count(-1)", "pass"),
    "a start that is tried for ever": (
        STOPPED, Pool, "expire", "0 < node.refusals < self.spec.start_attempts", "node.refusals",
    ),
    "a slot for one who is away": (AWAY, Pool, "suspend", "each.line.suspend(session)", "pass"),
    "one who is back and is not served": (AWAY, Pool, "resume", "each.line.resume(session)", "pass"),
    "a slot of one pool, and a place in line of another": (
        FALLBACK, Pool, "_win", "claim.drop_places(but=self)", "pass",
    ),
    "a slot of the other pool that is not given back": (
        FALLBACK, Pool, "leave", "claim.holder.leave(session, now)", "pass",
    ),
    "the other pool is not settled": (FALLBACK, Pool, "leave", "claim.holder.stir()", "pass"),
    "the last come is served first": (
        TWO,
        Pool,
        "join",
        "self.line.append(session, waiter)",
        "self.line.push(session, waiter)",
    ),
    "a reservation that ran out goes to the front": (
        TWO, Pool, "yield_slot", "patient=True", "patient=True, front=True",
    ),
    "an end that frees nothing": (TWO, Bridge, "_end", "pool.leave(session.id, now)", "pass"),
    "an end that is not recorded": (
        TWO, Bridge, "_end", "self.ledger.session_ended(session.id, self.wall(), effect.reason)", "pass",
    ),
    "a retry on the same node": (SHARED, Pool, "_choose", "if id != exclude:", "if True:"),
    "messages of an older epoch count": (TWO, NodeSocket, "received", "if link.socket is not self:", "if False:"),
    "the end of an older socket counts": (
        TWO, NodeSocket, "ended", "link is None or not link.detach(self)", "link is None or link.detach(self) is None",
    ),
    "a node that comes back is not compared": (
        TWO, NodeSocket, "_take_over", "self._compare(pool, node, asked.sessions)", "pass",
    ),
    "the sessions of a lost node stay": (TWO, Pool, "_lose", "node.sessions.clear()", "pass"),
    "one node too many": (MADE, Pool, "_creatable", "self.spec.max_nodes -", "1 + self.spec.max_nodes -"),
    "two operations of one node": (MADE, Pool, "operations", "and not node.busy", ""),
    "a change of a node that is not stored": (
        MADE, Reconciler, "_follow", "self._dirty[pool.spec.name][node.id] = node", "pass",
    ),
}  # fmt: skip


def found(make: Callable[[], Model], depth: int = 6, states: int = 3_000) -> list[tuple[str, ...]]:
    with pytest.raises(CounterexampleError) as caught:
        search(make, depth, states)
    print(caught.value)
    return caught.value.trace


_LONG = {"a reservation that ran out goes to the front", "a start that is tried for ever"}  # ways to what is wrong
_CASES = [
    pytest.param(mutant, id=name, marks=[pytest.mark.slow] if name in _LONG else []) for name, mutant in MUTANTS.items()
]


@pytest.mark.parametrize("mutant", _CASES)
def test_a_mistake_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    size, owner, name, old, new = mutant
    mutate(monkeypatch, owner, name, old, new)
    assert found(size.make)


def test_an_adopted_session_without_its_slot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "adopt", lambda *_: None)
    assert found(CRASHES.make)[-1] == ("crash",)


def test_a_state_that_the_pool_leaves_unanswered_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {
        cell: to for cell, to in session_module.TRANSITIONS.items() if cell != (State.CLAIMING, Source.POOL, Full)
    }
    monkeypatch.setattr(session_module, "TRANSITIONS", without)
    assert len(found(TWO.make)) == 1


def test_a_session_that_nothing_can_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {state: name for state, name in session_module.DEADLINES.items() if state is not State.DETACHED}
    monkeypatch.setattr(session_module, "DEADLINES", without)
    assert found(Size(1, own=1).make)[-1] == ("client", "0", "drop")


def test_states_without_a_way_out_are_found() -> None:
    """A search that was closed: from state 2 only state 3 is reached by leaving, and from there nothing."""
    result = Result(states=4, empty=[0], ways_out={0: [1], 3: [2]}, closed=True)
    with pytest.raises(CounterexampleError, match="nothing can end"):
        check_ways_out(result, lambda number: [("event", str(number))])
    result.ways_out[1] = [3]
    check_ways_out(result, lambda number: [])
