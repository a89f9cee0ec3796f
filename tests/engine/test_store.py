"""The contract of `Store`, over every engine."""

import time

import pytest

from engine.conftest import Replica, flush, until
from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.ports_engine import INFO_LIMIT, FencedError, Grant, Lead, News, Place, Wake


async def test_a_session_gets_a_slot_of_the_fullest_node(make):
    a = await make()
    await a.store.node_up("n1", 2, "socket-1")
    await a.store.node_up("n2", 2, "socket-2")
    assert await a.store.reserve("s1") == Grant("n1", 1, a.address)
    assert await a.store.reserve("s2") == Grant("n1", 1, a.address)
    assert await a.store.reserve("s3") == Grant("n2", 1, a.address)
    view = await a.store.look()
    assert {node.id: node.sessions for node in view.nodes.values()} == {"n1": ["s1", "s2"], "n2": ["s3"]}
    assert view.replicas == [a.engine.replica]


async def test_reserve_is_idempotent(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1")
    assert await a.store.reserve("s1") == await a.store.reserve("s1") == Grant("n1", 1, a.address)
    assert await a.store.reserve("s2") == await a.store.reserve("s2") == Place(1, 0)
    assert len((await a.store.look()).sessions) == 1


async def test_release_is_idempotent_and_wakes_the_next_wherever_it_is(make):
    a, b = await make(), await make()
    await a.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1")
    assert await b.store.reserve("s2") == Place(1, 0)
    assert await a.store.reserve("s3") == Place(2, 0)
    assert await a.store.release("s1")
    assert not await a.store.release("s1")
    await b.until(lambda: bool(b.wakes))
    assert b.wakes == [Wake(News.GRANTED, "s2", "n1", 1, a.address)]
    assert await b.store.reserve("s2") == Grant("n1", 1, a.address)
    assert await a.store.places() == {"s3": Place(1, 0)}
    assert await b.store.release("s2")
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "s3", "n1", 1, a.address)]


async def test_the_line_is_by_rank_then_by_coming(make):
    a = await make()
    for session, rank in (("late", 0), ("later", 0), ("important", -5), ("humble", 7)):
        await a.store.reserve(session, rank=rank)
    await a.store.reserve("front", front=True)
    await a.store.reserve("very front", front=True)
    line = ["very front", "front", "important", "late", "later", "humble"]
    assert (await a.store.look()).line == line
    await a.store.node_up("n1", 6, "socket-1")
    await a.until(lambda: len(a.wakes) == 6)
    assert [wake.session for wake in a.wakes] == line


async def test_nobody_waits_beside_a_free_slot_that_he_may_have(make):
    a = await make()
    assert await a.store.reserve("picky", exclude="n1") == Place(1, 0)
    await a.store.node_up("n1", 2, "socket-1")
    assert await a.store.reserve("s1") == Grant("n1", 1, a.address)  # it overtakes one that may not have the node
    assert (await a.store.look()).line == ["picky"]
    await a.store.node_up("n2", 1, "socket-2")
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "picky", "n2", 1, a.address)]


async def test_the_impatient_take_no_place_beyond_the_supply(make):
    a = await make()
    token = (await a.store.lead()).token
    await a.store.publish(token, 1, "the quota's | end")
    assert await a.store.reserve("s1", patient=False) == Place(1, 1, "the quota's | end")
    assert await a.store.reserve("s2", patient=False) == Place(2, 1, "the quota's | end")
    assert await a.store.places() == {"s1": Place(1, 1, "the quota's | end")}
    assert (await a.store.look()).line == ["s1"]


async def test_a_reservation_is_renewed_or_goes_to_the_end(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1")
    assert await a.store.yield_slot("s1") == Grant("n1", 1, a.address)
    await a.store.reserve("s2")
    assert await a.store.yield_slot("s1") == Place(1, 0)
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "s2", "n1", 1, a.address)]
    with pytest.raises(KeyError):
        await a.store.yield_slot("nobody")


async def test_the_suspended_keep_their_place_and_are_passed_by(make):
    a = await make()
    await a.store.reserve("s1")
    await a.store.reserve("s2")
    assert (await a.store.suspend("s1")).place == 0
    await a.store.node_up("n1", 1, "socket-1")
    await a.until(lambda: bool(a.wakes))
    assert a.wakes == [Wake(News.GRANTED, "s2", "n1", 1, a.address)]
    assert (await a.store.suspend("s2")).place == 0
    view = await a.store.look()
    assert (view.line, view.away, dict(view.sessions)) == ([], ["s1", "s2"], {})
    assert await a.store.resume("s1") == Grant("n1", 1, a.address)
    assert await a.store.resume("s2") == Place(1, 0)


async def test_the_epoch_of_a_node_rises_and_fences(make):
    a, b = await make(), await make()
    assert (await a.store.node_up("n1", 1, "socket-1", epoch=6)).epoch == 7
    assert (await a.store.node_up("n1", 1, "socket-1")).epoch == 7
    assert (await b.store.node_up("n1", 1, "socket-2")).epoch == 8
    assert not await a.store.node_open("n1", 7, False)
    assert not await a.store.node_gone("n1", 7)
    assert await b.store.node_open("n1", 8, False)
    assert await a.store.reserve("s1") == Place(1, 0)
    assert await b.store.node_open("n1", 8, True)
    await a.until(lambda: bool(a.news(News.GRANTED)))
    assert a.news(News.GRANTED) == [Wake(News.GRANTED, "s1", "n1", 8, b.address)]


async def test_a_node_that_comes_back_without_a_session_has_lost_it(make):
    a, b = await make(), await make()
    await b.store.node_up("n1", 3, "socket-1")
    for session in ("alive", "dead", "reserved"):
        await a.store.reserve(session)
    assert await a.store.begin("alive")
    assert await a.store.begin("dead")
    back = await b.store.node_up("n1", 3, "socket-2", ["alive"])
    assert (back.epoch, sorted(back.sessions)) == (2, ["alive", "dead", "reserved"])  # before all others, a slot anew
    assert not (await a.store.look()).sessions["dead"].live
    await a.until(lambda: len(a.wakes) == 3)
    assert set(a.wakes) == {
        Wake(News.LOST, "dead", "n1", 2, b.address),
        Wake(News.MOVED, "alive", "n1", 2, b.address),
        Wake(News.MOVED, "reserved", "n1", 2, b.address),
    }


async def test_a_node_that_is_gone_loses_its_sessions(make):
    a, b = await make(), await make()
    await b.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1")
    assert await b.store.node_gone("n1", 1)
    await a.until(lambda: bool(a.wakes))
    assert [(wake.news, wake.session) for wake in a.wakes] == [(News.LOST, "s1")]
    view = await a.store.look()
    assert not view.nodes
    assert not view.sessions
    assert view.line == ["s1"]  # until its replica has spoken
    assert await a.store.release("s1")
    assert not (await a.store.look()).line


@pytest.mark.parametrize("back", [False, True])
async def test_who_succeeds_a_lost_session_is_before_all_others(make, back):
    a, b = await make(), await make()
    await b.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("s1")
    await a.store.begin("s1")
    assert await b.store.reserve("other", front=True) == Place(1, 0)
    if back:
        await b.store.node_up("n1", 1, "socket-2")
    else:
        await b.store.node_gone("n1", 1)
    await a.until(lambda: bool(a.news(News.LOST)))
    for _ in range(2):
        standing = await a.store.succeed("s2", "s1")
        assert standing == (Grant("n1", 2, b.address) if back else Place(1, 0))
    view = await a.store.look()
    assert (list(view.sessions), view.line) == ((["s2"], ["other"]) if back else ([], ["s2", "other"]))
    assert not await a.store.release("s1")
    assert await a.store.succeed("s3", "s1") == Place(1, 0)
    assert await a.store.succeed("s4", "nobody", rank=3) == Place(1, 0)


async def test_what_those_in_line_may_not_have_is_shown(make):
    a = await make()
    await a.store.reserve("s1", exclude="n1")
    await a.store.reserve("s2")
    assert (await a.store.look()).excluding == {"s1": "n1"}
    await a.store.release("s1")
    assert not (await a.store.look()).excluding


async def test_live_sessions_outlive_their_replica_and_are_taken_over(make):
    a, b = await make(), await make()
    await b.store.node_up("n1", 3, "socket-1")
    for session in ("live", "reserved", "waits"):
        await a.store.reserve(session)
    await a.store.reserve("in line")
    await a.store.begin("live")
    await a.engine.kill()
    await b.until(lambda: bool(b.wakes))
    assert [(wake.session, wake.node) for wake in b.news(News.ORPHAN)] == [("live", "n1")]
    assert [(wake.session, wake.node) for wake in b.news(News.MAYBE)] == [("reserved", "n1"), ("waits", "n1")]
    view = await b.store.look()
    assert list(view.sessions) == ["live"]
    assert (view.line, view.replicas) == ([], [b.engine.replica])
    assert await b.store.hold("live", "n1", 1)
    assert (await b.store.look()).sessions["live"].owner == b.engine.replica
    assert await b.store.release("live")


async def test_what_a_session_has_is_taken_by_another_replica(make):
    a, b = await make(), await make()
    await b.store.node_up("n1", 2, "socket-1")
    for session in ("live", "reserved", "second", "away", "last"):
        await a.store.reserve(session, project="P", limit=3)
    await a.store.begin("live")
    await a.store.suspend("away")
    for _ in range(2):
        assert await b.store.take_over("live", project="P", limit=3) == Grant("n1", 1, b.address)
        assert await b.store.take_over("reserved") == Grant("n1", 1, b.address)
        assert await b.store.take_over("second") == Place(1, 0)
        assert await b.store.take_over("away") == Place(0, 0)
    with pytest.raises(KeyError):
        await b.store.take_over("nobody")
    assert list(await a.store.places()) == ["last"]
    assert await b.store.resume("away") == Place(2, 0)  # where it was
    await a.engine.kill()
    view = await until(b, lambda view: a.address not in view.replicas)
    assert view.line == ["second", "away"]
    assert {id: (each.owner, each.live) for id, each in view.sessions.items()} == {
        "live": (b.address, True),
        "reserved": (b.address, False),
    }
    await b.store.release("reserved")
    await b.until(lambda: bool(b.news(News.GRANTED)))
    assert b.news(News.GRANTED) == [Wake(News.GRANTED, "second", "n1", 1, b.address)]
    assert {wake.news for wake in a.wakes} <= {News.TAKEN}


async def test_an_orphan_is_taken(make):
    a, b = await make(), await make(grace=0.2)
    await b.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("live")
    await a.store.begin("live")
    await a.engine.kill()
    await b.until(lambda: bool(b.wakes))
    assert await b.store.take_over("live") == Grant("n1", 1, b.address)
    await b.store.reserve("next")
    await until(b, lambda view: view.sessions["live"].live)
    assert (await b.store.look()).line == ["next"]


async def test_orphans_that_nobody_takes_over_lose_their_slot(make):
    a, b = await make(grace=0.05), await make(grace=0.05)
    await b.store.node_up("n1", 1, "socket-1")
    await a.store.reserve("live")
    await a.store.begin("live")
    await a.engine.kill()
    assert isinstance(await b.store.reserve("next"), Place)
    await until(b, lambda view: "next" in view.sessions)


async def test_the_nodes_of_a_dead_replica_get_no_new_sessions(make):
    a, b = await make(), await make()
    await a.store.node_up("n1", 1, "socket-1")
    await a.engine.kill()
    view = await until(b, lambda view: not view.nodes["n1"].replica)
    assert not view.nodes["n1"].open
    assert await b.store.reserve("s1") == Place(1, 0)
    assert (await b.store.node_up("n1", 1, "socket-2")).epoch == 2
    await b.until(lambda: bool(b.wakes))


async def test_hold_takes_only_what_is_free(make):
    a = await make()
    await a.store.node_up("n1", 1, "socket-1")
    assert not await a.store.hold("s1", "n1", 9)
    assert not await a.store.hold("s1", "nowhere", 1)
    assert await a.store.hold("s1", "n1", 1)
    assert await a.store.hold("s1", "n1", 1)
    assert not await a.store.hold("s2", "n1", 1)


async def test_one_replica_leads_and_its_writes_are_fenced(make):
    a, b = await make(lease=0.3), await make(lease=0.3)
    lead = await a.store.lead()
    first = lead.token
    assert first
    assert lead.leader == a.engine.replica
    assert await a.store.lead() == lead
    assert await b.store.lead() == Lead(0, a.engine.replica, 2)
    await a.store.publish(first, 3)
    await a.engine.kill()
    await until(b, lambda view: not view.leader)
    assert (await b.store.look()).supply == 3
    second = (await b.store.lead()).token
    assert second > first
    assert await b.store.reserve("s1", patient=False) == Place(1, -1)  # the last leader's word may be old
    assert set(await b.store.places()) <= {"s1"}
    with pytest.raises(FencedError):
        await b.store.publish(first, 9)
    await b.store.publish(second, 4)
    assert (await b.store.look()).supply == 4


async def test_names_that_the_records_cannot_hold_are_refused(make):
    a = await make()
    with pytest.raises(ValueError, match="not a name"):
        await a.store.reserve("a|b")
    with pytest.raises(ValueError, match="not a name"):
        await a.store.node_up("n1", 1, "socket|1")
    with pytest.raises(ValueError, match="65537 bytes; 65536 are allowed"):
        await a.store.node_up("n1", 1, "socket-1", info="x" * (INFO_LIMIT + 1))
    with pytest.raises(ValueError, match="no text"):
        await a.store.node_up("n1", 1, "socket-1", info="\ud800")
    assert not (await a.store.look()).nodes


def test_over_uvloop(shared_server):
    """The loop that the bridge runs on."""
    uvloop = pytest.importorskip("uvloop")
    pytest.importorskip("redis")
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    async def main():
        replica = Replica(RedisEngine(parse_engine_url(shared_server.url)))
        await replica.start()
        await replica.store.reserve("s1")
        assert await replica.store.release("s1")
        replica.engine.bus.send(replica.engine.replica, "s1", "up", b"to myself")
        await replica.until(lambda: bool(replica.packets))
        await replica.engine.close()

    flush(shared_server)
    uvloop.run(main())


async def test_a_slot_is_known_with_its_project(make):
    a, b = await make(), await make()
    await a.store.node_up("n1", 2, "socket-1")
    await a.store.reserve("s1", project="TEST01", limit=3)
    assert (await b.store.find("s1")).project == "TEST01"
    assert (await b.store.look()).sessions["s1"].project == "TEST01"


@pytest.mark.slow
async def test_the_time_of_day_is_the_servers(shared_server, monkeypatch):
    pytest.importorskip("redis")
    from rtcbridge.drivers.engine import redis_engine

    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(redis_engine.time, "time", lambda: real() + 3600)
        engine = redis_engine.RedisEngine(parse_engine_url(shared_server.url))
    assert engine.wall() > real() + 3000
    before = real()
    await Replica(engine).start()
    assert before - 1 < engine.wall() < real() + 1
    await engine.close()
