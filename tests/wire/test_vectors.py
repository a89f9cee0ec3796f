"""The transcripts of the wire are well formed, and the core alone behaves as they say, to the instant."""

import pytest

from rtcbridge.conformance.replay import Replay
from rtcbridge.conformance.vectors import Vector, load, load_limits, mistakes
from wire.inprocess import InProcess

VECTORS = load()
LIMITS = load_limits()


CORE = [vector for vector in VECTORS if "turn" not in vector.needs]  # it knows nothing of ICE servers


@pytest.mark.parametrize("vector", CORE, ids=[vector.id for vector in CORE])
async def test_the_core_alone(vector: Vector) -> None:
    await Replay(vector, InProcess(vector, LIMITS[vector.limits])).run()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.id for vector in VECTORS])
def test_every_vector_is_well_formed(vector: Vector) -> None:
    assert mistakes(vector) == []


def test_names_are_unique() -> None:
    assert len({vector.id for vector in VECTORS}) == len(VECTORS)
