"""Several bridges over one Valkey and one PostgreSQL, behind HAProxy, as the world of vectors."""

import asyncio
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from engine.valkey import Server
from rtcbridge.conformance.sockets import PATIENCE
from rtcbridge.conformance.vectors import Limits, Vector
from wire.live import Bridge, Program
from wire.quiet import Quiet

_HAPROXY = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend bridge
    bind 127.0.0.1:{port}
    use_backend nodes if {{ path /node }}
    default_backend clients
backend clients
    server a 127.0.0.1:{clients}
backend nodes
    server b 127.0.0.1:{nodes}
"""


def haproxy() -> str | None:
    """The program; Debian has it where only root looks."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


class Replicas(Bridge):
    """Two or three bridges: clients reach one, nodes another, and where there are three the third leads all pools.

    Args:
        folder, vectors, limits, store: see `Bridge`.
        engine: the server that they share.
        count: how many there are.
    """

    def __init__(
        self, folder: Path, vectors: Sequence[Vector], limits: Limits, store: str, engine: Server, count: int
    ) -> None:
        super().__init__(folder, vectors, limits, store)
        self._engine = engine
        settings = {"RTCBRIDGE_ENGINE__URL": engine.url, "RTCBRIDGE_SERVER__METRICS": "127.0.0.1:0"}
        self._replicas = [Program(self.config, self.log, **settings) for _ in range(count)]
        self._quiet = Quiet(self._replicas, engine.url)
        self._proxy: asyncio.subprocess.Process | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    async def start(self) -> None:
        """Start them, the one that is to lead first; then what stands before them."""
        for replica in reversed(self._replicas):
            replica.settings["RTCBRIDGE_SERVER__PUBLIC_URL"] = f"ws://127.0.0.1:{self._port}"
            await replica.start()
        await self._start_proxy()
        self.url = f"ws://127.0.0.1:{self._port}"

    async def quiet(self, pool: str) -> None:
        """See `Bridge`; here a consequence may have to come from one bridge to another."""
        await self._quiet.wait(pool)

    async def _start_proxy(self) -> None:
        program = haproxy()
        assert program is not None
        clients, nodes = self._replicas[0].port, self._replicas[1].port
        config = self.folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=self._port, clients=clients, nodes=nodes))
        self._proxy = await asyncio.create_subprocess_exec(program, "-f", str(config))
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    assert self._proxy.returncode is None, config.read_text()
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        """`kill -9`, all of them at once."""
        if self._proxy is not None and self._proxy.returncode is None:
            self._proxy.kill()
            await self._proxy.wait()
        await asyncio.gather(*(replica.kill() for replica in self._replicas))
        await self._quiet.close()
