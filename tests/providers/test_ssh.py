"""A whole bridge whose nodes are real agents on real OpenSSH servers."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import psutil
import pytest

from docs.pages import ROOT
from drivers.sshd import Host, needs_sshd
from gateway.programs import home
from providers.site import Life, Site, config

pytestmark = [pytest.mark.slow, needs_sshd]

AGENT = f"PYTHONPATH={shlex.quote(str(ROOT / 'src'))} exec {sys.executable} -m rtcbridge node passthrough"


class Accounts:
    """`Machines` as folders and processes of two hosts."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    def there(self) -> list[str]:
        return [folder.name for host in self.hosts for folder in (host.home / ".rtcbridge").glob("*/*")]

    def running(self) -> list[str]:
        return [node for _, node in self.processes()]

    def processes(self) -> list[tuple[int, str]]:
        """The agents, whoever started them: a shell that is to become one does not count."""
        homes = tuple(str(host.home) for host in self.hosts)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "rtcbridge" not in (process.info["cmdline"] or []):
                continue
            try:
                env = process.environ()
            except psutil.Error:
                continue
            if env.get("RTCBRIDGE_FOLDER", "").startswith(homes):
                found.append((process.pid, env["RTCBRIDGE_NODE"]))
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "id")
    key.write_public_key(tmp_path / "id.pub")
    (tmp_path / "id").chmod(0o600)
    hosts = [Host(tmp_path / name, tmp_path / "id") for name in ("one", "two")]
    (tmp_path / "known_hosts").write_text("".join(host.known for host in hosts))
    options = f"""
[pools.ssh]
hosts = {[host.name for host in hosts]}
command = {AGENT!r}
key = "{tmp_path}/id"
known_hosts = "{tmp_path}/known_hosts"
list_interval = 0.5
"""
    accounts = Accounts(hosts)
    try:
        with home(tmp_path, config('provider = "ssh"', options)) as place:
            yield Site(place, accounts)
    finally:
        for host in hosts:
            host.close()
        for pid, _ in accounts.processes():
            os.kill(pid, signal.SIGKILL)


class TestSsh(Life):
    """Nothing of its own."""
