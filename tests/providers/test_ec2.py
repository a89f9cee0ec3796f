"""A whole bridge whose nodes are EC2 instances of moto's, with real agents in place of the machines that moto lacks."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from docs.pages import ROOT
from drivers.ec2_cloud import IMAGE, REGION, backend, state_of
from drivers.fault_proxy import Fault, FaultProxy
from gateway.programs import home
from providers.ec2_hosts import Ec2Hosts
from providers.site import Life, Site, config

pytestmark = pytest.mark.slow

# Enabled for later boots, and begun at once, as `systemctl enable --now` does.
UNIT = f"set -a; . ./agent.env; PYTHONPATH={ROOT}/src; exec {sys.executable} -m rtcbridge node passthrough"
BOOT = f"echo {json.dumps(UNIT)} >unit; . ./unit"


class Ec2Site(Site):
    """Also has the proxy."""

    proxy: FaultProxy
    hosts: Ec2Hosts


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
async def site(moto: str, tmp_path: Path) -> AsyncIterator[Ec2Site]:
    backend().reservations.clear()
    backend().volumes.clear()
    proxy, hosts = FaultProxy(moto, state_of), Ec2Hosts(tmp_path)
    options = f"""
[pools.ec2]
region = "{REGION}"
endpoint = "{await proxy.start()}"
image = "{IMAGE}"
instance_types = ["g6.xlarge", "g5.xlarge"]
env_file = "agent.env"
boot = '''{BOOT}'''
list_interval = 0.5
"""
    keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "very secret", "NO_PROXY": "*"}
    nowhere = str(tmp_path / "none")
    try:
        with home(tmp_path, config('provider = "ec2"', options)) as place:
            site = Ec2Site(place, hosts, **keys, AWS_CONFIG_FILE=nowhere, AWS_SHARED_CREDENTIALS_FILE=nowhere)
            site.proxy, site.hosts = proxy, hosts
            yield site
    finally:
        hosts.close()
        await proxy.close()


class TestEc2(Life):
    """On a cloud that keeps to its documentation."""


async def test_on_a_slow_cloud_that_loses_answers(site: Ec2Site) -> None:
    """The one type is not to be had, the first answer is lost, lists lag behind, and states take their time."""
    proxy = site.proxy
    proxy.unseen, proxy.lag = 3, 2
    proxy.faults = [
        Fault("RunInstances", "InsufficientInstanceCapacity", 500, where={"InstanceType": "g6.xlarge"}, times=9),
        Fault("RunInstances", drop="after"),
        Fault("StartInstances", drop="after"),
        Fault("TerminateInstances", "RequestLimitExceeded", 503),
    ]
    bridge = site.serve()
    async with site.watching():
        (node,) = site.machines.there()
    await site.in_state(node, "stopped")
    async with site.watching():
        assert site.machines.there() == [node]
    await site.in_state(node, "stopped")
    assert bridge.end() == 0
    Life.shorten(site.place)
    site.serve()
    await site.in_state(node, "gone")
    assert site.machines.there() == []
    assert list(site.hosts.boots.values()) == [2]
    assert not any(fault.times for fault in proxy.faults[1:])
