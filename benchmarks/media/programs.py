"""The programs under test: one bridge, and for each engine a node behind it and a bare peer beside it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.process import stop

START_TIMEOUT_S = 30
PROJECTS = {"wrtc": "WRTC01", "aiortc": "AIORT1"}

# A pool an engine, and a project a pool: so one bridge serves them all.
CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}

[store]
url = "sqlite:///bench.db"
"""
POOL = """
[[pools]]
name = "{engine}"
provider = "static"
projects = ["{project}"]
slots = 4
"""


@dataclass(frozen=True)
class Contestant:
    """One way to a node and back.

    Attributes:
        kind: `product`, or `bare` for the engine's library alone.
        engine: `wrtc` or `aiortc`.
        url: where the page connects.
        credential: the client's key; "" for a bare peer.
        pid: the process that decodes and encodes.
    """

    kind: str
    engine: str
    url: str
    credential: str
    pid: int

    @property
    def name(self) -> str:
        """What tables and progress call it."""
        return f"rtcbridge on {self.engine}" if self.kind == "product" else f"bare {self.engine}"

    @property
    def target(self) -> dict[str, str]:
        """What the page takes."""
        return {"url": self.url, "credential": self.credential}


def _rtcbridge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rtcbridge", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name.startswith("bare") else log,
            stderr=log,
        )
    try:
        yield process
    finally:
        stop(process)


def _wait(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.05)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{what} did not start: {tail}")


def _get(url: str, credential: str = "") -> bytes | None:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2) as response:
            return bytes(response.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _key(folder: Path, *arguments: str) -> str:
    command = _rtcbridge("keys", "create", *arguments, "--config", str(folder / "bench.toml"))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"keys create: {done.stderr.strip()}")
    return done.stdout.split()[-1]


def _start_node(stack: ExitStack, engine: str, folder: Path, port: int) -> Contestant:
    credential = _key(folder, "--project", PROJECTS[engine])
    command = _rtcbridge("node", "passthrough", "--engine", engine, "--bridge", f"ws://127.0.0.1:{port}")
    command += ["--pool", engine, "--key", _key(folder, "--node", "--pool", engine)]
    name = f"node-{engine}"
    process = stack.enter_context(_running(command, folder, name))

    def registered() -> bool:
        pools = json.loads(_get(f"http://127.0.0.1:{port}/v1/pools", credential) or b"[]")
        return any(pool["model"] for pool in pools)

    _wait(f"the node on {engine}", registered, process, folder / f"{name}.log")
    return Contestant("product", engine, f"ws://127.0.0.1:{port}", credential, process.pid)


def _start_bare(stack: ExitStack, engine: str, folder: Path) -> Contestant:
    command = [sys.executable, "-m", "benchmarks.media.bare", engine]
    process = stack.enter_context(_running(command, folder, f"bare-{engine}"))
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise RuntimeError(f"the bare peer did not start: {(folder / f'bare-{engine}.log').read_text()[-2000:]}")
    return Contestant("bare", engine, f"ws://127.0.0.1:{int(line)}", "", process.pid)


@contextmanager
def contestants(engines: Sequence[str]) -> Iterator[list[Contestant]]:
    """Start the bridge, and for each engine a node and a bare peer, all idle; stop them at the end.

    Raises:
        RuntimeError: one did not start; the end of its log is in the text.
    """
    with tempfile.TemporaryDirectory(prefix="rtcbridge-bench-") as name, ExitStack() as stack:
        folder, port = Path(name), _free_port()
        pools = (POOL.format(engine=engine, project=PROJECTS[engine]) for engine in engines)
        (folder / "bench.toml").write_text(CONFIG.format(port=port) + "".join(pools), encoding="utf-8")
        serve = stack.enter_context(_running(_rtcbridge("serve", "--config", "bench.toml"), folder, "bridge"))
        _wait("the bridge", lambda: _get(f"http://127.0.0.1:{port}/readyz") is not None, serve, folder / "bridge.log")
        found = []
        for engine in engines:
            found += [_start_node(stack, engine, folder, port), _start_bare(stack, engine, folder)]
        yield found
