"""Sentinels: the master is found by name, and after a failover all is told to the new one."""

import pytest

from engine.conftest import Replica, until
from engine.valkey import MISSING, program
from rtcbridge.drivers.engine import parse_engine_url
from rtcbridge.ports_engine import Grant

pytestmark = pytest.mark.slow


@pytest.mark.skipif(program() is None, reason=MISSING)
async def test_a_failover_loses_no_slot(tmp_path):
    pytest.importorskip("redis")
    from engine.sentinel import service
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    with service(tmp_path) as those:
        await _fail_over(those, RedisEngine)


async def _fail_over(service, RedisEngine):
    url = parse_engine_url(service.url)
    replica = Replica(RedisEngine(url, lease=0.6, silence=0.5, patience=25.0))
    await replica.start()
    await until(replica, lambda view: not view.recovering)
    await replica.store.node_up("n1", 1, "socket-1")
    assert await replica.store.reserve("s1") == Grant("n1", 1, replica.address)
    epoch = replica.store.epoch
    service.master.kill()
    assert await replica.store.reserve("s1") == Grant("n1", 1, replica.address)
    view = await until(replica, lambda view: "s1" in view.sessions and not view.recovering)
    assert replica.store.epoch != epoch
    assert view.sessions["s1"].owner == replica.engine.replica
    assert service.role(service.second) == "master"
    await replica.engine.close()
