"""Sentinels: the master is found by name, and after a failover all is told to the new one."""

import asyncio

import pytest

from engine.conftest import Replica, until
from engine.valkey import MISSING, Server, program
from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.ports_engine import Grant

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path):
    """A master, a server that follows it, and one sentinel."""
    if program() is None:
        pytest.skip(MISSING)
    master = Server(tmp_path / "master")
    master.start()
    second = Server(tmp_path / "second", "--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
    second.start()
    sentinel = Server(tmp_path / "sentinel")
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    sentinel.command = (str(file), "--sentinel")
    sentinel.start()
    yield master, second, sentinel
    for server in (sentinel, second, master):
        server.kill()


async def test_a_failover_loses_no_slot(service):
    redis = pytest.importorskip("redis")
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    master, second, sentinel = service
    with redis.Redis(port=sentinel.port, decode_responses=True) as client:
        async with asyncio.timeout(20):
            while not client.sentinel_slaves("main"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    with redis.Redis(port=second.port) as client:
        async with asyncio.timeout(20):
            while client.info("replication")["master_link_status"] != "up":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    url = parse_engine_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
    replica = Replica(RedisEngine(url, lease=0.6, silence=0.5, patience=25.0))
    await replica.start()
    await until(replica, lambda view: not view.recovering)
    await replica.store.node_up("n1", 1, "socket-1")
    assert await replica.store.reserve("s1") == Grant("n1", 1, replica.address)
    epoch = replica.store.epoch
    master.kill()
    assert await replica.store.reserve("s1") == Grant("n1", 1, replica.address)
    view = await until(replica, lambda view: "s1" in view.sessions and not view.recovering)
    assert replica.store.epoch != epoch
    assert view.sessions["s1"].owner == replica.engine.replica
    with redis.Redis(port=second.port) as client:
        assert client.info("replication")["role"] == "master"
    await replica.engine.close()
