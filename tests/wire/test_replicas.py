"""The transcripts of the wire against several bridges: a client's socket is at one, its node's at another."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from drivers.postgres_server import PostgresServer, postgres_server, programs
from engine.valkey import Server, program
from rtcbridge.conformance.vectors import Limits, Vector, load, load_limits
from wire.live import played, running
from wire.replicas import Replicas, haproxy

VECTORS = load()
LIMITS = load_limits()

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


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


# Several bridges start one after the other, the lease of those that were killed has to run out, and a step waits until
# all are calm: on a busy machine longer than one bridge's vectors give a node to be heard of, or to come back.
MORE_TIME: Limits = {"nodes.missed": 10}
MORE_TIME_TO_RESTART: Limits = {"nodes.missed": 10, "sessions.resume_grace": 8}


async def play_all(vectors: Sequence[Vector], limits: Limits, count: int, store: str, valkey: Server) -> str:
    """Play vectors on so many bridges; return what was wrong."""
    assert vectors
    with tempfile.TemporaryDirectory(prefix="rtcbridge-wire-") as folder:
        async with running(Replicas(Path(folder), vectors, limits, store, valkey, count)) as replicas:
            return "\n\n".join(await played(replicas.worlds))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("limits", LIMITS)
async def test_replicas(limits: str, count: int, postgres: PostgresServer, valkey: Server) -> None:
    vectors = [vector for vector in VECTORS if vector.limits == limits and "restart" not in vector.needs]
    assert not await play_all(vectors, LIMITS[limits] | MORE_TIME, count, postgres.new_database(), valkey)


@pytest.mark.parametrize("vector", [each for each in VECTORS if "restart" in each.needs], ids=lambda each: each.id)
async def test_replicas_that_are_all_killed_and_started_again(
    vector: Vector, postgres: PostgresServer, valkey: Server
) -> None:
    assert not await play_all(
        [vector], LIMITS[vector.limits] | MORE_TIME_TO_RESTART, 2, postgres.new_database(), valkey
    )
