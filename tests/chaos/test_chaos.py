"""Each fault once, real replicas one after the other restarted, and what the nodes' own gate is for."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.checks import be_quiet, check_nothing_is_wrong, fill, until_served
from chaos.faults import FAULTS, start_replicas
from chaos.network import can_be_made
from chaos.oracle import Of
from chaos.parts import faketime, wait_for
from chaos.rolling import FAILED, SIZE, restart_all
from chaos.world import SKEW, Size, World, running
from drivers.postgres_server import PostgresServer, postgres_server, programs
from engine.valkey import program
from wire.replicas import haproxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not (programs() and program() and haproxy()), reason="needs PostgreSQL, Valkey and HAProxy"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    bin = programs()
    assert bin is not None
    with postgres_server(bin) as server:
        yield server


def test_every_fault_once(postgres: PostgresServer, tmp_path: Path) -> None:
    skew = SKEW if faketime() else ()
    size = Size(clients=60, node_processes=3, nodes=8, thinking=0.1, skew=skew, networks=can_be_made())
    with running(World(tmp_path, postgres, size)) as world:
        world.wait_reservations(100)
        chance = random.Random(size.seed)
        for fault in FAULTS:
            since = fault.do(world, chance)
            asyncio.run(until_served(world, since))
            world.wait_nodes()
            start_replicas(world)
            world.wait_reservations(50)
        be_quiet(world)
        check_nothing_is_wrong(world)
        asyncio.run(fill(world))


def test_a_rolling_restart_fails_no_session_and_loses_no_message(postgres: PostgresServer, tmp_path: Path) -> None:
    with running(World(tmp_path, postgres, SIZE)) as world:
        sessions = restart_all(world)
        check_nothing_is_wrong(world)
        assert not {each.name: n for each in FAILED if (n := world.of_clients[each])}
        assert not world.of_messages[Of.GAPS]
        assert world.of_nodes[Of.OFFERED_OVER] == 0
        assert sessions["finished"] > 0
        assert sessions["lost to nodes"] == sessions["lost to clients"] == sessions["ended with its socket"] == 0


def test_the_nodes_gate_and_that_the_oracle_can_tell(postgres: PostgresServer, tmp_path: Path) -> None:
    """Nodes claim a slot more than they have: those with a gate refuse what is over, the others are over."""
    size = Size(replicas=1, nodes=2, clients=30, capacity=2, claimed=3, refusing=0.0, gates=(True, False))
    with running(World(tmp_path, postgres, size)) as world:
        wait_for(lambda: world.oracle.total(range(1, 3))[Of.OFFERED_OVER] > 0, "an offer too much, with a gate")
        wait_for(lambda: world.oracle.total(range(3, 5))[Of.ACCEPTED_OVER] > 0, "a session too much, without")
        assert world.oracle.total(range(1, 3))[Of.ACCEPTED_OVER] == 0
        assert max(world.oracle.row(row)[Of.PEAK] for row in range(1, 3)) == 2
        assert max(world.oracle.row(row)[Of.PEAK] for row in range(3, 5)) == 3
