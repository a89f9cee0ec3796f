"""The transcripts of the wire are well formed, and the core alone behaves as they say, to the instant."""

import pytest

from wire.inprocess import InProcess
from wire.replay import Replay
from wire.vectors import Vector, load, load_limits, mistakes

VECTORS = load()
LIMITS = load_limits()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.id for vector in VECTORS])
async def test_the_core_alone(vector: Vector) -> None:
    assert mistakes(vector) == []
    await Replay(vector, InProcess(vector, LIMITS[vector.limits])).run()


def test_names_are_unique() -> None:
    assert len({vector.id for vector in VECTORS}) == len(VECTORS)
