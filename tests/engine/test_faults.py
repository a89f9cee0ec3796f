"""What holds while the server is killed, emptied, stopped, or cut off. Over a real server."""

import asyncio
import os
import random
import signal
import ssl

import pytest

from engine.conftest import POOL, Replica, flush, until
from engine.tcp_proxy import TcpProxy
from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.ports_engine import EngineAwayError, EngineError, Grant, News, Place, Wake

pytestmark = pytest.mark.slow
INFO = '{"labels": {"zone": "a|b"}, "name": "\u00e9\u2192\0"}'


@pytest.fixture
async def replica(own_server):
    """Makes replicas over a server that may be killed, through a proxy of their own if that is asked for."""
    pytest.importorskip("redis")
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    made, proxies = [], []

    async def new(*, proxy=False, **options):
        port = own_server.port
        if proxy:
            proxies.append(TcpProxy(port))
            port = await proxies[-1].start()
        options = {"lease": 0.6, "silence": 0.5, "patience": 10.0, **options}
        replica = Replica(RedisEngine(parse_engine_url(f"redis://127.0.0.1:{port}"), **options))
        made.append(replica)
        await replica.start()
        if proxy:
            replica.proxy = proxies[-1]
        return replica

    yield new
    for each in made:
        await each.engine.close()
    for proxy in proxies:
        await proxy.close()


async def recovered(replica):
    await until(replica, lambda view: not view.recovering)


async def fill(a, b):
    """A node with three slots at b; sessions of both with slots, and one of each that waits."""
    await recovered(a)
    await b.store.node_up("n1", 3, "socket-1", info=INFO)
    await b.store.node_up("n2", 2, "socket-2", open=False)
    for owner, session in ((a, "a1"), (b, "b1"), (a, "a2")):
        await owner.store.reserve(session)
    await a.store.begin("a1")
    assert await b.store.reserve("b-waits", project="BOTH01", limit=1) == Place(1, 0)
    assert await a.store.reserve("a-waits", project="BOTH01", limit=1) == Place(2, 0)


async def check_filled(a, b):
    """All is as `fill` left it, and goes on."""
    view = await until(a, lambda view: (len(view.sessions), len(view.line), view.recovering) == (3, 2, 0))
    assert set(view.sessions) == {"a1", "a2", "b1"}
    assert (view.nodes["n1"].info, view.nodes["n1"].open, view.nodes["n1"].replica) == (INFO, True, b.address)
    assert (view.nodes["n2"].open, view.nodes["n2"].socket) == (False, "socket-2")
    assert view.line == ["b-waits", "a-waits"]
    assert view.sessions["a1"].live
    assert [(wake.news, wake.session) for wake in a.wakes] in ([], [(News.DOUBTED, "a1")])  # the one that is live
    assert not b.wakes
    await a.store.release("a2")
    await b.until(lambda: bool(b.wakes))
    assert [(wake.news, wake.session) for wake in b.wakes] == [(News.GRANTED, "b-waits")]
    await b.store.release("b1")
    assert await a.store.places() == {"a-waits": Place(1, 0, barred=True)}


async def test_a_killed_server_that_comes_back_empty(replica, own_server):
    a, b = await replica(), await replica()
    await fill(a, b)
    own_server.kill()
    call = asyncio.create_task(a.store.reserve("a1"))
    own_server.start()
    assert await call == Grant("n1", 1, b.address)
    await check_filled(a, b)


async def test_connections_that_are_cut_while_all_is_said_again(replica, own_server):
    a, b = await replica(proxy=True, lease=1.5), await replica(proxy=True, lease=1.5)
    await fill(a, b)
    flush(own_server)
    for _ in range(12):
        a.proxy.cut()
        b.proxy.losing = True
        await asyncio.sleep(0.03)  # now in the middle of one step, now of another: this is the fault itself
    await check_filled(a, b)


async def test_data_lost_without_a_word(replica, own_server):
    a, b = await replica(), await replica()
    await fill(a, b)
    flush(own_server)
    await check_filled(a, b)


async def test_a_server_that_comes_back_with_old_data_counts_as_empty(replica, own_server):
    own_server.kill()
    own_server.options = ("--appendonly", "yes", "--appendfsync", "always")
    own_server.start()
    a, b = await replica(), await replica()
    await fill(a, b)
    before = a.store.epoch
    own_server.kill()
    own_server.start()
    await check_filled(a, b)
    assert a.store.epoch == b.store.epoch != before


async def test_a_stopped_server(replica, own_server):
    a, b = await replica(), await replica()
    await fill(a, b)
    os.kill(own_server.process.pid, signal.SIGSTOP)
    call = asyncio.create_task(a.store.reserve("a-third"))
    await asyncio.sleep(1.5)  # longer than a lease and the silence that ends a connection: this is the fault itself
    os.kill(own_server.process.pid, signal.SIGCONT)
    standing = await call
    assert isinstance(standing, Place)
    assert await a.store.release("a-third")
    view = await a.store.look()
    assert len(view.sessions) <= 3


async def test_the_server_stays_away(replica, own_server):
    a = await replica(patience=0.5)
    own_server.kill()
    with pytest.raises(EngineAwayError, match=r"engine redis://127\.0\.0\.1"):
        await a.store.reserve("s1")


async def test_a_frozen_replica_loses_what_others_have_got_meanwhile(replica):
    a, b = await replica(proxy=True), await replica()
    await recovered(b)
    await b.store.node_up("n1", 2, "socket-1")
    assert await a.store.reserve("kept") == Grant("n1", 1, b.address)
    assert await a.store.begin("kept")
    assert await a.store.reserve("taken") == Grant("n1", 1, b.address)
    a.proxy.pause()
    await b.store.reserve("next")
    await b.until(lambda: {wake.news for wake in b.wakes} == {News.ORPHAN, News.MAYBE, News.GRANTED})
    a.proxy.go_on()
    await a.until(lambda: bool(a.wakes))
    assert [(wake.news, wake.session) for wake in a.wakes] == [(News.LOST, "taken")]
    view = await b.store.look()
    assert {session.id: session.owner for session in view.sessions.values()} == {
        "kept": a.engine.replica,
        "next": b.engine.replica,
    }


async def test_a_replica_that_was_frozen_hears_that_its_node_is_elsewhere(replica):
    a, b = await replica(proxy=True), await replica()
    await recovered(b)
    await a.store.node_up("n1", 2, "socket-1")
    await a.store.node_up("n2", 2, "socket-2")
    assert await a.store.reserve("mine") == Grant("n1", 1, a.address)
    assert await a.store.begin("mine")
    a.proxy.pause()
    await until(b, lambda view: not view.sessions["mine"].owner)
    assert (await b.store.node_up("n1", 2, "socket-3", ["mine"])).sessions == {"mine": ""}
    a.proxy.go_on()
    await a.until(lambda: len(a.wakes) == 2)
    assert set(a.wakes) == {
        Wake(News.REPLACED, "", "n1", 2, b.address),
        Wake(News.MOVED, "mine", "n1", 2, b.address),
    }
    view = await until(b, lambda view: view.nodes["n2"].replica == a.address)
    assert (view.nodes["n2"].open, view.nodes["n2"].epoch) == (True, 1)
    assert (view.nodes["n1"].replica, view.sessions["mine"].owner) == (b.address, a.address)


async def test_after_a_loss_nobody_is_called_an_orphan_whose_owner_lives(replica, own_server):
    a, b, c = await replica(), await replica(), await replica()
    await recovered(b)
    await b.store.node_up("n1", 3, "socket-1")
    for owner, session in ((a, "a1"), (c, "c1"), (b, "b1")):
        await owner.store.reserve(session)
        await owner.store.begin(session)
    await b.store.node_up("n1", 3, "socket-2", ["a1", "b1", "c1"], info=INFO)
    await b.store.node_up("n2", 1, "socket-3")
    await b.store.node_down("n2", 1)
    await c.until(lambda: bool(c.wakes))
    await c.engine.kill()
    flush(own_server)
    await b.until(lambda: bool(b.news(News.ORPHAN)))
    assert [wake.session for wake in b.news(News.ORPHAN)] == ["c1"]
    view = await b.store.look()
    assert {session.id: session.owner for session in view.sessions.values()} == {
        "a1": a.address,
        "b1": b.address,
        "c1": "",
    }
    assert (view.nodes["n1"].info, view.nodes["n1"].epoch) == (INFO, 2)
    assert (view.nodes["n2"].open, view.nodes["n2"].replica, view.nodes["n2"].epoch) == (False, "", 1)
    assert not a.news(News.LOST)


async def test_lost_answers_and_cut_connections_change_nothing(replica):
    a, b = await replica(proxy=True), await replica()
    await recovered(b)
    await b.store.node_up("n1", 4, "socket-1")
    chance = random.Random(3)
    held = []
    for number in range(150):
        if chance.random() < 0.1:
            a.proxy.losing = True
        if chance.random() < 0.05:
            a.proxy.cut()
        if held and (len(held) == 4 or chance.random() < 0.4):
            await a.store.release(held.pop(0))
        else:
            assert await a.store.reserve(f"s{number}") == Grant("n1", 1, b.address)
            held.append(f"s{number}")
    view = await b.store.look()
    assert sorted(view.sessions) == sorted(held)
    assert view.nodes["n1"].sessions == sorted(held)


async def test_a_call_that_arrives_after_its_connection_was_given_up_does_nothing(replica, own_server):
    a = await replica(proxy=True)
    await recovered(a)
    await a.store.node_up("n1", 1, "socket-1")
    import redis

    store = a.store
    late = ("reserve", store.epoch, store.me, a.engine.generation, "late", 0, 0, "", 1, "")
    a.proxy.cut()
    await a.store.reserve("s1")
    await a.store.release("s1")
    with redis.Redis(port=own_server.port) as client:
        from rtcbridge.drivers.engine.redis_store import SHA

        assert client.evalsha(SHA, 1, store.prefix, *late) == [b"STALE"]
    assert not (await a.store.look()).sessions


@pytest.mark.parametrize("fault", ["kill", "flush", "cut", "pause", "delete"])
async def test_every_message_arrives_once_and_in_order(replica, own_server, fault):
    import redis

    a, b = await replica(proxy=True), await replica(proxy=True)
    count = 3000
    for number in range(count):
        session = f"s{number % 7}"
        assert a.engine.bus.send(b.engine.replica, session, "up", b"%d" % number)
        assert b.engine.bus.send(a.engine.replica, session, "down", b"%d" % number)
        if number % 50 == 0:
            await asyncio.sleep(0)
        if number in (800, 1600):
            match fault:
                case "kill":
                    own_server.kill()
                    own_server.start()
                case "flush":
                    flush(own_server)
                case "delete":
                    with redis.Redis(port=own_server.port) as client:
                        client.delete(f"rtcbridge:{{{b.engine.replica}}}:inbox")
                case "cut":
                    a.proxy.cut()
                    b.proxy.cut()
                case "pause":
                    a.proxy.pause()
                    asyncio.get_running_loop().call_later(0.7, a.proxy.go_on)
            await asyncio.sleep(0.05)
    for receiver, sender in ((b, a), (a, b)):
        await receiver.until(lambda receiver=receiver: len(receiver.packets) >= count, 20)
        assert [int(packet.data) for _, packet in receiver.packets] == list(range(count))
        assert {origin for origin, _ in receiver.packets} == {sender.engine.replica}


async def test_a_bus_without_a_server_keeps_to_its_limit(replica, own_server):
    a = await replica()
    own_server.kill()
    await asyncio.sleep(0)
    sent = 0
    while a.engine.bus.send("somebody", "s", "up", bytes(100_000)):
        sent += 1
        assert sent < 1000
    assert 100 < sent < 200
    a.engine.bus.drop("somebody")
    assert a.engine.bus.send("somebody", "s", "up", b"")


async def test_users_of_an_access_list(own_server):
    pytest.importorskip("redis")
    import redis

    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    with redis.Redis(port=own_server.port) as client:
        client.execute_command("ACL", "SETUSER", "bridge", "on", ">p@ss word", "~rtcbridge:*", "+@all")
    good = Replica(RedisEngine(parse_engine_url(f"redis://bridge:p%40ss%20word@127.0.0.1:{own_server.port}")))
    await good.start()
    await good.store.reserve("s1")
    await good.engine.close()
    bad = Replica(RedisEngine(parse_engine_url(f"redis://bridge:secret@127.0.0.1:{own_server.port}")))
    with pytest.raises(EngineError, match="WRONGPASS") as caught:
        await bad.start()
    assert "secret" not in str(caught.value)
    assert POOL not in str(caught.value)


async def test_tls(own_server, tmp_path, monkeypatch):
    """The server of these tests has no TLS: the proxy before it ends it."""
    pytest.importorskip("redis")
    from rtcbridge.cli.certificate import make_certificate
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = make_certificate(tmp_path, ["localhost"])
    context.load_cert_chain(certificate, key)
    proxy = TcpProxy(own_server.port)
    url = parse_engine_url(f"rediss://localhost:{await proxy.start(context)}")
    stranger = Replica(RedisEngine(url, patience=1.0))
    with pytest.raises(EngineError, match="certificate verify failed"):
        await stranger.start()
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    replica = Replica(RedisEngine(url))
    await replica.start()
    assert (await replica.store.reserve("s1")).place == 1
    await replica.engine.close()
    await proxy.close()
