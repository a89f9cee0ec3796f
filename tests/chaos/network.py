"""Networks of their own for replicas, so that a way between two parts can be cut off as a cable is: packets are lost.

Each replica is in a network namespace, with one virtual cable for each of its ways: a cable that is pulled takes no
packet, resets nothing, and tells neither side. It takes root, and iproute2; without, ways are proxies that stand still.
"""

import functools
import itertools
import os
import shutil
import subprocess

_numbers = itertools.count()
_HOSTS = 4  # addresses of a cable's network: its own, the two ends, all


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@functools.cache
def can_be_made() -> bool:
    """Say whether namespaces and cables can be made here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    network = Network()
    try:
        network.cable()
    except OSError:
        return False
    finally:
        network.remove()
    return True


class Network:
    """A namespace. Its name and addresses are those of this process and no other.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self) -> None:
        self._number = next(_numbers)
        self.name = f"rtcb{os.getpid()}-{self._number}"
        self._cables = 0
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    def cable(self) -> "Cable":
        """Lay another cable into it."""
        self._cables += 1
        return Cable(self, self._cables)

    def command(self) -> list[str]:
        """What is put before a command that is to run in it."""
        return ["ip", "netns", "exec", self.name]

    def block(self, cable: int) -> tuple[str, str]:
        """The addresses of both ends of a cable: out of 198.18.0.0/15, which is for tests (RFC 2544)."""
        base = (os.getpid() % 512) << 8 | (self._number % 8) << 5 | (cable % 8) * _HOSTS
        where = f"198.{18 + (base >> 16)}.{base >> 8 & 255}"
        return f"{where}.{(base & 255) + 1}", f"{where}.{(base & 255) + 2}"

    def remove(self) -> None:
        """Remove it, with its cables."""
        _ip("netns", "del", self.name)


class Cable:
    """One way into a namespace.

    Attributes:
        outside: The address of this end.
        inside: The one of the end in the namespace.
    """

    def __init__(self, network: Network, number: int) -> None:
        self._name = f"rb{os.getpid() % 100_000}.{network.name.rpartition('-')[2]}.{number}"
        self.outside, self.inside = network.block(number)
        _ip("link", "add", self._name, "type", "veth", "peer", "name", f"way{number}", "netns", network.name)
        _ip("addr", "add", f"{self.outside}/30", "dev", self._name)
        _ip("-n", network.name, "addr", "add", f"{self.inside}/30", "dev", f"way{number}")
        _ip("-n", network.name, "link", "set", f"way{number}", "up")
        self.plug()

    def pull(self) -> None:
        """Let no packet pass."""
        _ip("link", "set", self._name, "down")

    def plug(self) -> None:
        """Let packets pass again."""
        _ip("link", "set", self._name, "up")
