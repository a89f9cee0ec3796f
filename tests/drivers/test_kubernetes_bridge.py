"""`rtcbridge serve` with a pool of Kubernetes: the fake cluster runs a node's process for each Pod."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.kube_api import KubeApi
from drivers.kube_cluster import Kubelet, kubeconfig
from gateway.programs import RTCBRIDGE, Home, until
from rtcbridge.testing import FakeClient

pytestmark = pytest.mark.slow

FAKE_NODE = Path(__file__).parents[1] / "gateway" / "fake_node.py"
CONFIG = """
[nodes]
heartbeat = 0.2
missed = 5

[[pools]]
name = "gpu"
provider = "kubernetes"
max_nodes = 1
idle_timeout = 0.5
stopped_timeout = {stopped_timeout}

[pools.kubernetes]
kubeconfig = "kubeconfig"
image = "registry.example/model:1"
command = {command}
gpus = 1
list_interval = 0.5
stop_grace = 5
"""


class Cluster:
    """A bridge and the cluster of its pool."""

    def __init__(self, home: Home, api: KubeApi, kubelet: Kubelet) -> None:
        self.home, self.api, self.kubelet = home, api, kubelet

    def client(self) -> FakeClient:
        return FakeClient(self.home.url, self.home.client_key())

    def kinds(self) -> list[str]:
        return sorted(kind for kind, _ in self.api.objects)

    def pod(self) -> str:
        (name,) = self.api.all("pods")
        return name


@asynccontextmanager
async def cluster(
    folder: Path, *, stopped_timeout: float = 3600, command: tuple[str, ...] = (sys.executable, str(FAKE_NODE))
) -> AsyncIterator[Cluster]:
    api = KubeApi()
    kubeconfig(folder / "kubeconfig", await api.start())
    kubelet = Kubelet(api, folder)
    home = Home(folder, CONFIG.format(stopped_timeout=stopped_timeout, command=json.dumps(command)))
    try:
        yield Cluster(home, api, kubelet)
    finally:
        await asyncio.to_thread(home.dispose)
        await kubelet.close()
        await api.close()


async def seen(condition: Callable[[], object], what: str) -> None:
    """Wait for what the bridge does to the cluster, which lives in this loop."""
    await asyncio.to_thread(until, condition, what)


async def test_from_demand_to_ready_to_idle_to_a_start_to_the_end(tmp_path):
    async with cluster(tmp_path, stopped_timeout=2) as it:
        bridge = await asyncio.to_thread(it.home.serve)
        assert it.api.objects == {}
        async with it.client() as first:
            await first.send("session_start")
            await first.expect("node_status", status="pending")
            await first.expect("node_status", status="waiting")
            await first.send("offer", sdp="one")
            assert (await first.expect("answer"))["sdp"] == "answer to one"
            name = it.pod()
            (claim,) = it.api.all("persistentvolumeclaims").values()
            assert it.kinds() == ["persistentvolumeclaims", "pods", "secrets"]
        await seen(lambda: it.kinds() == ["persistentvolumeclaims", "secrets"], "the Pod is deleted, the claim stays")

        async with it.client() as second:
            await second.send("offer", sdp="two")
            await second.expect("server_provisioning")
            assert (await second.expect("answer"))["sdp"] == "answer to two"
            assert it.pod() == name
            (again,) = it.api.all("persistentvolumeclaims").values()
            assert again["metadata"]["uid"] == claim["metadata"]["uid"]

        await seen(lambda: not it.api.objects, "all is deleted")
        await seen(lambda: not it.home.nodes(), "the node is forgotten")
        assert it.kubelet.starts == {name: 2}
        assert await asyncio.to_thread(bridge.end) == 0
        assert it.api.watches == 0


async def test_a_bridge_that_was_killed_finds_its_pods_and_removes_what_nobody_stands_for(tmp_path):
    async with cluster(tmp_path) as it:
        bridge = await asyncio.to_thread(it.home.serve)
        async with it.client() as first:
            await first.start_session()
            name = it.pod()
            await asyncio.to_thread(bridge.kill)
        again = await asyncio.to_thread(it.home.serve)
        await asyncio.to_thread(again.event, "node registered", epoch=2)
        assert it.kubelet.starts == {name: 1}
        await asyncio.to_thread(again.kill)

        with sqlite3.connect(it.home.store) as store:
            store.execute("DELETE FROM nodes")
        third = await asyncio.to_thread(it.home.serve)
        await asyncio.to_thread(third.event, "a machine that no node stands for is destroyed")
        await seen(lambda: not it.api.objects, "what was left is deleted")


async def test_a_pod_that_is_taken_away_is_missed(tmp_path):
    async with cluster(tmp_path) as it:
        bridge = await asyncio.to_thread(it.home.serve)
        async with it.client() as client:
            await client.start_session()
            it.kubelet.evict(it.pod())
            await client.expect("error", message="The node was lost.")
            await asyncio.to_thread(bridge.event, "a Pod does not get on")


async def test_a_real_agent_in_a_pod(tmp_path):
    command = (*RTCBRIDGE, "node", "passthrough")
    async with cluster(tmp_path, command=command) as it:
        bridge = await asyncio.to_thread(it.home.serve)
        async with it.client() as client:
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
        (node,) = await asyncio.to_thread(it.home.nodes)
        registered = await asyncio.to_thread(bridge.event, "node registered")
        assert registered["node"] == node
        await seen(lambda: it.kinds() == ["persistentvolumeclaims", "secrets"], "the idle node is stopped")
