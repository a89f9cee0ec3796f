"""The transcripts of the wire against a running bridge: `rtcbridge serve`, its store, its provider commands."""

import asyncio
from collections.abc import Sequence

import pytest

from wire.live import Live, running
from wire.replay import Replay
from wire.vectors import Vector, load, load_limits

VECTORS = load()
LIMITS = load_limits()
AT_ONCE = 8  # vectors that run beside each other: their waits overlap, and the machine is not crowded


async def play(world: Live, gate: asyncio.Semaphore) -> str:
    """Play one vector; return what was wrong."""
    async with gate:
        try:
            await Replay(world.vector, world).run()
        except AssertionError as error:
            return str(error)
        finally:
            await world.finish()
    return ""


async def play_all(vectors: Sequence[Vector], limits: str) -> list[str]:
    async with running(vectors, LIMITS[limits]) as bridge:
        gate = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(*(play(world, gate) for world in bridge.worlds))
        return [wrong for wrong in results if wrong]


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
