"""What the ec2 provider asks EC2 for, where it looks for a machine, and what it says when it is refused."""

import os
import subprocess
import sys

import pytest

from drivers.ec2_cloud import IMAGE, REGION, Cloud, backend, refusal, tags
from drivers.fault_proxy import Fault, FaultProxy
from rtcbridge import config
from rtcbridge.config import ConfigError, Ec2Options, Pool
from rtcbridge.drivers.providers import make_provider
from rtcbridge.drivers.providers.ec2 import Ec2Provider
from rtcbridge.drivers.providers.ec2_request import client_token, places, run_request, user_data
from rtcbridge.ports import Launch
from rtcbridge.testing.provider_contract import launch

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(ec2_machines: Cloud) -> Cloud:
    return ec2_machines


@pytest.fixture
def proxy(machines: Cloud) -> FaultProxy:
    return machines.proxy


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
