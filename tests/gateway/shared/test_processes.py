"""Two bridges in processes of their own over one Valkey and one PostgreSQL; one of them is killed or stopped."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drivers.postgres_server import PostgresServer, postgres_server, programs
from engine.valkey import Server, program
from gateway.shared.replicas import candidate
from rtcbridge.drivers.ledger import KeyStore, open_store
from rtcbridge.testing import FakeNode
from rtcbridge.testing.extended import ExtendedClient
from wire.live import Program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (programs() and program()), reason="needs PostgreSQL and Valkey"),
]

_CONFIG = """
[server]
port = 0
[store]
url = "{store}"
[engine]
url = "{engine}"
[log]
format = "json"
[nodes]
heartbeat = 0.5
[[pools]]
name = "default"
provider = "static"
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    bin = programs()
    assert bin is not None
    with postgres_server(bin) as server:
        yield server


class Pair:
    """The two programs, with keys."""

    def __init__(self, folder: Path, store: str, engine: str) -> None:
        config = folder / "rtcbridge.toml"
        config.write_text(_CONFIG.format(store=store, engine=engine))
        self.log: list[str] = []
        self.store = store
        self.old, self.new = (Program(config, self.log) for _ in range(2))
        with open_store(store) as database:
            keys = KeyStore(database)
            self.client_key, self.node_key = keys.create_client_key("TEST01"), keys.create_node_key("default")
            keys.close()

    def node(self) -> FakeNode:
        """A node at the replica that stays."""
        return FakeNode(f"ws://127.0.0.1:{self.new.port}", self.node_key, labels={"updates": True})

    def client(self, replica: Program) -> ExtendedClient:
        return ExtendedClient(f"ws://127.0.0.1:{replica.port}", self.client_key)


@pytest.fixture
async def pair(tmp_path: Path, postgres: PostgresServer) -> AsyncIterator[Pair]:
    valkey = Server(tmp_path / "valkey")
    valkey.start()
    them = Pair(tmp_path, postgres.new_database(), valkey.url)
    try:
        await them.old.start()
        await them.new.start()
        yield them
    finally:
        await them.old.kill()
        await them.new.kill()
        valkey.kill()


async def live(client: ExtendedClient, node: FakeNode) -> str:
    """Bring the client's media up; return the session's id at the node."""
    await client.connect()
    await client.expect("auth_success")
    await client.start_session("first")
    return str(await node.until(lambda: next(iter(node.connected), None), "media"))


async def is_whole(client: ExtendedClient, node: FakeNode, session: str, id: int) -> None:
    """Both ways work, and each message comes once."""
    for number in range(20):
        await node.send("candidate", session=session, candidate=candidate(f"{number}"))
        await client.send("candidate", candidate=candidate(f"{number}"))
    for number in range(20):
        assert (await client.expect("candidate"))["candidate"]["candidate"] == f"{number}"
        assert (await node.expect("candidate", session=session))["candidate"]["candidate"] == f"{number}"
    await client.send("update", params={"a": id}, id=id)
    assert (await client.expect("updated"))["id"] == id
    await client.send("offer", sdp="restart of ICE")
    await client.expect("answer", sdp="answer to restart of ICE")


async def test_a_dropped_socket_is_followed_by_one_at_another_replica(pair: Pair) -> None:
    async with pair.node() as node:
        client = pair.client(pair.old)
        session = await live(client, node)
        for id, replica in enumerate((pair.new, pair.old, pair.new)):
            before, client = client, pair.client(replica)
            await before.drop()
            assert (await client.resume(before))["session"] == session
            await is_whole(client, node, session, id)
        await client.close()
        await node.expect("session_end", session=session)


async def test_a_live_session_outlives_its_replica(pair: Pair) -> None:
    async with pair.node() as node:
        before, client = pair.client(pair.old), pair.client(pair.new)
        session = await live(before, node)
        await pair.old.kill()
        assert await before.closed() == 1006
        assert (await client.resume(before))["anew"]
        await is_whole(client, node, session, 1)
        await client.close()
        await node.expect("session_end", session=session)


async def test_a_replica_that_stops_hands_over_all_that_it_has(pair: Pair) -> None:
    async with pair.node() as node:
        before = [pair.client(pair.old) for _ in range(3)]
        session = await live(before[0], node)
        for client in before[1:]:
            await client.connect()
            await client.send("session_start")
            await client.expect("node_status", status="full")
        assert pair.old.process is not None
        pair.old.process.send_signal(signal.SIGTERM)
        for client in before:
            assert await client.closed() == 1012
            assert client.inbox[-1]["type"] == "reconnect"
        assert await pair.old.process.wait() == 0
        await node.send("candidate", session=session, candidate=candidate("meanwhile"))
        after = [pair.client(pair.new) for _ in before]
        for client, old in zip(after, before, strict=True):
            assert "anew" not in await client.resume(old)
        assert (await after[0].expect("candidate"))["candidate"]["candidate"] == "meanwhile"
        await is_whole(after[0], node, session, 1)
        for position, client in enumerate(after[1:], start=1):
            await client.expect("node_status", status="full", position=position)
        await after[0].close()
        await after[1].expect("node_status", status="waiting")
        for client in after[1:]:
            await client.close()
