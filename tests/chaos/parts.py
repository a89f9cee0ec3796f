"""Processes that can be killed, frozen and started again, and ways between them that can be paused."""

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.network import Cable, Network
from wire.replicas import haproxy

PATIENCE = 60.0  # seconds until something that has to come counts as never coming
TESTS = Path(__file__).resolve().parents[1]

_LINK = """
global
    maxconn 3000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen link
    bind {host}:{port}
    server there {upstream}
"""


def faketime() -> str | None:
    """The library that gives a process another time of day; None where it is not installed."""
    return next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so. Raises AssertionError if it never is."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"{what}: not in {PATIENCE:g} s"
        time.sleep(0.02)


class Program:
    """A process that can be killed, frozen, and started again."""

    def __init__(self, name: str, command: Sequence[str], log: Path, **environment: str) -> None:
        self.name, self.command, self.log = name, command, log
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("RTCBRIDGE_")}
        self._environment |= {"PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]), **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Let it stand still."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Link(Program):
    """A way to a port. Frozen, it is a network that stands still.

    Args:
        name: of the way.
        upstream: where it leads, "host:port".
        folder: for its files.
        cable: what is pulled to freeze it; without one, connections stay, and new ones seem to be made.
        host: where it begins.
    """

    def __init__(
        self, name: str, upstream: str, folder: Path, cable: Cable | None = None, host: str = "127.0.0.1"
    ) -> None:
        program = haproxy()
        assert program is not None
        self.host, self.port, self._cable = host, free_port(), cable
        config = folder / f"{name}.cfg"
        config.write_text(_LINK.format(host=host, port=self.port, upstream=upstream))
        super().__init__(name, [program, "-db", "-f", str(config)], folder / "links.log")

    def start(self) -> None:
        """See `Program`; it listens when this returns."""
        super().start()
        wait_for(lambda: listens(self.port, self.host), f"the way {self.name}")

    def freeze(self) -> None:
        """See `Program`."""
        super().freeze() if self._cable is None else self._cable.pull()

    def thaw(self) -> None:
        """See `Program`."""
        super().thaw() if self._cable is None else self._cable.plug()

    def cut(self) -> None:
        """Reset all connections."""
        self.kill()
        self.start()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether connections to a port are taken."""
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), 1.0).close()
        return True
    return False


class Replica(Program):
    """`rtcbridge serve`.

    Args:
        name: of the replica.
        port: that it listens on.
        config: its configuration.
        log: where its output goes.
        skew: by how much its clock is wrong, as libfaketime reads it.
        network: where it runs, if that is not here.
        host: where it is reached.
    """

    def __init__(
        self,
        name: str,
        port: int,
        config: Path,
        log: Path,
        skew: str = "",
        network: Network | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        environment = {}
        if skew:
            library = faketime()
            assert library is not None
            environment = {"LD_PRELOAD": library, "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.host, self.port = host, port
        into = [] if network is None else network.command()
        command = [*into, sys.executable, "-m", "rtcbridge", "serve", "--config", str(config)]
        super().__init__(name, command, log, **environment)

    @property
    def is_ready(self) -> bool:
        """What /readyz says."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as asked:
            asked.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return asked.recv(64).startswith(b"HTTP/1.1 200")
        return False

    def wait_ready(self) -> None:
        """Wait until it serves. Raises AssertionError with the end of its log."""

        def is_ready() -> bool:
            assert self.runs, self.log.read_text()[-3000:]
            return self.is_ready

        wait_for(is_ready, f"the replica {self.name}")
