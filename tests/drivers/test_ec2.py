"""The ec2 provider over HTTP, against moto's server behind a proxy that adds what EC2 does and moto does not."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from moto.server import ThreadedMotoServer

from drivers.contract import Contract, ListContract, launch
from drivers.ec2_cloud import IMAGE, REGION, Cloud, backend, run_by_hand, state, state_of, tags
from drivers.fault_proxy import Fault, FaultProxy
from rtcbridge import config
from rtcbridge.config import ConfigError, Ec2Options, Pool
from rtcbridge.drivers.providers import make_provider
from rtcbridge.drivers.providers.ec2 import Ec2Provider
from rtcbridge.drivers.providers.ec2_request import client_token, places, run_request, user_data
from rtcbridge.ports import Launch, Machine, ProviderError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def nothing_yet(moto) -> str:
    # All that these tests make; a reset of moto reads its lists of images again.
    backend().reservations.clear()
    backend().volumes.clear()
    return moto


@pytest.fixture
async def machines(nothing_yet, tmp_path, monkeypatch) -> AsyncIterator[Cloud]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0
    )  # seconds between attempts
    proxy = FaultProxy(nothing_yet, state_of)
    cloud = Cloud(tmp_path, proxy, await proxy.start())
    yield cloud
    for provider in cloud.made:
        await provider.close()
    await proxy.close()


class TestContract(Contract, ListContract):
    """What every provider does."""


@pytest.fixture
def proxy(machines) -> FaultProxy:
    return machines.proxy


async def refusal(operation, node="node-1") -> str:
    with pytest.raises(ProviderError) as caught:
        await operation(launch(node))
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    return text


# --- the first boot ---


@pytest.mark.parametrize("value", ["plain", "a b", "it's", '"$(touch pwned)`id`', "é;&|"])
def test_the_first_boot_starts_the_agent_with_what_it_must_know(tmp_path, value):
    options = Ec2Options(env_file=str(tmp_path / "agent env"), boot="env >booted; umask >umask")
    node = Launch("node-1", "pool", f"ws://bridge/{value}", "nk_secret")
    script = user_data(options, node)
    subprocess.run(["sh"], input=script, env={"PATH": os.environ["PATH"]}, check=True, cwd=tmp_path, text=True)
    written = [f"{name}={text}" for name, text in node.env().items()]
    assert (tmp_path / "agent env").read_text().splitlines() == written
    assert (tmp_path / "agent env").stat().st_mode & 0o777 == 0o600
    assert set(written) <= set((tmp_path / "booted").read_text().splitlines())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["agent env", "booted", "umask"]


async def test_a_machine_has_what_the_options_say(machines, proxy):
    (group,) = [each for each in backend().describe_security_groups() if each.name == "default"]
    options = {"security_groups": (group.id,), "key_name": "mine", "tags": ("team=video", "cost centre=7")}
    await machines.make(zones=(f"{REGION}b",), **options).create(launch())
    (machine,) = machines.instances()
    assert tags(machine) == {
        "Name": "node-1",
        "rtcbridge:node": "node-1",
        "rtcbridge:pool": "pool",
        "team": "video",
        "cost centre": "7",
    }
    assert (machine.instance_type, machine.placement.zone) == ("g6.xlarge", f"{REGION}b")
    assert machine.key_name == "mine"
    assert machines.wanted("SecurityGroupId.1") == [group.id]
    assert machines.wanted("MetadataOptions.HttpTokens") == ["required"]
    volumes = [tag["value"] for volume in backend().volumes.values() for tag in volume.get_tags()]
    assert "node-1" in volumes, "a disk that is left over can be found"


@pytest.mark.parametrize(("profile", "key"), [("nodes", "Name"), ("arn:aws:iam::1:instance-profile/nodes", "Arn")])
def test_a_role_goes_by_name_or_arn(profile, key):
    options = Ec2Options(image=IMAGE, instance_types=("g6.xlarge",), instance_profile=profile)
    assert run_request(options, launch(), places(options)[0], 0)["IamInstanceProfile"] == {key: profile}


async def test_a_launch_template_says_the_rest(machines):
    subnet = next(each for each in backend().subnets[f"{REGION}a"].values())
    template = backend().create_launch_template(
        "gpu", "", {"ImageId": IMAGE, "InstanceType": "g5.xlarge", "KeyName": "mine"}, {}
    )
    options = {"image": "", "instance_types": (), "subnets": (subnet.id,)}
    await machines.make(launch_template="gpu", **options).create(launch("a"))
    await machines.make(launch_template=template.id, launch_template_version="1", **options).create(launch("b"))
    for node in ("a", "b"):
        (machine,) = machines.instances(node)
        assert (machine.instance_type, machine.image_id, machine.subnet_id) == ("g5.xlarge", IMAGE, subnet.id)
        assert machines.running(node)
        assert "RTCBRIDGE_NODE_TOKEN" in (machines.folder / f"{node}.env").read_text()
    assert machines.wanted("MetadataOptions.HttpTokens") == ["", ""], "that is the template's"


# --- capacity and quota ---


async def test_the_next_zone_and_then_the_next_type_is_tried(machines, proxy):
    proxy.faults = [Fault("RunInstances", "InsufficientInstanceCapacity", 500, times=2)]
    types, zones = ("g6.xlarge", "g5.xlarge"), (f"{REGION}a", f"{REGION}b")
    await machines.make(instance_types=types, zones=zones).create(launch())
    assert machines.wanted("InstanceType") == ["g6.xlarge", "g6.xlarge", "g5.xlarge"]
    assert machines.wanted("Placement.AvailabilityZone") == [zones[0], zones[1], zones[0]]
    assert len(set(machines.wanted("ClientToken"))) == 3, "or the second would be refused as another request"
    (machine,) = machines.instances()
    assert machine.instance_type == "g5.xlarge"


async def test_a_quota_counts_over_all_zones(machines, proxy):
    proxy.faults = [Fault("RunInstances", "VcpuLimitExceeded", where={"InstanceType": "g6.xlarge"}, times=9)]
    types, zones = ("g6.xlarge", "g5.xlarge"), (f"{REGION}a", f"{REGION}b")
    await machines.make(instance_types=types, zones=zones).create(launch())
    assert machines.wanted("InstanceType") == types_tried(machines) == ["g6.xlarge", "g5.xlarge"]


def types_tried(machines) -> list[str]:
    return list(dict.fromkeys(machines.wanted("InstanceType")))


async def test_nothing_to_be_had_is_said_in_one_line(machines, proxy):
    proxy.faults = [
        Fault("RunInstances", "InsufficientInstanceCapacity", 500, where={"InstanceType": "g6.xlarge"}, times=9),
        Fault("RunInstances", "VcpuLimitExceeded", where={"InstanceType": "g5.xlarge"}, times=9),
    ]
    provider = machines.make(instance_types=("g6.xlarge", "g5.xlarge"), zones=(f"{REGION}a", f"{REGION}b"))
    assert await refusal(provider.create) == (
        "create: no machine is to be had: g6.xlarge in eu-central-1a: InsufficientInstanceCapacity; "
        "g6.xlarge in eu-central-1b: InsufficientInstanceCapacity; g5.xlarge in eu-central-1a: VcpuLimitExceeded"
    )
    assert proxy.count("RunInstances") == 3, "that EC2 answers with status 500 makes no attempt worth repeating"
    assert machines.alive == 0


async def test_a_start_without_capacity_is_refused(machines, proxy):
    provider = machines.make()
    await provider.create(launch())
    await provider.stop(launch())
    proxy.faults = [Fault("StartInstances", "InsufficientInstanceCapacity", 500, "none in this zone")]
    assert await refusal(provider.start) == "start: InsufficientInstanceCapacity: none in this zone"
    await provider.start(launch())
    assert machines.running() == 1


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


# --- what is refused, and how ---


async def test_a_refusal_shows_no_secret_and_no_end_of_letters(machines, proxy):
    message = "nk_secret_of_node-1 may not.\n Encoded authorization failure message: " + "A" * 5000
    proxy.faults = [Fault("RunInstances", "UnauthorizedOperation", 403, message)]
    assert await refusal(machines.make().create) == "create: UnauthorizedOperation: … may not."
    proxy.faults = [Fault("RunInstances", "InvalidParameterValue", message="x" * 5000)]
    assert len(await refusal(machines.make().create)) < 350


@pytest.mark.parametrize("missing", ["credentials", "region"])
async def test_what_aws_itself_must_be_told(machines, monkeypatch, missing):
    if missing == "credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        expected = "create: NoCredentialsError: Unable to locate credentials"
        provider = machines.make()
    else:
        expected = "create: NoRegionError: You must specify a region."
        provider = machines.make(region="")
    assert await refusal(provider.create) == expected


def test_a_token_is_the_same_each_time_and_no_other_s():
    all_places = places(Ec2Options(instance_types=("a", "b"), zones=("c", "d"), purchase="spot-then-on-demand"))
    assert [str(place) for place in all_places[:3]] == ["a in c as spot", "a in d as spot", "b in c as spot"]
    tokens = {client_token(node, place, life) for node in "xy" for place in all_places for life in range(3)}
    assert len(tokens) == 2 * 8 * 3
    assert client_token("x", all_places[0], 0) in tokens
    assert all(len(token) == 64 and token.isascii() for token in tokens), "EC2's longest"


def test_the_pool_names_its_provider():
    pool = Pool(provider="ec2", ec2=Ec2Options(launch_template="gpu", list_interval=7))
    provider = make_provider(pool)
    assert isinstance(provider, Ec2Provider)
    assert provider.list_interval == 7


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "rtcbridge.drivers.providers.ec2")
    monkeypatch.delitem(sys.modules, "rtcbridge.drivers.providers.ec2_api")
    monkeypatch.setitem(sys.modules, "aiobotocore.config", None)
    with pytest.raises(ConfigError, match=r"""^\[\[pools\]\] "gpu": provider ec2: .*'rtcbridge\[ec2\]'$"""):
        make_provider(Pool(name="gpu", provider="ec2"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "ec2.launch_template: expected its name or id, or else both image and instance_types"),
        ('image = "ami-1"', "ec2.launch_template: expected its name or id"),
        ('launch_template = "t"\nsubnets = ["s"]\nzones = ["z"]', "ec2.zones: expected none beside subnets"),
        ('tags = ["team"]', "ec2.tags: expected a list, each of it KEY=VALUE"),
        ('tags = ["rtcbridge:node=x"]', "ec2.tags: expected a list, each of it KEY=VALUE, the key your own"),
        ('endpoint = "ftp://x"', "ec2.endpoint: expected an http:// or https:// address"),
        ('purchase = "never"', "ec2.purchase: expected one of on-demand, spot, spot-then-on-demand"),
    ],
)
def test_a_mistake_in_the_configuration(tmp_path, text, expected):
    file = tmp_path / "bridge.toml"
    file.write_text(f'[[pools]]\nname = "gpu"\nprovider = "ec2"\n[pools.ec2]\n{text}\n')
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    assert f'[[pools]] "gpu": {expected}' in str(caught.value)
