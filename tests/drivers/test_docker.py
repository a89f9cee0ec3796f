"""The docker provider against real containers: Podman's Docker API, in a store of its own, with runc.

The image is busybox alone, and is imported from a folder: no registry is asked. What only Docker's own daemon
does (GPUs) is checked in the request.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest

from drivers.podman import IMAGE, Podman, needs_podman
from rtcbridge.config import DockerOptions
from rtcbridge.drivers.providers.docker import DockerProvider, container_config
from rtcbridge.ports import Machine, ProviderError
from rtcbridge.testing.provider_contract import Contract, ListContract, launch, until

# It has a FIFO open for as long as it runs, which the test can see without asking the daemon.
MACHINE = """
env > "/shared/$RTCBRIDGE_NODE.env.new"
test -p "/shared/$RTCBRIDGE_NODE.fifo" || mkfifo "/shared/$RTCBRIDGE_NODE.fifo"
exec 9<> "/shared/$RTCBRIDGE_NODE.fifo"
echo boot >> "/shared/$RTCBRIDGE_NODE.boots"
mv "/shared/$RTCBRIDGE_NODE.env.new" "/shared/$RTCBRIDGE_NODE.env"
trap 'exit 0' TERM
while :; do sleep 0.05; done
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    daemon = Podman(tmp_path_factory.mktemp("podman"))
    yield daemon
    daemon.close()


class Containers:
    """`Machines` as containers that share one folder."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman = podman
        self.folder = folder
        (folder / "machine").write_text(MACHINE)
        self.made: list[DockerProvider] = []

    def make(self, pool="pool", **options) -> DockerProvider:
        given = {
            "url": self.podman.url,
            "image": IMAGE,
            "command": ("sh", "/shared/machine"),
            "volumes": (f"{self.folder}:/shared",),
            "network": "none",
            "stop_grace": 5,
        }
        self.made.append(DockerProvider(pool, DockerOptions(**given | options)))
        return self.made[-1]

    def boots(self, node="node-1") -> int:
        file = self.folder / f"{node}.boots"
        return file.read_text().count("boot\n") if file.exists() else 0

    def running(self, node="node-1") -> int:
        """1 while a process has the node's FIFO open for reading: containers share the kernel."""
        if not (self.folder / f"{node}.env").exists():
            return 0
        try:
            os.close(os.open(self.folder / f"{node}.fifo", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return 0
        return 1


@pytest.fixture
async def machines(podman, tmp_path):
    containers = Containers(podman, tmp_path)
    yield containers
    for provider in containers.made:
        await provider.close()
    podman.command("rm", "--all", "--force", "--time=0")


@pytest.mark.slow
@needs_podman
class TestDocker(Contract, ListContract):
    async def test_stopping_keeps_the_disk_and_destroying_does_not(self, machines):
        (machines.folder / "machine").write_text(
            "test -e /kept && echo kept >> /shared/found; echo > /kept\n" + MACHINE
        )
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        await provider.stop(launch())
        await provider.start(launch())
        await until(lambda: machines.boots() == 2)
        assert (machines.folder / "found").read_text() == "kept\n"
        await provider.destroy(launch())
        await provider.create(launch())
        await until(lambda: machines.boots() == 3)
        assert (machines.folder / "found").read_text() == "kept\n"

    async def test_the_options_reach_the_container(self, machines, monkeypatch):
        monkeypatch.setenv("OWN_VALUE", "of the bridge")
        script = "df -k /dev/shm > /shared/shm; (echo > /styles/x) 2>/dev/null && echo writable >> /shared/shm\n"
        (machines.folder / "machine").write_text(script + MACHINE)
        volumes = (f"{machines.folder}:/shared", f"{machines.folder}:/styles:ro")
        provider = machines.make(env=("SIZE=small = 3", "OWN_VALUE"), volumes=volumes, shm_size=32 << 20)
        await provider.create(launch())
        await until(machines.running)
        environment = (machines.folder / "node-1.env").read_text().splitlines()
        assert {"SIZE=small = 3", "OWN_VALUE=of the bridge"} <= set(environment)
        shm = (machines.folder / "shm").read_text()
        assert "32768" in shm
        assert "writable" not in shm
        (seen,) = json.loads(machines.podman.command("inspect", "rtcbridge-node-1"))
        assert seen["HostConfig"]["NetworkMode"] == "none"

    async def test_a_node_that_does_not_listen_is_killed(self, machines):
        (machines.folder / "machine").write_text(MACHINE.replace("exit 0", ""))
        provider = machines.make(stop_grace=1)
        await provider.create(launch())
        await until(machines.running)
        await provider.stop(launch())
        assert not machines.running()
        assert await provider.list() == {"node-1": Machine.STOPPED}

    async def test_a_node_that_ended_by_itself_is_seen(self, machines):
        (machines.folder / "machine").write_text("exit 1")
        provider = machines.make()
        await provider.create(launch())
        async with asyncio.timeout(15):
            while await provider.list() != {"node-1": Machine.STOPPED}:  # noqa: ASYNC110 - the daemon is asked, it does not call
                await asyncio.sleep(0.02)
        await provider.stop(launch())

    async def test_a_container_that_was_made_and_never_started(self, machines):
        provider = machines.make()
        body = container_config(provider._options, launch(), {})
        async with provider._errors("create") as docker:
            await docker.containers.create(body, name="rtcbridge-node-1")
        assert await provider.list() == {"node-1": Machine.STOPPED}
        await provider.stop(launch())
        await provider.create(launch())
        await until(machines.running)
        assert await provider.list() == {"node-1": Machine.RUNNING}

    async def test_a_pool_sees_and_touches_only_its_own(self, machines):
        provider, other = machines.make(), machines.make("other")
        await provider.create(launch())
        assert await other.list() == {}
        for operation in (other.create, other.start, other.stop, other.destroy):
            with pytest.raises(ProviderError, match=r"^the container rtcbridge-node-1 is not of pool other$"):
                await operation(launch())
        assert await provider.list() == {"node-1": Machine.RUNNING}

    async def test_a_container_that_would_dial_a_former_address_is_not_started(self, machines):
        provider = machines.make()
        await provider.create(launch())
        await provider.stop(launch())
        with pytest.raises(
            ProviderError, match=r"^start: the container dials ws://127.0.0.1:9/node, .* wss://new/node$"
        ):
            await provider.start(launch(url="wss://new/node"))
        assert await provider.list() == {"node-1": Machine.STOPPED}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"image": "localhost/none:1", "pull": "never"}, r"^create: .*localhost/none:1"),
            ({"command": ("no-such-program",)}, r"^create: .*no-such-program"),
            ({"network": "no-such-network"}, r"^create: .*no-such-network"),
            ({"url": "unix:///no/such.sock"}, r"^create: Cannot connect to Docker .*no/such\.sock"),
        ],
    )
    async def test_what_the_daemon_refuses_is_said_in_one_line(self, machines, options, expected):
        provider = machines.make(**options)
        with pytest.raises(ProviderError, match=expected) as caught:
            await provider.create(launch())
        assert "\n" not in str(caught.value)
        assert "nk_secret" not in str(caught.value)
        assert len(str(caught.value)) < 500
        if "url" not in options:
            await provider.destroy(launch())
            assert await provider.list() == {}

    async def test_a_registry_is_asked_when_that_is_due(self, machines):
        """Nothing listens on port 9: that the pull fails shows that it was tried. Podman tries for seconds."""
        missing = machines.make(image="127.0.0.1:9/none:1", pull="missing")
        machines.podman.command("tag", IMAGE, "127.0.0.1:9/there:1")
        always = machines.make(image="127.0.0.1:9/there:1", pull="always")
        first, second = await asyncio.gather(
            missing.create(launch("a")), always.create(launch("b")), return_exceptions=True
        )
        for error, image in ((first, "none"), (second, "there")):
            assert isinstance(error, ProviderError)
            assert str(error).startswith(f"pull 127.0.0.1:9/{image}:1: ")
            assert "connection refused" in str(error)
        assert await missing.list() == {}

    async def test_pull_missing_does_not_ask_a_registry_for_what_is_here(self, machines):
        for pull in ("missing", "never"):
            provider = machines.make(pull=pull)
            await provider.create(launch(pull))


@pytest.mark.parametrize("operation", ["create", "start", "stop", "destroy"])
async def test_a_daemon_that_does_not_answer(tmp_path, operation):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, tmp_path / "socket")
    options = DockerOptions(url=f"unix://{tmp_path}/socket", image="x", timeout=0.2, stop_grace=1)
    provider = DockerProvider("pool", options)
    with pytest.raises(ProviderError, match=rf"^{operation}: Docker does not answer within [\d.]+ s$"):
        await asyncio.wait_for(getattr(provider, operation)(launch()), 15)
    await provider.close()
    server.close()


async def test_no_daemon_is_found(monkeypatch, tmp_path):
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("aiodocker.docker._sock_search_paths", [])
    with pytest.raises(ProviderError, match=r"^no Docker is found on this machine: set docker\.url$"):
        await DockerProvider("pool", DockerOptions(image="x")).list()


@pytest.mark.parametrize(
    ("gpus", "request_"),
    [
        ("all", {"Driver": "nvidia", "Capabilities": [["gpu"]], "Count": -1}),
        ("2", {"Driver": "nvidia", "Capabilities": [["gpu"]], "Count": 2}),
        ("device=0,GPU-1f", {"Driver": "nvidia", "Capabilities": [["gpu"]], "DeviceIDs": ["0", "GPU-1f"]}),
    ],
)
def test_gpus_are_asked_for_as_docker_run_does(gpus, request_):
    body = container_config(DockerOptions(image="x", gpus=gpus), launch(), {})
    assert body["HostConfig"]["DeviceRequests"] == [request_]


def test_a_variable_that_the_bridge_has_not_is_missed():
    options = DockerOptions(image="x", env=("HF_TOKEN",))
    with pytest.raises(ProviderError, match=r"docker\.env: the bridge's environment has no HF_TOKEN$"):
        container_config(options, launch(), {})
    assert "HF_TOKEN=hf_1" in container_config(options, launch(), {"HF_TOKEN": "hf_1"})["Env"]


@pytest.mark.parametrize("node", ["", "a/b", "a?b", "x" * 300])
async def test_ids_that_are_no_names_are_refused(node):
    provider = DockerProvider("pool", DockerOptions(image="x", url="unix:///none"))
    with pytest.raises(ProviderError, match="cannot be part of a container's name"):
        await provider.destroy(launch(node))
    await provider.close()


def test_secrets_are_not_in_errors(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_1")
    provider = DockerProvider("pool", DockerOptions(image="x", env=("A=hush-hush-1", "HF_TOKEN")))
    line = provider._line("a nk_secret_of_node-1\nb hush-hush-1 c hf_secret_1", launch())
    assert line == "a … b … c …"
