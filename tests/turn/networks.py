"""Three networks on this machine: the client's and the node's have no way to each other, and both one to the service.

Linux's network namespaces, joined by pairs of virtual interfaces. The middle one forwards nothing. It takes root.

    client 198.51.100.2 ── 198.51.100.1 [service 192.0.2.1] 203.0.113.1 ── 203.0.113.2 node
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SERVICE = "192.0.2.1"
_CLIENT, _NODE = "198.51.100", "203.0.113"
_numbers = itertools.count()


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _reason() -> str:
    """Why there can be none here, or nothing."""
    if shutil.which("ip") is None:
        return "there is no `ip`: apt-get install iproute2"
    name = f"rtcb{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except OSError as error:
        return str(error)
    return ""


class Networks:
    """The three of them."""

    def __init__(self) -> None:
        number = f"{os.getpid() % 10_000}-{next(_numbers)}"
        self.service, self.client, self.node = (f"rtcb{letter}{number}" for letter in "scn")
        self._host = 2  # the client's address ends so

    @staticmethod
    def inside(network: str) -> tuple[str, ...]:
        """What comes before a command that is to run there."""
        return "ip", "netns", "exec", network

    def make(self) -> None:
        """Make and join them."""
        for name in (self.service, self.client, self.node):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self.service, "addr", "add", f"{SERVICE}/32", "dev", "lo")
        for name, net, device in ((self.client, _CLIENT, "toclient"), (self.node, _NODE, "tonode")):
            ours = ("netns", self.service)
            _ip("link", "add", "up0", "netns", name, "type", "veth", "peer", "name", device, *ours)
            _ip("-n", self.service, "addr", "add", f"{net}.1/24", "dev", device)
            _ip("-n", self.service, "link", "set", device, "up")
            _ip("-n", name, "addr", "add", f"{net}.2/24", "dev", "up0")
            _ip("-n", name, "link", "set", "up0", "up")
            _ip("-n", name, "route", "add", "default", "via", f"{net}.1")

    def move(self) -> str:
        """Give the client another address, and take the old one away; return the new one."""
        old, self._host = self._host, self._host + 1
        _ip("-n", self.client, "addr", "del", f"{_CLIENT}.{old}/24", "dev", "up0")
        _ip("-n", self.client, "addr", "add", f"{_CLIENT}.{self._host}/24", "dev", "up0")
        _ip("-n", self.client, "route", "replace", "default", "via", f"{_CLIENT}.1")
        return f"{_CLIENT}.{self._host}"

    def remove(self) -> None:
        """Remove them, with whatever joins them."""
        for name in (self.service, self.client, self.node):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


@contextmanager
def networks() -> Iterator[Networks]:
    """Have three networks; skips the test where none can be made."""
    if reason := _reason():
        pytest.skip(f"TESTS IN NETWORKS OF THEIR OWN SKIPPED: {reason}")
    made = Networks()
    try:
        made.make()
        yield made
    finally:
        made.remove()
