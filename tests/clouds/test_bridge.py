"""A whole bridge with the configurations and scripts of examples/clouds, against fakes of the clouds' APIs."""

import asyncio
import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from clouds.fake_cloud import FakeCloud, Fault, serving
from clouds.fakes import BROKEN, BUSY, CLOUDS, FakeRunPod, FakeVast
from docs.pages import ROOT
from gateway.programs import Home, Program, home, until
from rtcbridge import config
from rtcbridge.testing import FakeClient

pytestmark = pytest.mark.slow
T = TypeVar("T")

EXAMPLES = ROOT / "examples" / "clouds"
FULL = "Maximum pool size reached. Cannot assign a new node."
# What a test cannot wait for, and where it runs; all else is as the examples have it.
HASTE = {
    "host": '"127.0.0.1"',
    "min_ready": "0",
    "max_nodes": "1",
    "idle_timeout": "0.5",
    "list_interval": "0.3",
    "stopped_timeout": "60",
}
MORE = "failed_timeout = 0.3\n[pools.command]"


def hastened(kind: type[FakeCloud], **other: str) -> str:
    """The example's configuration with other times."""
    text = (EXAMPLES / kind.toml).read_text().replace("/etc/rtcbridge/clouds", str(EXAMPLES))
    text = re.sub(r"^public_url.*\n", "", text, flags=re.MULTILINE).replace("[pools.command]", MORE)
    for key, value in {**HASTE, **other}.items():
        text = re.sub(rf"^({key} =) [^\s#]+", rf"\1 {value}", text, flags=re.MULTILINE)
    return f"{text}\n[nodes]\nheartbeat = 0.2\nmissed = 10\n"


class Site:
    """A cloud, and a bridge that has its nodes there."""

    def __init__(self, cloud: Any, place: Home) -> None:
        self.cloud = cloud
        self.place = place
        self.key = place.client_key()

    def serve(self) -> Program:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        more = {"CLOUD_PAUSE": "0.01", "NO_PROXY": "*", "TMPDIR": str(self.place.folder), "PATH": path}
        return self.place.serve(**self.cloud.options(), **more)

    def client(self) -> FakeClient:
        return FakeClient(self.place.url, self.key)

    def scripts(self, verb: str) -> list[int]:
        """The scripts of this test that run."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[-2:] == [str(EXAMPLES / self.cloud.script), verb]:
                with contextlib.suppress(psutil.Error):
                    if process.environ().get("TMPDIR") == str(self.place.folder):
                        found.append(process.pid)
        return found

    async def until(self, condition: Callable[[], T], what: str) -> T:
        return await asyncio.to_thread(until, condition, what)


@pytest.fixture(params=CLOUDS, ids=[each.script for each in CLOUDS])
def site(request: Any, tmp_path: Path) -> Iterator[Site]:
    with serving(request.param, tmp_path) as cloud, home(tmp_path, hastened(request.param)) as place:
        yield Site(cloud, place)


async def test_from_demand_to_ready_to_idle_to_stopped_and_back(site: Site) -> None:
    cloud = site.cloud
    bridge = site.serve()
    assert cloud.there() == []
    async with site.client() as first:
        await first.send("session_start")
        await first.expect("node_status", status="pending")
        await first.expect("node_status", status="waiting")
        await first.send("offer", sdp="one")
        assert (await first.expect("answer"))["sdp"] == "answer to one"
        (machine,) = cloud.up()
        (node,) = site.place.nodes()
        assert machine.name == f"rtcbridge-{node}"
    if cloud.keeps_disks:
        await site.until(lambda: site.place.nodes()[node].state == "stopped", "the node is stopped")
        assert [each.id for each in cloud.there()] == [machine.id]
        assert cloud.up() == []
    else:
        await site.until(lambda: not site.place.nodes(), "the node is forgotten: its machine has gone")
        assert cloud.there() == []

    async with site.client() as second:
        assert await second.start_session("two") == "answer to two"
        (again,) = cloud.up()
        assert (again.id == machine.id) == cloud.keeps_disks
        assert len(site.place.nodes()) == 1
    assert bridge.end() == 0


@pytest.mark.parametrize("site", [FakeRunPod], indirect=True)
async def test_long_stopped_it_is_destroyed(site: Site) -> None:
    site.place.file.write_text(hastened(type(site.cloud), stopped_timeout="0.3"))
    site.serve()
    async with site.client() as client:
        await client.start_session()
    await site.until(lambda: site.cloud.machines and not site.cloud.there(), "the machine is deleted")
    await site.until(lambda: not site.place.nodes(), "the node is forgotten")
    assert site.cloud.count(site.cloud.make) == 1


async def test_what_the_cloud_refuses_reaches_the_client_and_the_log(site: Site) -> None:
    cloud = site.cloud
    bridge = site.serve()
    async with site.client() as client:
        for reply, reason in (
            (cloud.no_capacity, "no|No|not"),
            (cloud.unauthorized(), r"answers 401 \(check the key\)"),
        ):
            cloud.faults = [Fault(cloud.make, reply, times=99)]
            since = len(bridge.lines)
            await client.send("offer", sdp="one")
            await client.expect("server_provisioning")
            await client.expect("error", message=FULL)
            refused = bridge.event("the provider refused", since=since, operation="create")
            assert re.match(rf"create: create command: exit status 1: .*({reason})", refused["reason"])
            await site.until(lambda: not site.place.nodes(), "the failed node is forgotten")
        cloud.faults = [Fault(cloud.make, BUSY, times=2), Fault(cloud.look, BROKEN, times=2)]
        await client.send("offer", sdp="two")
        assert (await client.expect("answer"))["sdp"] == "answer to two"
    assert len(cloud.there()) == len(cloud.machines) == 1


async def test_a_lost_answer_makes_no_second_machine(site: Site) -> None:
    cloud = site.cloud
    site.serve()
    cloud.faults = [Fault(cloud.make, drop="after")]
    async with site.client() as client:
        assert await client.start_session() == "answer to an offer"
    assert cloud.count(cloud.make) == len(cloud.machines) == 1


async def test_killed_while_the_machine_is_made(site: Site) -> None:
    """The script outlives the bridge. The next bridge's list has no machine yet, so it creates again, and waits."""
    cloud = site.cloud
    held = threading.Event()
    cloud.faults = [Fault(cloud.make, hold=held)]
    bridge = site.serve()
    client = site.client()
    await client.connect()
    await client.send("session_start")
    await site.until(lambda: cloud.count(cloud.make) == 1, "the cloud is asked for a machine")
    bridge.kill()
    assert await client.closed() == 1006
    (node,) = site.place.nodes()

    site.serve()
    async with site.client() as again:
        await again.send("session_start")
        await again.expect("node_status", status="pending")

        def waits() -> bool:
            waiting = {line.split()[5] for line in Path("/proc/locks").read_text().splitlines() if " -> " in line}
            return any(str(pid) in waiting for pid in site.scripts("create"))

        await site.until(waits, "the next bridge creates the node, too, and waits for the first to be done")
        held.set()
        await again.expect("node_status", status="waiting")
        await again.send("offer", sdp="one")
        await again.expect("answer")
    assert list(site.place.nodes()) == [node]
    assert cloud.count(cloud.make) == len(cloud.machines) == 1


@pytest.mark.parametrize("site", [FakeVast], indirect=True)
async def test_a_machine_that_no_node_stands_for_is_deleted(site: Site) -> None:
    """The bridge's store was lost, or is an old copy, and another bridge's machine is not its own."""
    cloud = site.cloud
    bridge = site.serve()
    async with site.client() as client:
        await client.start_session()
        (machine,) = cloud.there()
        id = machine.name.removeprefix("rtcbridge-")
        orphan = cloud._make(f"rtcbridge-{id[:-1]}{'0' if id[-1] != '0' else '1'}", machine.asked)
        other = cloud._make("rtcbridge-gpu-000000-00000000", machine.asked)
        await site.until(lambda: orphan not in cloud.there(), "the orphan is deleted")
        swept = bridge.event("a machine that no node stands for is destroyed")
        assert f"rtcbridge-{swept['node']}" == orphan.name
    assert other in cloud.there()


@pytest.mark.parametrize("kind", CLOUDS, ids=[each.toml for each in CLOUDS])
def test_the_example_is_a_configuration(kind: type[FakeCloud]) -> None:
    found = config.load(EXAMPLES / kind.toml, {})
    (pool,) = found.pools
    for verb in ("create", "start", "stop", "destroy", "list"):
        assert getattr(pool.command, verb) == f"/etc/rtcbridge/clouds/{kind.script} {verb}"
    longest = 240  # what a script takes at most, by its own word
    assert pool.command.timeout > longest
    assert (
        min(pool.provision_timeout, pool.start_timeout, pool.stop_timeout, pool.destroy_timeout) > pool.command.timeout
    )
