"""`rtcbridge top`: what it draws, as a snapshot and in a terminal."""

import asyncio
import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pyte
import pytest
from rich.console import Console
from structlog.testing import capture_logs

from gateway.bridges import Running, running
from rtcbridge.cli import main
from rtcbridge.cli.screen import BAR, Screen, Snapshot, bar
from rtcbridge.config import Server as ServerConfig
from rtcbridge.gateway.views import BridgeView, NodeView, Override, PoolView, SessionView

NOW = time.time()


def pool(**values: Any) -> PoolView:
    known: dict[str, Any] = {
        "name": "gpu", "provider": "ec2", "slots": 1, "min_ready": 0, "beta": 0.0, "hold_beta": 0.0,
        "demand_window": 0.0, "max_nodes": 10, "idle_timeout": 120.0, "stopped_reserve": 0, "overrides": {},
        "nodes": {}, "sessions": 0, "free": 0, "coming": 0, "stopped": 0, "waiting": 0, "waiting_since": None,
        "eta": None, "starts": 0, "breaker": None, "model": None,
    }  # fmt: skip
    return PoolView(**known | values)


def node(number: int, **values: Any) -> NodeView:
    known: dict[str, Any] = {
        "id": f"gpu-17a1c5-{number:08x}", "pool": "gpu", "managed": True, "state": "ready", "since": NOW - 100,
        "deadline": None, "started": False, "capacity": 2, "sessions": 1, "linked": True, "load": 0.5, "stats": None,
        "epoch": 1, "order": "", "reason": "", "labels": {},
    }  # fmt: skip
    return NodeView(**known | values)


def session(number: int, **values: Any) -> SessionView:
    known: dict[str, Any] = {
        "id": f"{number:032x}", "pool": "gpu", "node": "gpu-17a1c5-00000001", "project": "TEST01", "state": "live",
        "since": NOW - 5, "connected": True,
    }  # fmt: skip
    return SessionView(**known | values)


def snapshot(pools: list[PoolView], nodes: list[NodeView], sessions: list[SessionView]) -> Snapshot:
    bridge = BridgeView(
        version="1.2.3", started=NOW - 3_700, now=NOW, pools=len(pools), nodes=len(nodes), sessions=len(sessions),
        clients=7,
    )  # fmt: skip
    return Snapshot(url="http://127.0.0.1:8080", bridge=bridge, pools=pools, nodes=nodes, sessions=sessions)


def drawn(screen: Screen, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(screen)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def crowd() -> Snapshot:
    return snapshot(
        [pool(name=f"pool-{number}", breaker="no capacity") for number in range(30)],
        [node(number) for number in range(300)],
        [session(number) for number in range(100)],
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 12), (20, 5)])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    lines = drawn(Screen(crowd(), "a message " * 20, height), width)
    assert len(lines) <= max(height, 9)
    assert max(map(len, lines)) <= width


def test_what_fits_is_shared_among_the_tables() -> None:
    lines = drawn(Screen(crowd(), height=24))
    assert len(lines) == 24
    for kind, count in (("pool-", 5), ("gpu-17a1c5-", 5), ("0000000", 5)):
        assert sum(line.startswith(kind) for line in lines) == count
    assert any(line.startswith("POOL (5 of 30)") for line in lines)
    assert any(line.startswith("NODE (5 of 300)") for line in lines)
    few = snapshot([pool()], [node(1)], [session(number) for number in range(100)])
    lines = drawn(Screen(few, height=24))
    assert len(lines) == 24
    assert sum(line.startswith("0000000") for line in lines) == 13


def test_everything_is_drawn_where_there_is_no_height() -> None:
    lines = drawn(Screen(crowd()))
    assert sum(line.startswith("gpu-17a1c5-") for line in lines) == 300
    assert sum(": no capacity" in line for line in lines) == 30


def test_the_line_the_pool_and_what_is_out_of_the_ordinary() -> None:
    shown = snapshot(
        [
            pool(
                sessions=4, free=1, coming=2, stopped=3, waiting=6, waiting_since=NOW - 75, eta=40.0, starts=9,
                overrides={"max_nodes": Override(value=10, config=4)},
                breaker="create: InsufficientInstanceCapacity; again in 32 s",
            )
        ],
        [node(1), node(2, state="failed", reason="no \x1b[31mGPU\nhere"), node(3, linked=False)],
        [session(1, state="pending", position=2, eta=61.0, node="")],
    )  # fmt: skip
    lines = drawn(Screen(shown, "something happened"), 100)
    assert lines[0].startswith("rtcbridge 1.2.3 at http://127.0.0.1:8080, up 1h 1m, ")
    assert lines[1] == "7 clients, 1 sessions, 6 in line, 3 nodes; 9 starts in the last minute"
    assert lines[2] == "something happened"
    assert lines[4].split()[-9:] == ["4", "1", "2", "3", "6", "1m", "15s", "40s", "9"]
    assert lines[5] == "gpu: create: InsufficientInstanceCapacity; again in 32 s"
    assert lines[6] == "gpu: changed: max_nodes 10 (4)"
    assert lines[9].split()[:3] == ["gpu-17a1c5-00000002", "gpu", "failed"], "what needs a look comes first"
    assert lines[9].endswith("no �[31mGPU�here")
    assert lines[11].split()[:3] == ["gpu-17a1c5-00000003", "gpu", "away"]
    assert lines[14].split()[1:] == ["TEST01", "gpu", "pending", "5s", "2", "1m", "1s"]
    assert any(line.startswith(f"{1:032x} ") for line in drawn(Screen(crowd(), height=24))), "to be ended by it"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ""),
        ({"sessions": 10}, "█" * 20),
        ({"sessions": 5, "free": 1, "coming": 2, "stopped": 2}, "█" * 10 + "░" * 2 + "▒" * 4 + "·" * 4),
        ({"sessions": 5}, "█" * 10),
        ({"sessions": 3, "max_nodes": None}, "█" * 20),
        ({"max_nodes": None}, ""),
        ({"sessions": 1, "max_nodes": 1000}, "█"),
        ({"sessions": 997, "free": 1, "coming": 1, "stopped": 1, "max_nodes": 1000}, "█" * 20),
        ({"sessions": 30}, "█" * 20),
    ],
)
def test_the_bar_of_a_pool(values: dict[str, Any], expected: str) -> None:
    assert bar(pool(**values)).plain == f"[{expected.ljust(BAR)}]"


# --- over a bridge ---


@asynccontextmanager
async def quiet(folder: Path, port: int = 0) -> AsyncIterator[Running]:
    """A bridge whose logs are not for this process's stdout."""
    with capture_logs():
        async with running(folder, server=ServerConfig(port=port)) as bridge:
            yield bridge


async def test_without_a_terminal_it_draws_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with quiet(tmp_path) as bridge, bridge.node(), bridge.client() as client:
        await client.start_session()
        url = f"http://127.0.0.1:{bridge.port}"
        status = await asyncio.to_thread(main, ["top", "--url", url, "--key", bridge.admin_key])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        assert "1 clients, 1 sessions, 0 in line, 1 nodes; 1 starts in the last minute" in out
        assert "node-1 default ready" in out
        assert "q leaves" not in out


class Terminal:
    """A program on a pseudo-terminal of 80 × 24, and what is to be seen there."""

    def __init__(self, *command: str) -> None:
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        env = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, close_fds=True)
        self._slave = slave  # kept open, so that what the program left can still be read

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, condition: Callable[[str], bool], patience: float = 20.0) -> str:
        """Read what the program writes until the screen is as it should be; return the screen."""
        deadline = time.monotonic() + patience
        while not condition(text := "\n".join(self._screen.display)):
            assert time.monotonic() < deadline, f"not in {patience:g} s:\n{text}"
            ready, _, _ = select.select([self._master], [], [], 0.1)
            if ready:
                self._stream.feed(os.read(self._master, 65536))
        return text

    def ended(self) -> int:
        self.until(lambda _: self.process.poll() is not None)  # it reads on: what is drawn has to go somewhere
        status = self.process.wait(20)
        assert termios.tcgetattr(self._slave) == self.before, "the terminal is as it was"
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(20)
        os.close(self._slave)
        os.close(self._master)


@contextmanager
def top(bridge: Running) -> Iterator[Terminal]:
    url = f"http://127.0.0.1:{bridge.port}"
    terminal = Terminal(sys.executable, "-m", "rtcbridge", "top", "--url", url, "--key", bridge.admin_key)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
async def test_in_a_terminal_it_goes_on_until_q(tmp_path: Path) -> None:
    async with quiet(tmp_path) as bridge, bridge.client() as client:
        with top(bridge) as terminal:
            text = await asyncio.to_thread(terminal.until, lambda text: "q leaves" in text)
            assert "0 sessions, 0 in line" in text
            await client.send("session_start")
            await asyncio.to_thread(terminal.until, lambda text: "1 sessions, 1 in line" in text)
            async with bridge.node():
                text = await asyncio.to_thread(terminal.until, lambda text: "reserved" in text)
                assert "node-1" in text
                terminal.type("x")
                terminal.type("q")
                assert await asyncio.to_thread(terminal.ended) == 0


@pytest.mark.slow
async def test_it_waits_for_a_bridge_that_restarts_and_says_so(tmp_path: Path) -> None:
    async with quiet(tmp_path) as bridge:
        port = bridge.port
        with top(bridge) as terminal:
            await asyncio.to_thread(terminal.until, lambda text: "q leaves" in text)
            await bridge.server.stop()
            await asyncio.to_thread(
                terminal.until, lambda text: "no bridge answers at" in text and "trying again" in text
            )
            async with quiet(tmp_path, port):
                text = await asyncio.to_thread(terminal.until, lambda text: "the bridge was restarted at" in text)
                assert "0 sessions" in text
                terminal.type("q")
                assert await asyncio.to_thread(terminal.ended) == 0
