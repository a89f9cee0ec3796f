"""The contract of `Quotas`, over every engine."""

import asyncio

import pytest

from engine.conftest import flush
from rtcbridge.drivers.engine import parse_engine_url

ONE = {"token:t": 1}
TWO = {"key:1": 2}


async def test_a_set_takes_as_many_as_it_may_have(make):
    a, b = await make(), await make()
    assert await a.engine.quotas.take("s1", TWO)
    assert await b.engine.quotas.take("s2", TWO)
    assert not await a.engine.quotas.take("s3", TWO)
    assert not await b.engine.quotas.take("s4", TWO)
    await a.engine.quotas.release("s1")
    assert await b.engine.quotas.take("s4", TWO)


async def test_taking_and_releasing_are_idempotent(make):
    a = await make()
    assert await a.engine.quotas.take("s1", ONE)
    assert await a.engine.quotas.take("s1", ONE)
    await a.engine.quotas.release("s1")
    await a.engine.quotas.release("s1")
    assert await a.engine.quotas.take("s2", ONE)
    await a.engine.quotas.release("s1")
    assert not await a.engine.quotas.take("s3", ONE), "what is released twice frees no other's place"


async def test_of_several_sets_all_must_have_room(make):
    a = await make()
    assert await a.engine.quotas.take("s1", ONE)
    assert not await a.engine.quotas.take("s2", TWO | ONE)
    for session in ("s3", "s4"):
        assert await a.engine.quotas.take(session, TWO), "the one that was refused is in neither"
    assert not await a.engine.quotas.take("s5", TWO | {"token:u": 1})
    assert await a.engine.quotas.take("s6", {"token:u": 1})
    assert await a.engine.quotas.take("s7", {"token:t": 0}), "0 is no maximum"


async def test_what_is_held_counts_and_is_not_refused(make):
    a, b = await make(), await make()
    assert await a.engine.quotas.take("s1", ONE)
    await b.engine.quotas.hold("s2", ONE)
    await a.engine.quotas.release("s1")
    assert not await a.engine.quotas.take("s3", ONE)
    await b.engine.quotas.release("s2")
    assert await a.engine.quotas.take("s3", ONE)


async def test_a_session_that_another_replica_has_now_is_that_ones_to_release(make):
    a, b = await make(), await make()
    assert await a.engine.quotas.take("s1", ONE)
    a.engine.quotas.drop("s1")
    await b.engine.quotas.hold("s1", ONE)
    await a.engine.quotas.release("s1")
    assert not await a.engine.quotas.take("s2", ONE)
    await b.engine.quotas.release("s1")
    assert await a.engine.quotas.take("s2", ONE)


async def test_of_many_at_once_no_more_get_in_than_may(make):
    replicas = [await make() for _ in range(3)]
    took = await asyncio.gather(
        *(replicas[number % 3].engine.quotas.take(f"s{number}", {"key:1": 5}) for number in range(60))
    )
    assert sum(took) == 5


async def taken(replica, session, groups):
    """Try until it is taken."""
    async with asyncio.timeout(10):
        while not await replica.engine.quotas.take(session, groups):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_a_dead_replica_had_is_free_after_a_while(make):
    a, b = await make(), await make()
    for replica in (a, b):
        if hasattr(replica.engine.quotas, "_lasts_ms"):
            replica.engine.quotas._lasts_ms = 300
    assert await a.engine.quotas.take("s1", ONE)
    assert not await b.engine.quotas.take("s2", ONE)
    await a.engine.kill()
    await taken(b, "s2", ONE)


@pytest.mark.slow
async def test_what_a_replica_has_is_said_again_to_a_server_that_has_lost_all(shared_server):
    from rtcbridge.drivers.engine.redis_engine import RedisEngine
    from rtcbridge.drivers.engine.redis_quotas import RedisQuotas

    engines = [RedisEngine(parse_engine_url(shared_server.url)) for _ in range(2)]
    for engine in engines:
        engine.quotas = RedisQuotas(engine, lasts=0.4)
        await engine.start([], lambda *_: None, lambda *_: None)
    holder, other = engines
    try:
        flush(shared_server)
        assert await holder.quotas.take("s1", ONE)
        flush(shared_server)

        async def is_there():
            return await other.pipe.call("ZSCORE", "rtcbridge:{quotas}:token:t", "s1") is not None

        async with asyncio.timeout(10):
            while not await is_there():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not await other.quotas.take("s2", ONE)
        await asyncio.sleep(0.8)  # twice as long as it lasts unless it is said again
        assert not await other.quotas.take("s2", ONE)
        await holder.quotas.release("s1")
        assert await other.quotas.take("s2", ONE)
        await other.quotas.release("s2")
        assert await other.pipe.call("KEYS", "rtcbridge:{quotas}:*") == []
    finally:
        for engine in engines:
            await engine.close()
