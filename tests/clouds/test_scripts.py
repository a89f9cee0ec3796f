"""The scripts of examples/clouds under the real provider, against fakes of the clouds' APIs, with all that may fail."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clouds.fake_cloud import KEY, FakeCloud, Fault, serving
from clouds.fakes import BROKEN, BUSY, CLOUDS, FakeLambda, FakeRunPod, FakeVast
from docs.pages import ROOT
from rtcbridge.config import CommandOptions
from rtcbridge.drivers.providers import CommandProvider
from rtcbridge.ports import Launch, Machine, ProviderError

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples" / "clouds"
NODE = Launch("gpu-abcdef-00000001", "gpu", "ws://127.0.0.1:9/node", "nk_node_secret")
BARE = {"RunPod": "GET /pods", "Vast.ai": "GET /instances/", "Lambda": "GET /instances"}


@pytest.fixture(params=CLOUDS, ids=[each.script for each in CLOUDS])
def cloud(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from ready(request.param, tmp_path, monkeypatch)


def ready(kind: type[FakeCloud], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloud]:
    with serving(kind, folder) as cloud:
        monkeypatch.setattr(cloud, "image", lambda _machine: (["sleep", "600"], {"PATH": os.environ["PATH"]}))
        for name, value in {**cloud.options(), "CLOUD_PAUSE": "0.001", "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # its python3
        yield cloud


def provider(cloud: FakeCloud) -> CommandProvider:
    script = EXAMPLES / cloud.script
    return CommandProvider(
        CommandOptions(**{verb: f"{script} {verb}" for verb in ("create", "start", "stop", "destroy", "list")})
    )


async def refusal(operation: Callable[[Launch], Any]) -> str:
    with pytest.raises(ProviderError) as caught:
        await operation(NODE)
    text = str(caught.value)
    assert "\n" not in text
    assert KEY not in text
    assert "Traceback" not in text
    return text


async def test_a_machine_s_life(cloud: Any) -> None:
    machines = provider(cloud)
    assert await machines.list() == {}
    for _ in range(2):
        await machines.create(NODE)
        (machine,) = cloud.there()
        assert machine.name == f"rtcbridge-{NODE.node}"
    assert await provider(cloud).list() == {NODE.node: Machine.RUNNING}
    for _ in range(2):
        await machines.stop(NODE)
    assert await provider(cloud).list() == ({NODE.node: Machine.STOPPED} if cloud.keeps_disks else {})
    for _ in range(2):
        await machines.start(NODE)
        assert len(cloud.up()) == len(cloud.there()) == 1
    await machines.stop(NODE)
    await machines.create(NODE)
    assert len(cloud.up()) == len(cloud.there()) == 1
    for _ in range(2):
        await machines.destroy(NODE)
        assert cloud.there() == []
    assert await provider(cloud).list() == {}
    assert len(cloud.machines) == (1 if cloud.keeps_disks else 3)


async def test_what_is_not_there_is_not_started(cloud: Any) -> None:
    if cloud.keeps_disks:
        for operation in (provider(cloud).start, provider(cloud).stop):
            assert (await refusal(operation)).endswith(f"exit status 1: there is no machine rtcbridge-{NODE.node}")
    else:
        await provider(cloud).stop(NODE)
    assert cloud.there() == []


async def test_no_capacity_is_said_in_one_line(cloud: Any) -> None:
    cloud.faults = [Fault(cloud.make, cloud.no_capacity, times=99)]
    text = await refusal(provider(cloud).create)
    assert {
        FakeRunPod: "RunPod answers 500 to POST /pods: create pod: There are no longer any instances available",
        FakeVast: "Vast.ai has no free offer of RTX 4090 for 0.6 $/h or less",
        FakeLambda: "Lambda has no capacity for gpu_1x_a10 in any region",
    }[type(cloud)] in text
    assert cloud.there() == []


async def test_a_key_that_is_not_accepted(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in cloud.options() if name.endswith("_API_KEY"))
    monkeypatch.setenv(name, "another")
    for operation in (provider(cloud).create, provider(cloud).destroy):
        assert " answers 401 (check the key) to GET /" in await refusal(operation)
    with pytest.raises(ProviderError, match=r"^list command: exit status 1: \S+ answers 401 \(check the key\)"):
        await provider(cloud).list()
    assert len(cloud.calls) == 3, "it is not asked for again"
    monkeypatch.setenv(name, "")
    assert (await refusal(provider(cloud).create)).endswith(f"{name} is not set in the bridge's environment")


async def test_calls_that_came_too_early_are_repeated(cloud: Any) -> None:
    cloud.faults = [Fault(call, BUSY, times=2) for call in {cloud.look, cloud.make, cloud.begin, cloud.halt, cloud.end}]
    machines = provider(cloud)
    await machines.create(NODE)
    await machines.stop(NODE)
    await machines.start(NODE)
    assert len(cloud.up()) == 1
    await machines.destroy(NODE)
    assert cloud.there() == []
    assert not any(fault.times for fault in cloud.faults)
    assert len(cloud.machines) == (1 if cloud.keeps_disks else 2)


async def test_too_early_without_end_is_told(cloud: Any) -> None:
    cloud.faults = [Fault(cloud.look, BUSY, times=99)]
    assert " answers 429 to GET /" in await refusal(provider(cloud).create)
    assert len(cloud.calls) == 6


LIFE = ("create", "stop", "start", "destroy")


@pytest.mark.parametrize("drop", ["before", "after", "broken"])
@pytest.mark.parametrize("verb", ["look", *LIFE])
async def test_a_lost_answer_leads_to_no_second_machine(cloud: Any, verb: str, drop: str) -> None:
    machines = provider(cloud)
    for before in LIFE[: LIFE.index(verb)] if verb in ("stop", "start") else ["create"] * (verb == "destroy"):
        await getattr(machines, before)(NODE)
    calls = {"look": cloud.look, "create": cloud.make, "stop": cloud.halt, "start": cloud.begin, "destroy": cloud.end}
    fault = Fault(calls[verb], BROKEN) if drop == "broken" else Fault(calls[verb], drop=drop)
    cloud.faults = [fault]
    made = len(cloud.machines)
    operation = getattr(machines, "create" if verb == "look" else verb)
    try:
        await operation(NODE)
        refused = False
    except ProviderError:
        refused = True
        assert len(cloud.there()) <= 1
        await operation(NODE)  # as the bridge does, sooner or later
    assert not refused or (verb != "look" and drop != "after"), "what was done, or can be asked again, is no failure"
    assert fault.times == 0
    assert len(cloud.there()) == (verb in ("look", "create", "start") or (verb == "stop" and cloud.keeps_disks))
    assert len(cloud.machines) - made == (verb in ("look", "create") or (verb == "start" and not cloud.keeps_disks))


async def test_a_start_that_the_cloud_refuses_leaves_nothing_running(cloud: Any) -> None:
    machines = provider(cloud)
    await machines.create(NODE)
    await machines.stop(NODE)
    cloud.faults = [Fault(cloud.begin, cloud.no_start)]
    if cloud.keeps_disks:
        text = await refusal(machines.start)
        assert "not enough free GPUs" in text or "resources_unavailable" in text
        assert cloud.up() == []
    else:  # another region has one
        cloud.faults = [Fault(cloud.begin, cloud.no_start, times=2)]
        await refusal(machines.start)
        assert cloud.there() == []
    await machines.start(NODE)
    assert len(cloud.up()) == 1


async def test_a_second_machine_of_a_node_is_deleted(cloud: Any) -> None:
    machines = provider(cloud)
    await machines.create(NODE)
    (first,) = cloud.there()
    cloud._make(first.name, first.asked)
    await machines.create(NODE)
    assert len(cloud.there()) == 1
    cloud._make(first.name, first.asked)
    await machines.destroy(NODE)
    assert cloud.there() == []


@pytest.mark.parametrize("answer", ["<html>a proxy's page</html>", {"unexpected": True}, [1], "null"])
async def test_an_answer_of_another_kind_is_one_line(cloud: Any, answer: Any) -> None:
    cloud.faults = [Fault(cloud.look, (200, answer), times=99)]
    text = await refusal(provider(cloud).create)
    assert "no JSON" in text or "another shape than documented" in text
    assert cloud.machines == {}


async def test_a_redirect_takes_the_key_nowhere(cloud: Any) -> None:
    cloud.faults = [Fault(cloud.look, (302, ""))]
    assert " answers 302 to GET /" in await refusal(provider(cloud).destroy)
    assert len(cloud.calls) == 1


def test_the_tests_cover_every_script() -> None:
    scripts = {file.name for file in EXAMPLES.glob("*.py") if os.access(file, os.X_OK)}
    assert scripts == {kind.script for kind in CLOUDS}
