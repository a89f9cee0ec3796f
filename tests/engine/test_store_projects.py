"""The contract of `Store`, over every engine: projects and their limits."""

from rtcbridge.ports_engine import Grant, News, Place, Wake


async def test_a_project_at_its_limit_is_passed_over(make):
    a, b = await make(), await make()
    await a.store.node_up("n1", 4, "socket-1")
    mine = {"project": "MINE01", "limit": 2}
    for session in ("s1", "s2"):
        assert isinstance(await a.store.reserve(session, **mine), Grant)
    assert await b.store.reserve("s3", **mine) == Place(1, 0, barred=True)
    assert await b.store.reserve("s3", **mine) == Place(1, 0, barred=True)
    assert await a.store.reserve("s4", **mine) == Place(2, 0, barred=True)
    assert await a.store.reserve("other", project="OTHER1", limit=2) == Grant("n1", 1, a.address)
    assert await b.store.places() == {"s3": Place(1, 0, barred=True)}
    assert (await b.store.look()).line == ["s3", "s4"]
    assert await a.store.release("s1")
    await b.until(lambda: bool(b.wakes))
    assert b.wakes == [Wake(News.GRANTED, "s3", "n1", 1, a.address)]
    assert await a.store.places() == {"s4": Place(1, 0, barred=True)}
    assert not a.wakes


async def test_waiting_and_barred_are_not_the_same(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1")
    assert isinstance(await a.store.reserve("s1", project="MINE01", limit=1), Grant)
    assert await a.store.reserve("other") == Place(1, 0)
    assert await a.store.reserve("s2", project="MINE01", limit=1) == Place(2, 0, barred=True)
    assert await a.store.places() == {"other": Place(1, 0), "s2": Place(2, 0, barred=True)}
    await a.store.release("s1")
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "other", "n1", 1, a.address)]
    assert await a.store.places() == {"s2": Place(1, 0)}


async def test_a_limit_that_is_raised_serves_who_was_barred(make):
    a = await make()
    await a.store.node_up("n1", 3, "socket-1")
    for session in ("s1", "s2"):
        await a.store.reserve(session, project="MINE01", limit=1)
    assert await a.store.reserve("s2", project="MINE01", limit=2) == Grant("n1", 1, a.address)
    assert await a.store.reserve("s3", project="MINE01", limit=0) == Grant("n1", 1, a.address)


async def test_one_who_yields_or_is_away_is_still_of_his_project(make):
    a = await make()
    await a.store.node_up("n1", 3, "socket-1")
    mine = {"project": "MINE01", "limit": 1}
    await a.store.reserve("s1", **mine)
    await a.store.reserve("s2", **mine)
    assert await a.store.yield_slot("s1") == Place(1, 0, barred=True)
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "s2", "n1", 1, a.address)]
    assert await a.store.suspend("s1") == Place(0, 0, barred=True)
    assert await a.store.suspend("s2") == Place(0, 0)
    assert await a.store.resume("s1") == Grant("n1", 1, a.address)
    assert await a.store.resume("s2") == Place(1, 0, barred=True)


async def test_a_session_that_is_taken_over_counts_for_its_project(make):
    a = await make()
    await a.store.node_up("n1", 3, "socket-1", ["s1"])
    mine = {"project": "MINE01", "limit": 1}
    assert await a.store.hold("s1", "n1", 1, **mine)
    assert await a.store.reserve("s2", **mine) == Place(1, 0, barred=True)
    assert await a.store.release("s1")
    await a.until(lambda: bool(a.news(News.GRANTED)))


async def test_a_lost_session_and_its_successor_are_of_the_same_project(make):
    a = await make()
    mine = {"project": "MINE01", "limit": 1}
    await a.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1", **mine)
    await a.store.begin("s1")
    assert await a.store.reserve("s2", **mine) == Place(1, 0, barred=True)
    await a.store.node_gone("n1", 1)
    assert await a.store.succeed("s3", "s1") == Place(1, 0)
    await a.store.node_up("n2", 2, "socket-2")
    await a.until(lambda: bool(a.news(News.GRANTED)))
    assert await a.store.places() == {"s2": Place(1, 0, barred=True)}
    assert await a.store.succeed("s4", "nobody", **mine) == Place(1, 0, barred=True)
