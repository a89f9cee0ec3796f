"""Two bridges in processes of their own over one Valkey and one PostgreSQL; one of them is killed or stopped."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from drivers.postgres_server import PostgresServer, postgres_server, programs
from engine.sentinel import service
from engine.valkey import Server, program
from gateway.shared.replicas import candidate
from rtcbridge.drivers.ledger import KeyStore, open_store
from rtcbridge.drivers.ledger.ledger import LedgerReader
from rtcbridge.ports import SessionRow
from rtcbridge.testing import FakeClient, FakeNode
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
        self.store, self.engine = store, engine
        self.old, self.new = (Program(config, self.log) for _ in range(2))
        with open_store(store) as database:
            keys = KeyStore(database)
            self.client_key, self.node_key = keys.create_client_key("TEST01"), keys.create_node_key("default")
            keys.close()

    def node(self) -> FakeNode:
        """A node at the replica that stays."""
        return FakeNode(f"ws://127.0.0.1:{self.new.port}", self.node_key, labels={"updates": True})

    async def until_gone(self, *keys: str) -> None:
        """Wait until the engine has nothing under these keys; nothing tells of that."""
        with redis.Redis.from_url(self.engine) as engine:
            async with asyncio.timeout(20):
                while any(engine.exists(f"rtcbridge:{{default}}:{key}") for key in keys):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    def rows(self) -> list[SessionRow]:
        """What the ledger has."""
        with open_store(self.store) as database:
            return list(LedgerReader(database).sessions())

    async def logged(self, event: str) -> None:
        """Wait until a replica has logged this."""
        async with asyncio.timeout(20):
            while not any(f'"event": "{event}"' in line for line in self.log):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def documented(self, replica: Program) -> FakeClient:
        return FakeClient(f"ws://127.0.0.1:{replica.port}", self.client_key)

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


async def test_a_failover_of_the_engine_loses_no_session_and_no_message(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    with service(tmp_path) as engine:
        pair = Pair(tmp_path, postgres.new_database(), engine.url)
        try:
            await pair.old.start()
            await pair.new.start()
            async with pair.node() as node:
                client = pair.client(pair.old)
                session = await live(client, node)
                engine.master.kill()
                await is_whole(client, node, session, 1)
                assert engine.role(engine.second) == "master"
                second = pair.client(pair.old)
                await second.connect()
                await second.send("session_start")
                await second.expect("node_status", status="full")
                await client.close()
                await second.expect("node_status", status="waiting")
                await second.close()
        finally:
            await pair.old.kill()
            await pair.new.kill()


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


@pytest.mark.parametrize("end", ["closed", "left behind"])
async def test_what_a_killed_replica_could_not_write_is_in_the_ledger_once(
    pair: Pair, postgres: PostgresServer, end: str
) -> None:
    """It began while the store stood still, and was over, or not, when its bridge was killed."""
    async with pair.node() as node:
        client = pair.client(pair.old)
        await client.connect()
        await client.expect("auth_success")
        began = time.time()
        with postgres.frozen():
            await client.start_session("first")
            session = str(await node.until(lambda: next(iter(node.connected), None), "media"))
            if end == "closed":
                await client.close()
                await node.expect("session_end", session=session)
                await pair.until_gone("sessions")
            await pair.old.kill()
            ended = time.time()
        if end == "left behind":
            await node.send("session_state", session=session, state="closed")
        await pair.until_gone("sessions", "journal", "ended", "maybe")
        (row,) = pair.rows()
        assert (row.id, row.node, row.project, row.pool) == (session, node.payload["node"], "TEST01", "default")
        assert row.ended is not None
        if end == "closed":
            assert began - 0.1 < row.started <= row.ended < ended + 0.1
            assert row.reason != "bridge lost"


@pytest.mark.parametrize("confirmed", [False, True])
async def test_what_ended_while_its_replica_was_frozen_does_not_go_on_there(pair: Pair, confirmed: bool) -> None:
    """Another one had taken it over. The engine knows that it has ended, or the ledger alone does by then."""
    assert pair.old.process is not None
    async with pair.node() as node, pair.documented(pair.old) as client:
        await client.start_session("first")
        session = str(await node.until(lambda: next(iter(node.connected), None), "media"))
        pair.old.process.send_signal(signal.SIGSTOP)
        await pair.logged("session taken over")
        await node.send("session_state", session=session, state="closed")
        await pair.until_gone("sessions", *(("journal",) if confirmed else ()))
        pair.old.process.send_signal(signal.SIGCONT)
        await client.expect("error", message="The node was lost.")
        await client.expect("node_status", status="waiting")
        await client.start_session("second")
        assert [row.id for row in pair.rows() if row.ended is not None] == [session]
