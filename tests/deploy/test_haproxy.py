"""HAProxy's file, and what it does in front of two real bridges."""

import asyncio
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from deploy.files import DEPLOY
from gateway.bridges import Running, running
from rtcbridge.config import Config
from rtcbridge.config import Server as ServerConfig
from rtcbridge.testing import FakeClient

FILE = DEPLOY / "haproxy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="HAPROXY TESTS SKIPPED: apt-get install haproxy")


def test_a_silent_socket_is_kept_longer_than_the_bridges_ping_takes() -> None:
    (tunnel,) = re.findall(r"^\s*timeout tunnel (\d+)s$", FILE.read_text(), re.MULTILINE)
    assert int(tunnel) > Config().server.ping_interval + Config().server.ping_timeout


@needs_haproxy
async def test_haproxy_accepts_its_file() -> None:
    assert HAPROXY is not None
    check = await asyncio.create_subprocess_exec(
        HAPROXY, "-c", "-f", FILE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await check.communicate())[0].decode()
    assert check.returncode == 0, said
    # The bridges' names are of the containers' network; nothing else may be wrong.
    complaints = [line for line in said.splitlines() if "WARNING" in line and "could not resolve address" not in line]
    assert complaints == []


class Balanced:
    """HAProxy in front of two bridges, each in this process and with a node of its own."""

    def __init__(self, port: int, control: Path, bridges: list[Running]) -> None:
        self.port = port
        self.bridges = bridges
        self._control = control

    def client(self, bridge: Running) -> FakeClient:
        """A client with a key of this bridge, which the other does not know."""
        return FakeClient(f"ws://127.0.0.1:{self.port}", bridge.client_key)

    async def until(self, states: list[str]) -> None:
        """Wait until HAProxy says so of its bridges."""
        async with asyncio.timeout(20):
            while await self._states() != states:  # noqa: ASYNC110 - it is asked over a socket
                await asyncio.sleep(0.02)

    async def _states(self) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(str(self._control))
        writer.write(b"show stat\n")
        rows = [line.split(",") for line in (await reader.read()).decode().splitlines() if line.startswith("bridges,")]
        writer.close()
        return [row[17].split()[0] for row in rows if row[1] != "BACKEND"]


@pytest.fixture
async def balanced(tmp_path: Path) -> AsyncIterator[Balanced]:
    trusting = ServerConfig(port=0, trusted_proxies=("127.0.0.1",))
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with running(folders[0], server=trusting) as one, running(folders[1], server=trusting) as two:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        text = FILE.read_text().replace("bind :8080", f"bind 127.0.0.1:{port}").replace("log stdout", "log 127.0.0.1:9")
        for number, bridge in enumerate((one, two), 1):
            text = text.replace(f"bridge{number}:8080", f"127.0.0.1:{bridge.port}")
        with tempfile.TemporaryDirectory() as short:  # the path of a socket may not be long
            control = Path(short) / "haproxy.sock"
            file = tmp_path / "haproxy.cfg"
            text = text.replace("\nglobal\n", f"\nglobal\n    stats socket {control}\n").replace("20000", "100")
            file.write_text(text)
            async with program(file, control):
                found = Balanced(port, control, [one, two])
                await found.until(["UP", "UP"])
                yield found


@asynccontextmanager
async def program(file: Path, control: Path) -> AsyncIterator[None]:
    """HAProxy, from when it can be asked how it is."""
    assert HAPROXY is not None
    with file.with_suffix(".log").open("wb") as log:
        haproxy = await asyncio.create_subprocess_exec(HAPROXY, "-db", "-f", file, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(control.exists):
                assert haproxy.returncode is None, file.with_suffix(".log").read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        if haproxy.returncode is None:
            haproxy.kill()
        await haproxy.wait()


@needs_haproxy
@pytest.mark.slow
async def test_a_bridge_that_stops_keeps_its_clients_and_gets_no_new_ones(balanced: Balanced) -> None:
    one, two = balanced.bridges
    two.server._ready = False
    await balanced.until(["UP", "DOWN"])
    async with balanced.client(one) as client, one.node():
        two.server._ready = True
        await balanced.until(["UP", "UP"])
        one.server._ready = False  # as for as long as it stops
        await balanced.until(["DOWN", "UP"])
        assert await client.start_session() == "answer to an offer"
        async with balanced.client(two):  # which only the other bridge lets in
            pass
        await client.send(type="session_start")
        await client.expect("node_status")


@needs_haproxy
@pytest.mark.slow
async def test_a_dead_bridge_costs_nobody_anything(balanced: Balanced) -> None:
    one, two = balanced.bridges
    await one.server.listener.close(timeout=1.0)
    for _ in range(4):  # also those that are sent to the dead one, before HAProxy knows
        async with balanced.client(two):
            pass


@needs_haproxy
@pytest.mark.slow
async def test_what_clients_say_of_their_address_is_not_believed(balanced: Balanced) -> None:
    lies = {"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=198.51.100.2", "Authorization": "Bearer ak_wrong"}
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=transport, headers=lies) as client:
        with capture_logs() as logs:
            answer = await client.get(f"http://127.0.0.1:{balanced.port}/v1/admin/bridge")
    assert answer.status_code == 401
    assert [line["address"] for line in logs if line["event"] == "admin key refused"] == ["127.0.0.2"]
