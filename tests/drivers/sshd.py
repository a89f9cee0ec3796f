"""Real OpenSSH servers on loopback, each with a home of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import asyncssh
import psutil
import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
TOOLS = all(shutil.which(tool) for tool in ("flock", "setsid"))
MISSING = "" if SSHD and TOOLS else "not installed: apt-get install openssh-server util-linux"
needs_sshd = pytest.mark.skipif(bool(MISSING), reason=f"SSH TESTS SKIPPED: {MISSING}")

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
MaxSessions 10
SetEnv HOME={folder}/home
"""


class Host:
    """An OpenSSH server; its users' home is a folder of the test."""

    def __init__(self, folder: Path, key: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        host_key.write_private_key(folder / "host_key")
        (folder / "host_key").chmod(0o600)
        self.known = f"[127.0.0.1]:{self.port} {host_key.export_public_key().decode()}"
        shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder))
        self.start()

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)

    def close(self) -> None:
        """End the server and the connections that it has."""
        processes = [*psutil.Process(self.process.pid).children(recursive=True)] if self.process.poll() is None else []
        sessions = [process for process in processes if process.name() == "sshd"]
        self.process.terminate()
        self.process.wait(10)
        for session in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()
