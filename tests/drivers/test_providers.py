"""The contract over the providers of processes on this machine, and what each of them does beside it."""

import asyncio
import os
import signal
import sys

import psutil
import pytest

from drivers.processes import COMMANDS, pids, running, runs
from rtcbridge.config import LocalOptions, Pool
from rtcbridge.drivers.providers import CommandProvider, LocalProvider, StaticProvider, make_provider, sweep
from rtcbridge.ports import Machine, Provider, ProviderError
from rtcbridge.testing.provider_contract import Contract, ListContract, launch, until


def local(folder, **options):
    return LocalProvider(
        "pool", LocalOptions(state=str(folder / "state"), **options), program=("/bin/sh", f"{folder}/machine")
    )


class Processes:
    """`Machines` as processes on this machine."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.folder = folder

    def make(self):
        return local(self.folder) if self.kind == "local" else CommandProvider(COMMANDS)

    def boots(self, node="node-1"):
        return len(pids(self.folder, node))

    def running(self, node="node-1"):
        return len(running(self.folder, node))


@pytest.fixture(params=["local", "command"])
def machines(request, folder):
    return Processes(request.param, folder)


class TestProcesses(Contract):
    async def test_it_has_the_bridge_s_environment_and_a_session_of_its_own(self, machines):
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        lines = (machines.folder / "node-1.env").read_text().splitlines()
        assert f"PATH={os.environ['PATH']}" in lines
        (pid,) = pids(machines.folder)
        assert os.getsid(pid) != os.getsid(0), "a Ctrl-C in the bridge's terminal must not reach it"


class TestLists(ListContract):
    """Both can list: `command` by a command of its own."""


# --- local ---


async def test_local_keeps_the_address_of_the_store_from_nodes(folder, monkeypatch):
    monkeypatch.setenv("RTCBRIDGE_STORE__URL", "postgresql://user:hidden@host/db")
    machines = Processes("local", folder)
    await machines.make().create(launch())
    await until(machines.running)
    assert "hidden" not in (machines.folder / "node-1.env").read_text()


async def test_local_sees_only_its_own_pool(folder):
    await local(folder).create(launch("a"))
    other = LocalProvider("other", LocalOptions(state=str(folder / "state")))
    assert await other.list() == {}
    await local(folder).destroy(launch("a"))


async def test_local_can_be_listed_while_nodes_come_and_go(folder):
    provider = local(folder)
    nodes = [f"node-{number}" for number in range(4)]

    async def live(node):
        for _ in range(5):
            await provider.create(launch(node))
            await provider.destroy(launch(node))

    lives = asyncio.gather(*(live(node) for node in nodes))
    looks = 0
    while not lives.done():
        assert set(await provider.list()) <= set(nodes)
        looks += 1
    await lives
    assert looks > 5
    assert await provider.list() == {}


async def test_local_sees_a_node_that_died(folder):
    provider = local(folder)
    await provider.create(launch())
    await until(lambda: running(folder))
    os.kill(pids(folder)[0], signal.SIGKILL)
    await until(lambda: not running(folder))
    assert await provider.list() == {"node-1": Machine.STOPPED}
    await provider.start(launch())
    assert await provider.list() == {"node-1": Machine.RUNNING}
    await provider.destroy(launch())


async def test_local_ends_a_node_that_does_not_listen(folder):
    (folder / "machine").write_text(
        'trap "" TERM; echo $$ >> "$TEST_FOLDER/$RTCBRIDGE_NODE.pids"; while :; do sleep 600; done'
    )
    provider = local(folder, stop_grace=0.2)
    await provider.create(launch())
    await until(lambda: running(folder) and psutil.Process(pids(folder)[0]).children())
    child = psutil.Process(pids(folder)[0]).children()[0]
    await provider.stop(launch())
    assert not running(folder)
    assert not runs(child.pid), "what it started ends with it"
    assert await provider.list() == {"node-1": Machine.STOPPED}


async def test_local_lets_a_node_end_by_itself(folder):
    (folder / "machine").write_text(
        'trap "sleep 0.3; echo bye; exit" TERM; echo $$ >> "$TEST_FOLDER/$RTCBRIDGE_NODE.pids"; '
        "while :; do sleep 0.05; done"
    )
    provider = local(folder)
    await provider.create(launch())
    await until(lambda: running(folder))
    await provider.stop(launch())
    assert (folder / "state/pool/node-1/node.log").read_text() == "bye\n"


async def test_local_never_kills_a_recycled_pid(folder):
    provider = local(folder)
    await provider.create(launch())
    await until(lambda: running(folder))
    await provider.stop(launch())
    innocent = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        state = folder / "state/pool/node-1/process.json"
        state.write_text(f'{{"pid":{innocent.pid},"started":{psutil.Process(innocent.pid).create_time() - 60}}}')
        assert await provider.list() == {"node-1": Machine.STOPPED}
        await provider.stop(launch())
        await provider.destroy(launch())
        assert runs(innocent.pid)
    finally:
        innocent.kill()
        await innocent.wait()


@pytest.mark.parametrize("damage", ["missing", "broken"])
async def test_local_ends_a_process_that_was_never_noted(folder, damage):
    """The bridge may be killed between starting a process and noting it."""
    await local(folder).create(launch())
    await until(lambda: running(folder))
    state = folder / "state/pool/node-1/process.json"
    if damage == "missing":
        state.unlink()
        assert await local(folder).list() == {"node-1": Machine.RUNNING}
        await local(folder).create(launch())
        assert len(pids(folder)) == 1
    else:
        state.write_text("{")
    await local(folder).destroy(launch())
    assert not running(folder)


async def test_local_replaces_a_node_whose_main_process_died(folder):
    (folder / "machine").write_text(
        'echo $$ >> "$TEST_FOLDER/$RTCBRIDGE_NODE.pids"; sleep 600 & '
        'echo $! > "$TEST_FOLDER/child"; test -e "$TEST_FOLDER/again" && exec sleep 600; exit 1'
    )
    provider = local(folder)
    await provider.create(launch())
    await until(lambda: (folder / "child").exists() and pids(folder) and not running(folder))
    orphan = int((folder / "child").read_text())
    assert runs(orphan)
    assert await provider.list() == {"node-1": Machine.STOPPED}
    (folder / "again").touch()
    await provider.start(launch())
    await until(lambda: running(folder))
    assert not runs(orphan)
    await provider.destroy(launch())


BRIDGE = """
import asyncio, os, signal, sys
from rtcbridge.config import LocalOptions
from rtcbridge.drivers.providers import LocalProvider
from rtcbridge.ports import Launch

async def main():
    provider = LocalProvider("pool", LocalOptions(state=sys.argv[1]), program=("/bin/sh", sys.argv[2]))
    await provider.create(Launch("node-1", "pool", "ws://127.0.0.1:9/node", "nk_x"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_local_nodes_outlive_a_killed_bridge_and_are_found_again(folder):
    arguments = [sys.executable, "-c", BRIDGE, folder / "state", folder / "machine"]
    bridge = await asyncio.create_subprocess_exec(*arguments)
    assert await asyncio.wait_for(bridge.wait(), 20) == -signal.SIGKILL
    await until(lambda: running(folder))
    provider = local(folder)
    assert await provider.list() == {"node-1": Machine.RUNNING}
    await provider.create(launch())
    assert len(pids(folder)) == 1
    await provider.destroy(launch())
    assert not running(folder)
    assert await provider.list() == {}


async def test_local_passes_the_options_on_and_keeps_the_token_off_the_command_line(folder):
    (folder / "machine").write_text('echo "$@"; exec sleep 600')
    options = LocalOptions(state=str(folder / "state"), model="a.py:f", engine="aiortc", args=("--x", "y z"))
    provider = LocalProvider("pool", options, slots=3, program=("/bin/sh", f"{folder}/machine"))
    await provider.create(launch())
    log = folder / "state/pool/node-1/node.log"
    try:
        await until(lambda: log.read_text())
        assert log.read_text() == "a.py:f --slots 3 --engine aiortc --x y z\n"
        for process in psutil.process_iter(["cmdline"]):
            assert "nk_secret_of_node-1" not in " ".join(process.info["cmdline"] or ())
    finally:
        await provider.destroy(launch())


async def test_local_begins_a_log_that_is_too_long_anew(folder):
    provider = local(folder)
    await provider.create(launch())
    await provider.stop(launch())
    log = folder / "state/pool/node-1/node.log"
    log.write_bytes(b"x" * (5 << 20))
    await provider.start(launch())
    assert log.stat().st_size < 1000
    await provider.destroy(launch())


@pytest.mark.parametrize("node", ["", "..", "a/b", "a\0b", ".hidden", "x" * 200])
async def test_local_refuses_ids_that_are_no_names_of_folders(folder, node):
    for operation in ("create", "start", "stop", "destroy"):
        with pytest.raises(ProviderError, match="cannot be the name of a folder"):
            await getattr(local(folder), operation)(launch(node))
    assert not (folder / "state").exists()


async def test_local_says_what_the_machine_refuses(folder):
    (folder / "state").write_text("in the way")
    with pytest.raises(ProviderError, match=r"^create: .*(Not a directory|File exists)"):
        await local(folder).create(launch())
    with pytest.raises(ProviderError, match=r"^list: .*Not a directory"):
        await local(folder).list()
    (folder / "state").unlink()
    missing = LocalProvider("pool", LocalOptions(state=str(folder / "state")), program=("/no/such/program",))
    with pytest.raises(ProviderError, match=r"^create: .*No such file or directory: '/no/such/program'"):
        await missing.create(launch())
    assert await missing.list() == {"node-1": Machine.STOPPED}


async def test_a_sweep_ends_all_nodes_of_a_folder_and_nothing_else(folder):
    state = folder / "state"
    await local(folder).create(launch("a"))
    other = LocalProvider("other", LocalOptions(state=str(state)), program=("/bin/sh", f"{folder}/machine"))
    await other.create(launch("b"))
    await until(lambda: running(folder, "a") and running(folder, "b"))
    (state / "pool/not-ours").mkdir()
    (state / "pool/not-ours/file").write_text("precious")
    assert await sweep(state) == 2
    assert not running(folder, "a")
    assert not running(folder, "b")
    assert [str(path.relative_to(state)) for path in sorted(state.rglob("*"))] == [
        "pool",
        "pool/not-ours",
        "pool/not-ours/file",
    ]
    assert await sweep(state) == 0
    assert await sweep(folder / "nothing") == 0


# --- static, and the choice ---


async def test_static_makes_nothing():
    provider: Provider = StaticProvider()
    for operation in (provider.create, provider.start, provider.stop):
        with pytest.raises(ProviderError, match="pool pool is static"):
            await operation(launch())
    await provider.destroy(launch())
    assert await provider.list() is None
    await provider.close()


@pytest.mark.parametrize(
    ("name", "kind"), [("static", StaticProvider), ("local", LocalProvider), ("command", CommandProvider)]
)
def test_the_pool_names_its_provider(name, kind):
    assert type(make_provider(Pool(provider=name))) is kind


async def test_a_local_pool_runs_the_node_of_this_package(tmp_path):
    """A model that is not there: the real agent starts, says so in its log, and ends."""
    pool = Pool(local=LocalOptions(model="no_such_model", state=str(tmp_path)))
    provider = make_provider(pool)
    await provider.create(launch())
    log_file = tmp_path / "default/node-1/node.log"
    await until(lambda: "no_such_model" in log_file.read_text())
    await provider.stop(launch())
    log = log_file.read_text()
    assert log.count("\n") == 1
    assert log.startswith("rtcbridge node: ")
    await provider.destroy(launch())
