"""The servers under test: how each is started, on one core, and what its clients must know."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.process import stop

PEERS = Path(__file__).parent / "peers"
RTCBRIDGE = Path(sys.executable).parent / "rtcbridge"
START_TIMEOUT_S = 30

# Every feature is on; the rate limit is checked and never reached.
BRIDGE_CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}
message_rate = 1000000
message_burst = 1000000

[store]
url = "sqlite:///{directory}/bench.db"

[[pools]]
name = "default"
provider = "static"
slots = 1000
"""


@dataclass(frozen=True)
class Launch:
    """What to execute, and what the generator needs to speak to it."""

    command: list[str]
    dialect: str
    environment: dict[str, str] = field(default_factory=dict)
    credential: str = ""
    node_credential: str = ""
    node_port: int = 0  # where nodes dial in, if that is elsewhere


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    launch: Launch
    port: int
    process: subprocess.Popen[bytes]


def make_key(config: Path, *arguments: str) -> str:
    """Make a key in the store of a configuration. Raises RuntimeError."""
    command = [str(RTCBRIDGE), "keys", "create", *arguments, "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.split()[-1]


def _bridge(port: int, directory: Path) -> Launch:
    config = directory / "bench.toml"
    config.write_text(BRIDGE_CONFIG.format(port=port, directory=directory), encoding="utf-8")
    return Launch(
        command=[str(RTCBRIDGE), "serve", "--config", str(config)],
        dialect="bridge",
        credential=make_key(config, "--project", "TEST01"),
        node_credential=make_key(config, "--node", "--pool", "default"),
    )


def _ws(port: int, _directory: Path) -> Launch:
    client_key, node_key = "sk_TEST01_my0Secret1Token2Value3", "nk_TEST01_my0Secret1Token2Value3"
    return Launch(
        command=["node", str(PEERS / "ws_relay.mjs")],
        dialect="bridge",
        environment={"PORT": str(port), "CLIENT_KEY": client_key, "NODE_KEY": node_key},
        credential=client_key,
        node_credential=node_key,
    )


def _peerserver(port: int, _directory: Path) -> Launch:
    command = ["node", str(PEERS / "peerserver.mjs")]
    return Launch(command=command, dialect="peerjs", environment={"PORT": str(port)})


LAUNCHERS = {"rtcbridge": _bridge, "ws": _ws, "peerserver": _peerserver}


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for a server that is starting. Raises RuntimeError, with the end of its log."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


@contextmanager
def running(name: str, core: int) -> Iterator[Server]:
    """Start a server pinned to `core` with a fresh store; stop it at the end.

    Raises:
        RuntimeError: it did not start; the end of its log is in the text.
    """
    with tempfile.TemporaryDirectory(prefix="rtcbridge-bench-") as folder:
        directory, port = Path(folder), free_port()
        launch = LAUNCHERS[name](port, directory)
        log = directory / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                launch.command,
                env={**os.environ, **launch.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                cwd=directory,
            )
        try:
            wait_until_listening(process, port, log)
            yield Server(name, launch, port, process)
        finally:
            stop(process)
