"""The ssh provider against real OpenSSH servers on loopback, each with a home of its own: the hosts."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncssh
import psutil
import pytest

from drivers.sshd import Host, needs_sshd
from rtcbridge.config import SshOptions
from rtcbridge.drivers.providers.ssh import SshProvider
from rtcbridge.drivers.providers.ssh_script import script
from rtcbridge.ports import Machine, ProviderError
from rtcbridge.testing.provider_contract import Contract, ListContract, launch, until

MACHINE = """
env > "$FOLDER/$RTCBRIDGE_NODE.env.new" && mv "$FOLDER/$RTCBRIDGE_NODE.env.new" "$FOLDER/$RTCBRIDGE_NODE.env"
echo $$ >> "$FOLDER/$RTCBRIDGE_NODE.pids"
exec sleep 600
"""


class Hosts:
    """`Machines` as processes on two hosts."""

    def __init__(self, folder: Path, hosts: list[Host], key: Path) -> None:
        self.folder = folder
        self.hosts = hosts
        self.key = key
        (folder / "known_hosts").write_text("".join(host.known for host in hosts))
        (folder / "machine").write_text(MACHINE)
        self.made: list[SshProvider] = []

    def make(self, pool="pool", **options) -> SshProvider:
        given = {
            "hosts": tuple(host.name for host in self.hosts),
            "nodes_per_host": 6,
            "command": f"FOLDER={self.folder}; export FOLDER; exec sh {self.folder}/machine",
            "key": str(self.key),
            "known_hosts": str(self.folder / "known_hosts"),
            "state": f"nodes of {self.folder.name}",
            "connect_timeout": 5,
        }
        self.made.append(SshProvider(pool, SshOptions(**given | options)))
        return self.made[-1]

    def pids(self, node="node-1") -> list[int]:
        file = self.folder / f"{node}.pids"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def boots(self, node="node-1") -> int:
        return len(self.pids(node))

    def alive(self, node="node-1") -> list[int]:
        return [pid for pid in self.pids(node) if runs(pid)]

    def running(self, node="node-1") -> int:
        return len(self.alive(node))

    def place(self, node="node-1", pool="pool") -> Path:
        """The node's folder."""
        found = [host.home / f"nodes of {self.folder.name}" / pool / node for host in self.hosts]
        (place,) = [path for path in found if path.is_dir()]
        return place


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key")
    pair = asyncssh.generate_private_key("ssh-ed25519")
    pair.write_private_key(folder / "id")
    pair.write_public_key(folder / "id.pub")
    (folder / "id").chmod(0o600)
    return folder / "id"


@pytest.fixture(scope="module")
def servers(tmp_path_factory, key):
    hosts = [Host(tmp_path_factory.mktemp("hosts") / name, key) for name in ("one", "two")]
    yield hosts
    for host in hosts:
        host.close()


@pytest.fixture
async def machines(servers, tmp_path, key):
    hosts = Hosts(tmp_path, servers, key)
    yield hosts
    for provider in hosts.made:
        await provider.close()
    for file in tmp_path.glob("*.pids"):
        for pid in hosts.alive(file.stem):
            os.kill(pid, signal.SIGKILL)
    for host in servers:
        if host.process.poll() is not None:
            host.start()


@pytest.mark.slow
@needs_sshd
class TestSsh(Contract, ListContract):
    async def test_the_agent_is_on_its_own(self, machines):
        await machines.make().create(launch())
        await until(machines.running)
        (pid,) = machines.alive()
        assert os.getsid(pid) == pid, "what ends the log-in must not reach it"
        open_files = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert open_files == {"/dev/null", str(machines.place() / "node.log")}
        assert (machines.place() / "pid").read_text().split()[0] == str(pid)
        assert machines.place().stat().st_mode & 0o077 == 0
        for host in machines.hosts:
            host.close()
        assert machines.alive() == [pid]

    async def test_the_token_is_on_no_command_line_and_in_no_file(self, machines):
        provider = machines.make(command="exec sleep 600")
        seen = set()
        creating = asyncio.create_task(provider.create(launch()))
        while not creating.done():
            for process in psutil.process_iter(["cmdline"]):
                seen.update(process.info["cmdline"] or ())
            await asyncio.sleep(0)
        await creating
        assert seen
        assert not any("nk_secret" in argument for argument in seen)
        for file in machines.place().iterdir():
            assert "nk_secret" not in file.read_text()
        await provider.destroy(launch())

    async def test_the_first_host_with_room_gets_the_node(self, machines):
        provider = machines.make(nodes_per_host=1)
        first, second = machines.hosts
        await provider.create(launch("a"))
        assert machines.place("a").is_relative_to(first.home)
        await provider.create(launch("b"))
        assert machines.place("b").is_relative_to(second.home)
        for other in (provider, machines.make("other", nodes_per_host=1)):
            with pytest.raises(ProviderError, match=r"^create: no host has room: \S+ is full; \S+ is full$"):
                await other.create(launch("c"))
        await provider.stop(launch("a"))
        with pytest.raises(ProviderError, match="is full"):
            await provider.create(launch("c"))
        await provider.destroy(launch("a"))
        await provider.create(launch("c"))
        assert machines.place("c").is_relative_to(first.home)
        assert await machines.make().list() == {"b": Machine.RUNNING, "c": Machine.RUNNING}

    async def test_rooms_are_not_given_twice(self, machines):
        providers = [machines.make(nodes_per_host=2) for _ in range(3)]
        results = await asyncio.gather(
            *(provider.create(launch(f"{at}-{number}")) for at, provider in enumerate(providers) for number in (1, 2)),
            return_exceptions=True,
        )
        assert [type(result) for result in results].count(ProviderError) == 2
        assert len(await providers[0].list()) == 4

    async def test_a_silent_host(self, machines):
        provider = machines.make(nodes_per_host=1)
        await provider.create(launch("a"))
        await provider.create(launch("b"))
        machines.hosts[0].close()
        with pytest.raises(ProviderError, match=r"^list: 127\.0\.0\.1:\d+: "):
            await provider.list()
        for operation in (provider.create, provider.start, provider.stop, provider.destroy):
            with pytest.raises(ProviderError, match=rf"{machines.hosts[0].name}: "):
                await operation(launch("a"))
        anew = machines.make(nodes_per_host=1)
        with pytest.raises(ProviderError, match=r"^destroy: .*refused"):
            await anew.destroy(launch("a"))
        await anew.destroy(launch("b"))
        await anew.create(launch("c"))
        assert machines.place("c").is_relative_to(machines.hosts[1].home)
        machines.hosts[0].start()
        assert await provider.list() == {"a": Machine.RUNNING, "c": Machine.RUNNING}
        await anew.destroy(launch("a"))
        assert await provider.list() == {"c": Machine.RUNNING}

    async def test_a_pool_sees_only_its_own(self, machines):
        await machines.make().create(launch())
        assert await machines.make("other").list() == {}

    async def test_a_node_that_died_is_seen(self, machines):
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        os.kill(machines.alive()[0], signal.SIGKILL)
        await until(lambda: not machines.running())
        assert await provider.list() == {"node-1": Machine.STOPPED}
        await provider.start(launch())
        await until(machines.running)
        assert await provider.list() == {"node-1": Machine.RUNNING}

    async def test_a_node_that_does_not_listen_is_killed_with_all_that_it_started(self, machines):
        (machines.folder / "machine").write_text(
            'trap "" TERM; setsid sleep 600 & echo $! > "$FOLDER/child"; '
            'echo $$ >> "$FOLDER/$RTCBRIDGE_NODE.pids"; while :; do sleep 600; done'
        )
        provider = machines.make(stop_grace=1)
        await provider.create(launch())
        await until(machines.running)
        child = int((machines.folder / "child").read_text())
        assert runs(child)
        await provider.stop(launch())
        assert not machines.running()
        assert not runs(child)
        assert await provider.list() == {"node-1": Machine.STOPPED}

    async def test_a_node_may_end_by_itself(self, machines):
        (machines.folder / "machine").write_text(
            'trap "sleep 0.3; echo bye; exit" TERM; echo $$ >> "$FOLDER/$RTCBRIDGE_NODE.pids"; '
            "while :; do sleep 0.05; done"
        )
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        await provider.stop(launch())
        assert (machines.place() / "node.log").read_text() == "bye\n"

    @pytest.mark.parametrize("pid", ["recycled", "another boot", "broken", "missing"])
    async def test_a_pid_file_that_names_another_process(self, machines, pid):
        provider = machines.make()
        await provider.create(launch())
        await until(machines.running)
        file = machines.place() / "pid"
        number, born, boot = file.read_text().split()
        innocent = await asyncio.create_subprocess_exec("sleep", "600")
        try:
            if pid == "missing":
                file.unlink()
            else:
                file.write_text(
                    {
                        "recycled": f"{innocent.pid} {born}1 {boot}\n",
                        "another boot": f"{number} {born} x{boot}\n",
                        "broken": "\n",
                    }[pid]
                )
            assert await provider.list() == {"node-1": Machine.STOPPED}
            await provider.start(launch())
            await until(lambda: machines.boots() == 2)
            assert machines.running() == 1, "what was lost sight of has ended"
            await provider.destroy(launch())
            assert not machines.running()
            assert runs(innocent.pid)
        finally:
            innocent.kill()
            await innocent.wait()

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"known_hosts": "other"}, "its host key is not in the known_hosts file, or is another one there"),
            ({"known_hosts": ""}, "there is no ~/.ssh/known_hosts: set ssh.known_hosts"),
            ({"key": "wrong"}, "log-in refused: expected a key that this host accepts"),
            ({"key": "broken"}, "(Invalid|Unrecognized|No) .*"),
            ({"key": "locked"}, "Passphrase must be specified to import encrypted private keys"),
            ({"key": "none"}, ".*No such file or directory"),
            ({"state": "/proc/1/nodes"}, "the folder /proc/1/nodes cannot be made"),
        ],
    )
    async def test_what_a_host_refuses_is_said_in_one_line(self, machines, monkeypatch, options, expected):
        monkeypatch.setenv("HOME", str(machines.folder))
        wrong = asyncssh.generate_private_key("ssh-ed25519")
        one = machines.hosts[0]
        public = wrong.export_public_key().decode()
        (machines.folder / "other").write_text(f"[127.0.0.1]:{one.port} {public}")
        wrong.write_private_key(machines.folder / "wrong")
        wrong.write_private_key(machines.folder / "locked", "pkcs8-pem", passphrase="x")
        (machines.folder / "broken").write_text("nothing")
        given = {
            name: str(machines.folder / value) if value and name != "state" else value
            for name, value in options.items()
        }
        provider = machines.make(**{"hosts": (one.name,), **given})
        with pytest.raises(ProviderError, match=rf"^create: .*{one.name}: {expected}") as caught:
            await provider.create(launch())
        assert "\n" not in str(caught.value)
        assert "nk_secret" not in str(caught.value)

    async def test_a_log_in_shell_may_say_what_it_likes(self, machines):
        for host in machines.hosts:
            (host.home / ".bashrc").write_text("echo rtcbridge; echo welcome\n")
        provider = machines.make()
        await provider.create(launch())
        assert await provider.list() == {"node-1": Machine.RUNNING}
        for host in machines.hosts:
            (host.home / ".bashrc").unlink()

    async def test_a_connection_that_broke_is_made_again(self, machines):
        provider = machines.make()
        await provider.create(launch())
        for host in machines.hosts:
            host.close()
        with pytest.raises(ProviderError):
            await provider.list()
        for host in machines.hosts:
            host.start()
        assert await provider.list() == {"node-1": Machine.RUNNING}

    async def test_the_agent_of_this_package(self, machines):
        """A model that is not there: the real agent starts, says so in its log, and ends."""
        environment = f"PYTHONPATH='{os.pathsep.join(sys.path)}'"
        command = f"{environment} exec {sys.executable} -m rtcbridge node no_such_model"
        provider = machines.make(command=command)
        await provider.create(launch())
        log = machines.place() / "node.log"
        await until(lambda: "no_such_model" in log.read_text())
        await provider.stop(launch())
        assert log.read_text().startswith("rtcbridge node: ")
        await provider.destroy(launch())


@pytest.mark.parametrize("verb", ["create", "start", "stop", "destroy", "list"])
def test_a_script_that_is_cut_off_does_nothing(verb, tmp_path):
    (tmp_path / "state/pool/node-1").mkdir(parents=True)
    whole = script(
        verb, state="state", pool="pool", patience=5, launch=launch(), command="touch ~/ran", room=9, grace=1
    )
    for length in (*range(0, len(whole) - 10, 211), len(whole) - 10):
        subprocess.run(
            ["sh"], input=whole[:length].encode(), env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "state",
        "state/pool",
        "state/pool/node-1",
    ]


async def test_a_host_that_does_not_answer(tmp_path):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    (tmp_path / "known").touch()
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    options = SshOptions(hosts=(host,), command="x", known_hosts=str(tmp_path / "known"), connect_timeout=0.3)
    with pytest.raises(ProviderError, match=f"^list: {host}: "):
        await asyncio.wait_for(SshProvider("pool", options).list(), 10)
    server.close()


@pytest.mark.parametrize("node", ["", "..", "a/b", ".hidden", "x" * 200])
async def test_ids_that_are_no_names_are_refused(node):
    provider = SshProvider("pool", SshOptions(hosts=("127.0.0.1:9",), command="x"))
    for operation in ("create", "start", "stop", "destroy"):
        with pytest.raises(ProviderError, match="cannot be the name of a folder"):
            await getattr(provider, operation)(launch(node))
