"""The contract of `Store`, over every engine: nodes, their sockets, and who is told of these."""

import pytest

from rtcbridge.ports_engine import INFO_LIMIT, Grant, News, NodeView, Place, Registered, SessionView, Wake


async def held_by_two(a, b):
    """A node at `a`: a live session and a reservation of `a`, a live one of `b`."""
    registered = await a.store.node_up("n1", 4, "socket-1")
    assert registered == Registered(1, {})
    for owner, session in ((a, "a-live"), (a, "a-reserved"), (b, "b-live")):
        assert await owner.store.reserve(session) == Grant("n1", 1, a.address)
    assert await a.store.begin("a-live")
    assert await b.store.begin("b-live")


async def test_owners_are_told_when_a_node_moves(make):
    a, b = await make(), await make()
    await held_by_two(a, b)
    live = ["a-live", "b-live"]
    owners = {"a-live": a.address, "a-reserved": a.address, "b-live": b.address}
    assert await b.store.node_up("n1", 4, "socket-2", live) == Registered(2, owners)
    assert await b.store.node_up("n1", 4, "socket-2", live) == Registered(2, owners)
    await a.until(lambda: len(a.news(News.MOVED)) == 2)
    await b.until(lambda: bool(b.wakes))
    assert {wake.session for wake in a.news(News.MOVED)} == {"a-live", "a-reserved"}
    assert {(wake.epoch, wake.replica) for wake in a.news(News.MOVED)} == {(2, b.address)}
    assert b.wakes == [Wake(News.MOVED, "b-live", "n1", 2, b.address)]
    assert await a.store.reserve("a-live") == Grant("n1", 2, b.address)


async def test_a_replaced_socket_is_told_of(make):
    a, b = await make(), await make()
    await a.store.node_up("n1", 1, "socket-1")
    await b.store.node_up("n1", 1, "socket-2")
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.REPLACED, "", "n1", 2, b.address)]
    await b.store.node_up("n1", 1, "socket-3")
    await a.store.node_up("n2", 1, "socket-4")
    await a.store.node_down("n2", 1)
    await b.store.node_up("n2", 1, "socket-5")
    await b.store.reserve("s1")
    await b.store.begin("s1")
    await a.store.node_up("n1", 1, "socket-6", ["s1"])
    await b.until(lambda: len(b.wakes) == 2)
    moved, replaced = sorted(b.wakes, key=lambda wake: wake.news.value)
    assert replaced == Wake(News.REPLACED, "", "n1", 4, a.address)
    assert moved == Wake(News.MOVED, "s1", "n1", 4, a.address)
    assert len(a.wakes) == 1


async def test_a_node_without_a_socket_keeps_its_sessions(make):
    a, b = await make(), await make()
    await held_by_two(a, b)
    assert not await a.store.node_down("n1", 9)
    assert not await a.store.node_down("nowhere", 1)
    assert await a.store.node_down("n1", 1)
    assert await a.store.node_down("n1", 1)
    await b.until(lambda: bool(b.wakes))
    assert b.wakes == [Wake(News.MOVED, "b-live", "n1", 1, "")]
    node = (await b.store.look()).nodes["n1"]
    assert (node.open, node.replica, node.socket) == (False, "", "")
    assert node.sessions == ["a-live", "a-reserved", "b-live"]
    assert not await b.store.node_open("n1", 1, True)
    assert await b.store.reserve("next") == Place(1, 0)
    assert await a.store.reserve("a-live") == Grant("n1", 1, "")
    assert (await b.store.node_up("n1", 4, "socket-2", ["a-live", "b-live"])).epoch == 2
    await b.until(lambda: len(b.wakes) == 3)
    assert set(b.wakes[1:]) == {
        Wake(News.MOVED, "b-live", "n1", 2, b.address),
        Wake(News.GRANTED, "next", "n1", 2, b.address),
    }


@pytest.mark.parametrize("end", ["kill", "close"])
async def test_a_replica_that_goes_takes_its_sockets_along(make, end):
    a, b, c = await make(), await make(), await make()
    await held_by_two(a, b)
    assert await b.store.begin("b-live")
    await getattr(a.engine, end)()
    await b.until(lambda: bool(b.wakes))
    assert b.wakes == [Wake(News.MOVED, "b-live", "n1", 1, "")]
    view = await b.store.look()
    assert view.sessions["a-live"] == SessionView(id="a-live", node="n1", epoch=1, replica="", owner="", live=True)
    assert "a-reserved" not in view.sessions
    owners = {"a-live": "", "b-live": b.address}
    assert await c.store.node_up("n1", 4, "socket-2", list(owners)) == Registered(2, owners)
    await c.until(lambda: bool(c.wakes))
    assert c.wakes == [Wake(News.ORPHAN, "a-live", "n1", 2, c.address)]
    await b.until(lambda: len(b.wakes) == 2)
    assert b.wakes[1] == Wake(News.MOVED, "b-live", "n1", 2, c.address)
    assert await c.store.hold("a-live", "n1", 2)
    assert (await b.store.find("a-live")).owner == c.address


async def test_the_sessions_that_a_node_lists_and_nobody_claims_are_orphans(make):
    a, b = await make(), await make()
    registered = await a.store.node_up("n1", 2, "socket-1", ["s1", "s2", "one too many"])
    assert registered == Registered(1, {"s1": "", "s2": ""})
    await a.until(lambda: len(a.wakes) == 2)
    assert a.wakes == [Wake(News.ORPHAN, session, "n1", 1, a.address) for session in ("s1", "s2")]
    assert await b.store.reserve("s3") == Place(1, 0)
    assert await a.store.hold("s1", "n1", 1)
    await b.store.node_up("n1", 2, "socket-2", ["s1", "s2"])
    await b.until(lambda: bool(b.wakes))
    assert b.wakes == [Wake(News.ORPHAN, "s2", "n1", 2, b.address)]


async def test_a_session_that_is_taken_over_by_an_old_epoch_is_told_the_new_one(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1", ["s1"])
    await a.store.node_up("n1", 1, "socket-2", ["s1"])
    assert await a.store.hold("s1", "n1", 1)
    await a.until(lambda: bool(a.news(News.MOVED)))
    assert a.news(News.MOVED) == [Wake(News.MOVED, "s1", "n1", 2, a.address)]


async def test_what_is_known_of_a_node_and_of_a_session(make):
    a, b = await make(), await make()
    info = 'any | text\n{"é": "\0"}'
    await a.store.node_up("n1", 2, "socket-1", open=False, info=info)
    assert await b.store.reserve("s1") == Place(1, 0)
    assert await b.store.find("s1") is None
    node = NodeView(
        id="n1", capacity=2, epoch=1, open=False, replica=a.address, socket="socket-1", info=info, sessions=[]
    )
    assert (await b.store.look()).nodes == {"n1": node}
    await a.store.node_up("n1", 3, "socket-1", open=True, info="another")
    node = (await b.store.look()).nodes["n1"]
    assert (node.capacity, node.epoch, node.open, node.info) == (3, 1, True, "another")
    found = await a.store.find("s1")
    assert found == SessionView(id="s1", node="n1", epoch=1, replica=a.address, owner=b.address, live=False)
    assert (await b.store.look()).sessions == {"s1": found}
    assert await b.store.node_gone("n1", 1)
    assert await b.store.find("s1") is None
    assert (await a.store.node_up("n1", 1, "socket-2", info="x" * INFO_LIMIT)).epoch == 2
    assert len((await b.store.look()).nodes["n1"].info) == INFO_LIMIT
