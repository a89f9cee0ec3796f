"""Single cases of the reconciler, in the simulated world of `gateway.proof`."""

from collections.abc import Iterator

import pytest

from gateway.proof.cloud import CloudProvider, Outcome
from gateway.proof.world import World
from rtcbridge import config
from rtcbridge.core.node import NodeState


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    pool = config.Pool(name="p", provider=getattr(request, "param", "command"), max_nodes=2, provision_timeout=8.0)
    made = World(config.Config(nodes=config.Nodes(heartbeat=1.0, missed=3), pools=(pool,)))
    yield made
    made.close()
    assert not made.complaints()


def test_nothing_is_asked_for_a_node_whose_time_ran_out_while_its_intent_was_stored(world: World) -> None:
    world.disk.slow = True
    world.customer_comes().say({"type": "session_start"})
    world.advance(world.spec.provision_timeout)
    world.disk.slow = False
    world.ledger.write()
    world.turn()
    failed = [id for id, node in world.pool.nodes.items() if node.state is NodeState.FAILED]
    assert failed
    assert not set(failed) & set(world.cloud.machines)


def test_a_list_that_is_never_answered_is_asked_for_again(world: World) -> None:
    world.cloud.slow_lists = True
    world.advance(5.0)
    world.cloud.finish(world.cloud.calls[0], Outcome.UNHEARD)
    world.cloud.slow_lists = False
    orphan = f"p-{world.reconciler._tag}-0"
    world.cloud.do("create", orphan)
    world.advance(90.0)
    assert orphan not in world.cloud.machines, "a machine that no node stands for is not swept any more"


@pytest.mark.parametrize("world", ["static"], indirect=True)
def test_a_drained_node_goes_when_the_last_reservation_is_given_back(world: World) -> None:
    customer = world.customer_comes()
    customer.say({"type": "session_start"})
    world.register(world.own_node("own"))
    world.order("drain_node", "own")
    customer.socket.quit(goodbye=True)
    world.turn()
    assert not world.pool.nodes


def test_the_client_of_a_lost_node_is_given_another_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CloudProvider, "list_interval", 1e6)  # nothing else is to wake the pool up
    world.advance(1.0)
    world.customer_comes().say({"type": "session_start"})
    world.turn()
    world.serve()
    (first,) = world.cloud.machines
    world.beating = False
    world.advance(world.bridge.silence + 0.1)
    assert world.pool.nodes[first].state is NodeState.LOST
    assert len(world.cloud.machines) == 2
