"""The ec2 provider over HTTP, against moto's server behind a proxy that adds what EC2 does and moto does not."""

import asyncio

import httpx
import pytest

from drivers.ec2_cloud import REGION, Cloud, backend, refusal, run_by_hand, state, tags
from drivers.fault_proxy import Fault, FaultProxy
from rtcbridge.drivers.providers.ec2 import Ec2Provider
from rtcbridge.ports import Machine, ProviderError
from rtcbridge.testing.provider_contract import Contract, ListContract, launch

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(ec2_machines: Cloud) -> Cloud:
    return ec2_machines


@pytest.fixture
def proxy(machines: Cloud) -> FaultProxy:
    return machines.proxy


class TestContract(Contract, ListContract):
    """What every provider does."""


# --- throttling and lost replies ---


@pytest.mark.parametrize("action", ["DescribeInstances", "RunInstances"])
async def test_a_throttled_call_is_repeated(machines, proxy, action):
    proxy.faults = [Fault(action, "RequestLimitExceeded", 503)]
    await machines.make().create(launch())
    assert machines.running() == 1
    assert proxy.faults[0].times == 0


async def test_throttling_without_end_is_told(machines, proxy):
    proxy.faults = [Fault("DescribeInstances", "RequestLimitExceeded", 503, "Request limit exceeded.", times=99)]
    provider = machines.make()
    assert await refusal(provider.stop) == "stop: RequestLimitExceeded: Request limit exceeded."
    with pytest.raises(ProviderError, match=r"^list: RequestLimitExceeded"):
        await provider.list()
    assert proxy.count("DescribeInstances") == 8


@pytest.mark.parametrize("drop", ["before", "after"])
async def test_a_lost_reply_makes_no_second_machine(machines, proxy, drop):
    proxy.faults = [Fault("RunInstances", drop=drop)]
    await machines.make().create(launch())
    assert proxy.count("RunInstances") == 2
    assert len(set(machines.wanted("ClientToken"))) == 1
    assert machines.alive == 1


async def test_all_replies_lost_and_the_bridge_as_well(machines, proxy):
    """EC2 made the machine, its lists do not show it yet, and who made it forgot all about it."""
    proxy.faults = [Fault("RunInstances", drop="after", times=4)]
    proxy.unseen = 2
    assert "create: " in await refusal(machines.make().create)
    assert machines.alive == 1
    await machines.make().create(launch())
    assert machines.alive == 1
    assert proxy.count("RunInstances") == 5
    await machines.make().destroy(launch())  # nothing to be seen yet
    again = machines.make()
    assert await again.list() == {"node-1": Machine.RUNNING}, "it is swept when it shows"
    await again.destroy(launch())
    assert machines.alive == 0


@pytest.mark.parametrize(
    ("operation", "action"), [("start", "StartInstances"), ("stop", "StopInstances"), ("destroy", "TerminateInstances")]
)
async def test_other_lost_replies_do_no_harm(machines, proxy, operation, action):
    provider = machines.make()
    await provider.create(launch())
    if operation == "start":
        await provider.stop(launch())
    proxy.faults = [Fault(action, drop="after")]
    await getattr(provider, operation)(launch())
    assert proxy.count(action) == 2
    assert machines.running() == (operation == "start")


async def test_an_address_where_nobody_listens(machines):
    provider = machines.make(endpoint="http://127.0.0.1:1")
    assert (await refusal(provider.create)).startswith("create: EndpointConnectionError: Could not connect")


async def test_an_answer_that_does_not_come_is_waited_for_within_bounds(machines):
    released = asyncio.Event()

    async def silent(reader, writer):
        await released.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider = machines.make(endpoint=f"http://127.0.0.1:{port}", timeout=0.1)
        async with asyncio.timeout(5):
            assert "Timeout" in await refusal(provider.stop)
        released.set()


# --- states that take their time ---


async def test_slow_changes_are_waited_for(machines, proxy):
    proxy.lag = 4
    provider = machines.make()
    await provider.create(launch())
    assert await provider.list() == {"node-1": Machine.COMING}
    await provider.stop(launch())  # not before it runs: EC2 refuses to stop a pending machine
    assert await provider.list() == {"node-1": Machine.STOPPING}
    assert machines.running() == 0
    await provider.start(launch())  # not before it has stopped
    assert machines.running() == 1
    assert proxy.count("StartInstances") == proxy.count("StopInstances") == 1
    await provider.destroy(launch())  # allowed in any state
    assert await provider.list() == {}


async def test_a_state_that_changed_since_the_look_is_looked_at_again(machines, proxy):
    provider = machines.make()
    await provider.create(launch())
    proxy.faults = [Fault("StopInstances", "IncorrectInstanceState"), Fault("StartInstances", "IncorrectInstanceState")]
    await provider.stop(launch())
    await provider.start(launch())
    assert proxy.count("StopInstances") == proxy.count("StartInstances") == 2
    assert machines.running() == 1


async def test_a_state_that_never_changes_is_told(machines, proxy, monkeypatch):
    monkeypatch.setattr("rtcbridge.drivers.providers.ec2._PATIENCE", 0.1)
    proxy.lag = 10_000
    provider = machines.make()
    await provider.create(launch())
    assert await refusal(provider.stop) == "stop: the machine has not changed its state within 0.1 s"


async def test_a_new_machine_is_listed_before_ec2_lists_it(machines, proxy):
    proxy.unseen = 3
    provider = machines.make()
    await provider.create(launch())
    assert await provider.list() == {"node-1": Machine.COMING}
    assert await machines.make().list() == {}
    await provider.stop(launch())
    assert await provider.list() == {"node-1": Machine.STOPPED}


async def test_a_list_that_lags_behind_a_start_or_a_stop_is_not_believed(machines, monkeypatch):
    """EC2 answers from before the change, for some time."""
    provider = machines.make()
    await provider.create(launch())
    (instance,) = machines.instances()
    await provider.stop(launch())
    backend().start_instances([instance.id])
    assert await provider.list() == {"node-1": Machine.STOPPING}
    backend().stop_instances([instance.id])
    await provider.start(launch())
    backend().stop_instances([instance.id])
    assert await provider.list() == {"node-1": Machine.COMING}
    monkeypatch.setattr("rtcbridge.drivers.providers.ec2._UNSEEN", 0.0)
    assert await provider.list() == {"node-1": Machine.STOPPED}, "it was not EC2's list, but somebody's hand"


async def test_a_machine_that_is_not_seen_yet_is_terminated_all_the_same(machines, proxy):
    proxy.unseen = 9
    provider = machines.make()
    await provider.create(launch())
    await provider.destroy(launch())
    assert machines.alive == 0
    assert await provider.list() == {}


async def test_a_machine_ended_by_hand_is_not_listed(machines):
    provider = machines.make()
    await provider.create(launch())
    backend().terminate_instances([machines.instances()[0].id])
    assert await provider.list() == {}
    assert "no machine" in await refusal(provider.start)


# --- whose machines ---


async def test_a_pool_sees_only_its_own(machines):
    provider = machines.make()
    await provider.create(launch())
    other = Ec2Provider("pool2", machines.options())
    machines.made.append(other)
    assert await other.list() == {}
    run_by_hand({"rtcbridge:pool": "pool"})
    assert await provider.list() == {"node-1": Machine.RUNNING}, "one without a node is somebody else's"
    assert machines.alive == 2


async def test_the_second_machine_of_a_node_is_ended(machines):
    provider = machines.make()
    await provider.create(launch())
    (first,) = machines.instances()
    run_by_hand(tags(first))
    assert len(machines.instances()) == 2
    assert await provider.list() == {"node-1": Machine.RUNNING}
    assert sorted(state(each) for each in machines.instances()) == ["running", "terminated"]


async def test_a_node_has_only_so_many_lives(machines):
    provider = machines.make()
    for _ in range(8):
        await provider.create(launch())
        await provider.destroy(launch())
    assert "has had 8 machines" in await refusal(provider.create)
    await provider.create(launch("node-2"))


async def test_another_request_for_the_same_node_is_refused(machines, proxy):
    """The image was changed in the configuration while an answer was lost."""
    proxy.unseen = 1
    await machines.make().create(launch())
    assert "IdempotentParameterMismatch" in await refusal(machines.make(image="ami-1234abcd").create)
    assert machines.alive == 1


# --- spot ---


async def test_a_spot_machine_can_be_stopped_and_leaves_nothing(machines, proxy):
    provider = machines.make(purchase="spot")
    await provider.create(launch())
    assert machines.wanted("InstanceMarketOptions.SpotOptions.SpotInstanceType") == ["persistent"]
    await provider.stop(launch())
    assert await provider.list() == {"node-1": Machine.STOPPED}
    await provider.start(launch())
    assert machines.running() == 1
    await machines.make(purchase="spot").destroy(launch())
    assert machines.alive == 0, "a request that lives on brings another machine"
    assert await provider.list() == {}


async def test_a_notice_of_an_interruption(machines, proxy):
    provider = machines.make(purchase="spot")
    await provider.create(launch("a"))
    await provider.create(launch("b"))
    assert await provider.list() == {"a": Machine.RUNNING, "b": Machine.RUNNING}
    spot = next(each for each in proxy.spot.values() if each.tags["rtcbridge:node"] == "b")
    spot.status = "marked-for-stop"
    assert await provider.list() == {"a": Machine.RUNNING, "b": Machine.LEAVING}
    backend().stop_instances([spot.instance])
    assert await provider.list() == {"a": Machine.RUNNING, "b": Machine.STOPPED}


async def test_what_a_spot_request_brings_by_itself_is_found(machines, proxy):
    """Somebody ended the machine and not the request; its new machine bears no tag."""
    provider = machines.make(purchase="spot")
    await provider.create(launch())
    call = {"InstanceId.1": machines.instances()[0].id, "Version": "2016-11-15"}
    scope = f"AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0"
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": scope}) as client:
        await client.post(machines.url, data={"Action": "TerminateInstances", **call})
    assert machines.alive == 1
    assert not machines.running()
    assert await provider.list() == {"node-1": Machine.RUNNING}
    await provider.destroy(launch())
    assert machines.alive == 0


async def test_what_spot_has_not_is_bought(machines, proxy):
    market = {"InstanceMarketOptions.MarketType": "spot"}
    proxy.faults = [Fault("RunInstances", "MaxSpotInstanceCountExceeded", where=market, times=9)]
    provider = machines.make(purchase="spot-then-on-demand", zones=(f"{REGION}a", f"{REGION}b"))
    await provider.create(launch())
    assert machines.wanted("InstanceMarketOptions.MarketType") == ["spot", ""]
    assert not proxy.spot
    await provider.destroy(launch())
    assert machines.alive == 0
