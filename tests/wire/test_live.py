"""The transcripts of the wire against a running bridge: `rtcbridge serve`, its store, its provider commands."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rtcbridge.conformance.vectors import Vector, load, load_limits
from wire.live import Bridge, played, running

VECTORS = load()
LIMITS = load_limits()


async def play_all(vectors: Sequence[Vector], limits: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="rtcbridge-wire-") as folder:
        async with running(Bridge(Path(folder), vectors, LIMITS[limits])) as bridge:
            return await played(bridge.worlds)


@pytest.mark.slow
@pytest.mark.parametrize("limits", LIMITS)
async def test_a_running_bridge(limits: str) -> None:
    vectors = [vector for vector in VECTORS if vector.limits == limits and "restart" not in vector.needs]
    assert vectors
    wrong = await play_all(vectors, limits)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
async def test_a_bridge_that_is_killed_and_started_again() -> None:
    vectors = [vector for vector in VECTORS if "restart" in vector.needs]
    assert vectors
    wrong = await asyncio.gather(*(play_all([vector], vector.limits) for vector in vectors))
    assert not any(wrong), wrong
