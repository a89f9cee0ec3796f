"""Processes that reserve at once: an oracle in shared memory counts what the engine gives."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.conftest import POOL, Replica, flush
from engine.reserving import SLOT
from rtcbridge.drivers.engine import parse_engine_url

pytestmark = pytest.mark.slow
TESTS = Path(__file__).resolve().parents[1]
NODES, CAPACITY, COUNT = 3, 2, 1500


async def reserve_at_once(server, folder, processes, believed=CAPACITY):
    """Let processes reserve; return what each did, was granted, and saw over-assigned; and the sessions left.

    Args:
        server: a real one.
        folder: for the oracle's file.
        processes: how many.
        believed: the capacity of a node by the oracle.
    """
    from rtcbridge.drivers.engine.redis_engine import RedisEngine

    flush(server)
    replica = Replica(RedisEngine(parse_engine_url(server.url), lease=10.0))
    await replica.start()
    await replica.engine.pipe.call("HDEL", f"{replica.store.prefix}meta", "recover")
    for node in range(NODES):
        await replica.store.node_up(str(node), CAPACITY, f"socket-{node}")
    oracle = folder / "oracle"
    oracle.write_bytes(bytes(processes * NODES * SLOT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])}
    command = [sys.executable, "-m", "engine.reserving", str(server.port), str(oracle), str(processes)]
    runs = [
        subprocess.Popen(  # noqa: ASYNC220
            [*command, str(NODES), str(believed), str(number), str(COUNT), "8"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for number in range(processes)
    ]
    outputs = await asyncio.gather(*[asyncio.to_thread(run.communicate, None, 60) for run in runs])
    assert [run.returncode for run in runs] == [0] * processes, outputs[0][1].decode()
    left = (await replica.engine.store(POOL).look()).sessions
    await replica.engine.close()
    return [tuple(map(int, output.split())) for output, _ in outputs], left


@pytest.mark.parametrize("processes", [2, 4])
async def test_no_slot_is_given_twice(shared_server, tmp_path, processes):
    pytest.importorskip("redis")
    figures, left = await reserve_at_once(shared_server, tmp_path, processes)
    assert sum(done for done, _, _ in figures) >= COUNT * processes
    assert all(granted > 0 for _, granted, _ in figures)
    assert [over for _, _, over in figures] == [0] * processes
    assert not left


async def test_the_oracle_can_tell(shared_server, tmp_path):
    """It believes that a node has one slot less than it has: then it counts what it must count otherwise."""
    pytest.importorskip("redis")
    figures, _ = await reserve_at_once(shared_server, tmp_path, 2, CAPACITY - 1)
    assert sum(over for _, _, over in figures) > 0
