"""A real coturn, with the configuration that docs/how-to/turn.md shows, word for word."""

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.programs import Program

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "turn.md"
TURNSERVER = shutil.which("turnserver", path="/usr/bin:/usr/sbin:/usr/local/bin")
needs_coturn = pytest.mark.skipif(TURNSERVER is None, reason="COTURN TESTS SKIPPED: apt-get install coturn")


def documented() -> str:
    """The configuration on the page."""
    (text,) = re.findall(r"^```conf\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(text)


def secret() -> str:
    """The secret in it."""
    return str(re.findall(r"^static-auth-secret=(\S+)$", documented(), re.MULTILINE)[0])


class Coturn:
    """One that runs. `url` is its address as an ICE server's."""

    def __init__(self, program: Program, address: str, port: int) -> None:
        self.program = program
        self.address, self.port = address, port

    @property
    def url(self) -> str:
        return f"turn:{self.address}:{self.port}?transport=udp"

    def relayed_for(self) -> list[str]:
        """The names in the credentials with which relaying was begun, in order."""
        pattern = re.compile(r"user <([^>]+)>: incoming packet ALLOCATE processed, success")
        return [found[1] for line in self.program.lines if (found := pattern.search(line))]


@contextmanager
def coturn(folder: Path, address: str, *more: str, port: int = 0, inside: tuple[str, ...] = ()) -> Iterator[Coturn]:
    """Run it at this address; `inside` comes before the command, `more` behind it."""
    assert TURNSERVER is not None
    if not port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
    file = folder / "turnserver.conf"
    file.write_text(documented())
    here = [f"--pidfile={folder}/turn.pid", f"--userdb={folder}/turndb", "--log-file=stdout", "--verbose"]
    where = [f"--listening-ip={address}", f"--relay-ip={address}", f"--listening-port={port}"]
    program = Program(*inside, TURNSERVER, "-c", str(file), *where, *here, "--no-tls", "--no-dtls", *more)
    try:
        program.line(rf"UDP listener opened on.*{re.escape(address)}:{port}")
        yield Coturn(program, address, port)
    finally:
        program.dispose()
