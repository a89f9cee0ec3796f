"""`rtcbridge serve` is killed around a creation, on real containers and on moto: no machine leaks or is made twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from moto.server import ThreadedMotoServer

from drivers.ec2_cloud import IMAGE, REGION, backend, everything, state, state_of, tags
from drivers.fault_proxy import FaultProxy
from drivers.podman import Podman, needs_podman
from drivers.test_docker import IMAGE as CONTAINER_IMAGE
from drivers.test_docker import Containers
from gateway.programs import Home, until
from rtcbridge.drivers.ledger import SessionLedger, open_store
from rtcbridge.ports import NodeRow

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
POOL = """
[[pools]]
provider = "{provider}"
min_ready = 1
max_nodes = 1
[pools.{provider}]
list_interval = 0.2
"""


async def serve(home: Home):
    return await asyncio.to_thread(home.serve, **KEYS)


async def killed(bridge) -> None:
    await asyncio.to_thread(bridge.kill)


async def seen(true, what: str):
    return await asyncio.to_thread(until, true, what)


async def write_intent(home: Home) -> None:
    """Leave what a bridge leaves that is killed between storing an intent and acting on it."""
    with open_store(home.store_url) as database:
        ledger = SessionLedger(database)
        row = NodeRow(id="default-n", pool="default", managed=True, state="provisioning", capacity=1, since=1.0)
        await ledger.save_node(row)
        await ledger.close()


async def forget(home: Home, node: str) -> None:
    with open_store(home.store_url) as database:
        ledger = SessionLedger(database)
        await ledger.delete_node(node)
        await ledger.close()


async def booting(home: Home) -> str:
    """Wait until the only node is believed to boot; return its id."""
    await seen(lambda: [row.state for row in home.nodes().values()] == ["booting"], "one node that boots")
    return next(iter(home.nodes()))


# --- EC2 ---


class Gate(FaultProxy):
    """Holds RunInstances up, before EC2 has done it or after, until the bridge that asked is dead."""

    moment = ""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, state_of)
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def _answer(self, action, params, headers):
        if action != "RunInstances" or not self.moment:
            return await super()._answer(action, params, headers)
        if self.moment == "after":
            await super()._answer(action, params, headers)
        self.reached.set()
        await self.released.wait()
        return None


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
async def gate(moto) -> AsyncIterator[Gate]:
    backend().reservations.clear()
    proxy = Gate(moto)
    yield proxy
    await proxy.close()


@pytest.fixture
async def ec2(gate, tmp_path) -> AsyncIterator[Home]:
    options = f'region = "{REGION}"\nimage = "{IMAGE}"\ninstance_types = ["g6.xlarge"]\nendpoint = "'
    home = Home(tmp_path, POOL.format(provider="ec2") + f'{options}{await gate.start()}"\n')
    yield home
    gate.released.set()
    await asyncio.to_thread(home.dispose)


def alive():
    return [each for each in everything() if state(each) != "terminated"]


@pytest.mark.parametrize(("moment", "unseen"), [("intent", 0), ("before", 0), ("after", 3)])
async def test_one_machine_however_the_bridge_was_killed(ec2, gate, moment, unseen):
    gate.unseen = unseen  # looks at EC2's list in which the new machine is missing: RunInstances is asked again then
    if moment == "intent":
        await write_intent(ec2)
    else:
        gate.moment = moment
        bridge = await serve(ec2)
        async with asyncio.timeout(30):
            await gate.reached.wait()
        assert [row.state for row in ec2.nodes().values()] == ["provisioning"], "the intent was stored first"
        await killed(bridge)
        gate.moment = ""
        gate.released.set()
    (intended,) = ec2.nodes()
    await serve(ec2)
    assert await booting(ec2) == intended
    (machine,) = alive()
    assert tags(machine)["rtcbridge:node"] == intended
    assert len({params["ClientToken"] for action, params in gate.calls if action == "RunInstances"}) == 1


async def test_a_machine_whose_node_was_forgotten_is_terminated(ec2):
    bridge = await serve(ec2)
    node = await booting(ec2)
    await killed(bridge)
    await forget(ec2, node)
    (old,) = alive()
    await serve(ec2)
    await seen(lambda: state(old) == "terminated", "it is swept")
    await seen(lambda: node not in ec2.nodes(), "and forgotten")
    assert await booting(ec2) != node
    assert len(alive()) == 1


# --- containers ---


class DockerGate:
    """A way to the daemon that holds one kind of request up: before it is passed on, or its answer afterwards."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.word, self.after = b"", False
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self.released.set()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, back}
        held = asyncio.Event()

        async def upwards() -> None:
            while data := await reader.read(65536):
                if self.word and self.word in data.split(b"\r\n", 1)[0]:
                    held.set()
                    if not self.after:
                        self.reached.set()
                        await self.released.wait()
                        return  # it was never passed on
                back.write(data)
                await back.drain()

        async def downwards() -> None:
            while data := await there.read(65536):
                if held.is_set():
                    self.reached.set()
                    await self.released.wait()
                    return  # the answer is lost
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(upwards()), asyncio.create_task(downwards())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, back):
            each.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    daemon = Podman(tmp_path_factory.mktemp("podman"))
    yield daemon
    daemon.close()


@pytest.fixture
async def docker_gate(podman) -> AsyncIterator[DockerGate]:
    gate = DockerGate(podman.url.removeprefix("unix://"))
    yield gate
    await gate.close()


@pytest.fixture
async def docker(docker_gate, podman, tmp_path) -> AsyncIterator[tuple[Home, Containers]]:
    containers = Containers(podman, tmp_path)
    options = f'image = "{CONTAINER_IMAGE}"\ncommand = ["sh", "/shared/machine"]\nnetwork = "none"\nstop_grace = 1\n'
    options += f'volumes = ["{tmp_path}:/shared"]\npull = "never"\nurl = "{await docker_gate.start()}"\n'
    home = Home(tmp_path, POOL.format(provider="docker") + options)
    yield home, containers
    docker_gate.released.set()
    await asyncio.to_thread(home.dispose)
    podman.command("rm", "--all", "--force", "--time=0")


def made(podman: Podman) -> list[str]:
    return podman.command("ps", "--all", "--format", '{{index .Labels "rtcbridge.node"}}').split()


@needs_podman
@pytest.mark.parametrize(("word", "after"), [("", False), ("/create", True), ("/start", False)])
async def test_one_container_however_the_bridge_was_killed(docker, docker_gate, podman, word, after):
    home, containers = docker
    if not word:
        await write_intent(home)
    else:
        docker_gate.word, docker_gate.after = word.encode(), after
        bridge = await serve(home)
        async with asyncio.timeout(30):
            await docker_gate.reached.wait()
        assert [row.state for row in home.nodes().values()] == ["provisioning"]
        await killed(bridge)
        docker_gate.word = b""
        docker_gate.released.set()
    (intended,) = home.nodes()
    await serve(home)
    assert await booting(home) == intended
    await seen(lambda: containers.running(intended), "it runs")
    assert made(podman) == [intended]
    assert containers.boots(intended) == 1


@needs_podman
async def test_a_container_whose_node_was_forgotten_is_removed(docker, podman):
    home, _ = docker
    bridge = await serve(home)
    node = await booting(home)
    await killed(bridge)
    await forget(home, node)
    await serve(home)
    await seen(lambda: node not in made(podman), "it is swept")
    await seen(lambda: node not in home.nodes(), "and forgotten")
    new = await booting(home)
    assert made(podman) == [new]
