"""A real Sentinel with two servers: a master, and one that follows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from engine.valkey import Server


@dataclass
class Service:
    """All of it; the name of the service is `main`."""

    master: Server
    second: Server
    sentinel: Server

    @property
    def url(self) -> str:
        """What `engine.url` takes."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main"

    def role(self, server: Server) -> str:
        """What a server says that it is."""
        with redis.Redis(port=server.port) as client:
            return str(client.info("replication")["role"])  # type: ignore[index]

    def _knows_the_second(self) -> bool:
        with redis.Redis(port=self.sentinel.port, decode_responses=True) as client:
            return bool(client.sentinel_slaves("main"))

    def _follows(self) -> bool:
        with redis.Redis(port=self.second.port) as client:
            return bool(client.info("replication")["master_link_status"] == "up")  # type: ignore[index]

    def wait(self) -> None:
        """Wait until a failover could be made."""
        for condition in (self._knows_the_second, self._follows):
            _until(condition)


def _until(condition: Callable[[], bool]) -> None:
    over = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < over, "the Sentinel is not ready"
        time.sleep(0.1)


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    """Run it; a failover takes about a second."""
    with ExitStack() as stack:
        master = Server(folder / "master")
        second = Server(folder / "second", "--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
        sentinel = Server(folder / "sentinel")
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {sentinel.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        sentinel.command = (str(file), "--sentinel")
        for server in (master, second, sentinel):
            server.start()
            stack.callback(server.kill)
        found = Service(master, second, sentinel)
        found.wait()
        yield found
