"""`rtcbridge demo` as a program: what it starts, what it tells whom, and what it leaves behind: nothing."""

import asyncio
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.programs import RTCBRIDGE, Program, environment, is_alive, until
from rtcbridge.testing import FakeClient

pytestmark = pytest.mark.slow


class Demos:
    """Demos with a state folder of their own, so that others on this machine are left alone."""

    def __init__(self, folder: Path) -> None:
        self.states = folder / "rtcbridge" / "demos"
        self._env = environment(XDG_STATE_HOME=str(folder))
        self._started: list[Program] = []

    def run(self, *words: str) -> Program:
        program = Program(*RTCBRIDGE, "demo", "--model", "passthrough", *words, env=self._env)
        self._started.append(program)
        return program

    def nodes(self, demo: Program) -> list[int]:
        """The processes of a demo's nodes."""
        files = self.states.glob(f"{demo.pid}/nodes/default/*/process.json")
        return [int(match[0]) for file in files if (match := re.search(r"\d+", file.read_text()))]

    def dispose(self) -> None:
        for demo in self._started:
            demo.dispose()
        last = Program(*RTCBRIDGE, "demo", "--port", "0", env=self._env)  # which clears what was killed
        last.line("On this machine")
        assert last.end() == 0
        last.dispose()


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[Demos]:
    made = Demos(tmp_path)
    yield made
    made.dispose()


def address(demo: Program) -> str:
    return demo.line(r"On this machine: +(https?://\S+)/$")[1]


async def served(url: str, key: str, tls: ssl.SSLContext | None = None) -> None:
    """Have a client that waits until the node is ready."""
    async with FakeClient(re.sub("^http", "ws", url), key, tls=tls) as client:
        await client.send("session_start")
        await client.expect("node_status", status="waiting")


def test_it_serves_a_page_and_a_key_and_ctrl_c_ends_all(demos: Demos) -> None:
    demo = demos.run("--port", "0")
    url = address(demo)
    assert url.startswith("http://127.0.0.1:")
    key = httpx.get(f"{url}/v1/demo", trust_env=False).json()["credential"]
    assert key not in demo.text
    assert httpx.get(f"{url}/", trust_env=False).headers["content-type"].startswith("text/html")
    asyncio.run(served(url, key))
    (node,) = demos.nodes(demo)
    assert is_alive(node)
    assert demo.end(signal.SIGINT) == 0
    assert not is_alive(node)
    assert demo.lines[-1] == "Stopped; nothing is left running."
    assert not any(demos.states.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ends_end_all_as_well(demos: Demos, number: signal.Signals) -> None:
    demo = demos.run("--port", "0")
    address(demo)
    (node,) = until(lambda: demos.nodes(demo), "a node")
    assert demo.end(number) == 0
    assert not is_alive(node)
    assert not any(demos.states.iterdir())


def test_a_next_start_clears_what_a_killed_one_left_and_nothing_else(demos: Demos) -> None:
    killed, running = demos.run("--port", "0"), demos.run("--port", "0")
    nodes = {demo: until(lambda demo=demo: demos.nodes(demo), "a node")[0] for demo in (killed, running)}
    url = address(running)
    killed.kill()
    assert is_alive(nodes[killed])
    after = demos.run("--port", "0")
    address(after)
    assert "Clearing what an earlier demo left …" in after.lines
    assert not is_alive(nodes[killed])
    assert is_alive(nodes[running])
    assert not (demos.states / str(killed.pid)).exists()
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200


def test_a_taken_port_is_one_line_and_status_1(demos: Demos) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = demos.run("--port", str(port))
        assert demo.wait() == 1
    assert demo.lines == [f"rtcbridge demo: port {port} on 127.0.0.1 is taken; choose another"]
    assert not any(demos.states.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--port", "99999"], "rtcbridge demo: --port expects a number from 0 to 65535, got '99999'"),
        (["--port", "many"], "rtcbridge demo: --port expects a number from 0 to 65535, got 'many'"),
        (["--prot", "1"], "rtcbridge: unrecognized arguments: --prot 1"),
        (
            ["--model", "pasthrough"],
            "rtcbridge demo: --model expects file.py:function, or one of passthrough, ",
        ),
        (["--model", "missing.py:f"], "rtcbridge demo: --model: there is no file missing.py"),
        (["--log-level", "loud"], "rtcbridge demo: --log-level: invalid choice: 'loud' (choose from "),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_2(demos: Demos, words: list[str], line: str) -> None:
    demo = demos.run(*words)
    assert demo.wait() == 2
    assert len(demo.lines) == 1
    assert demo.lines[0].startswith(line)


def test_a_model_that_cannot_be_loaded_is_told(demos: Demos, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import no_such_module\n")
    demo = demos.run("--port", "0", "--model", f"{tmp_path}/app.py:f")
    demo.line("warning.*state=failed")
    assert demo.end() == 0


def test_an_address_that_is_not_ours_is_one_line(demos: Demos) -> None:
    demo = demos.run("--host", "192.0.2.1", "--port", "0")
    assert demo.wait() == 1
    assert len(demo.lines) == 1
    assert demo.lines[0].startswith("rtcbridge demo: cannot listen on 192.0.2.1:0: ")


def test_for_other_devices_it_serves_tls_with_a_certificate_of_its_own(demos: Demos) -> None:
    demo = demos.run("--host", "0.0.0.0", "--port", "0", "--tls")
    url = address(demo)
    assert url.startswith("https://localhost:")
    trust = ssl.create_default_context(cafile=demos.states / str(demo.pid) / "demo.crt")
    key = httpx.get(f"{url}/v1/demo", verify=trust, trust_env=False).json()["credential"]
    asyncio.run(served(url, key, trust))  # its node has dialled in over wss, and verified the certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(served(url, key, ssl.create_default_context()))
    for outer in _addresses():
        shown = demo.line(rf"On the network: +https://{re.escape(outer)}:\d+/#key=(\S+)")
        assert shown[1] == key
        at = url.replace("localhost", outer)
        assert httpx.get(f"{at}/healthz", verify=trust, trust_env=False).text == "ok\n"
        assert httpx.get(f"{at}/v1/demo", verify=trust, trust_env=False).status_code == 404
    assert demo.end() == 0


def _addresses() -> list[str]:
    found = [a.address for all in psutil.net_if_addrs().values() for a in all if a.family == socket.AF_INET]
    return [address for address in found if not address.startswith("127.")]
