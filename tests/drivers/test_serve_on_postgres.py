"""`rtcbridge serve` on PostgreSQL, as processes: the bridge is killed, and the server is."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from drivers.postgres_server import PostgresServer
from gateway.programs import RTCBRIDGE, Home, environment, home, until
from rtcbridge.testing import FakeClient, FakeNode

pytestmark = pytest.mark.slow

CONFIG = """
[store]
url = "{url}"
[sessions]
resume_grace = 8
[nodes]
heartbeat = 0.2
missed = 40
[[pools]]
provider = "static"
"""


@contextmanager
def place_of(folder: Path, url: str) -> Iterator[Home]:
    with home(folder, CONFIG.format(url=url)) as place:
        place.store_url = url
        yield place


def rtcbridge(place: Home, *words: str) -> str:
    """Run a command to its end; return what it says."""
    command = [*RTCBRIDGE, *words, "--config", str(place.file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


async def off_loop(call: Callable[..., Any], *args: object) -> Any:
    return await asyncio.to_thread(call, *args)


async def soon(condition: Callable[[], Any], what: str) -> Any:
    return await off_loop(until, condition, what)


async def test_keys_of_the_command_line_and_a_killed_bridge(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with place_of(tmp_path, url) as place:
        bridge = await off_loop(place.serve)
        key = (await off_loop(rtcbridge, place, "keys", "create", "--project", "TEST01")).split()[-1]
        node_key = (await off_loop(rtcbridge, place, "keys", "create", "--node", "--pool", "default")).split()[-1]
        node = FakeNode(place.url, node_key, capacity=4)
        await node.connect()
        clients = [FakeClient(place.url, key) for _ in range(3)]
        for number, client in enumerate(clients):
            await client.connect()
            await client.start_session(f"{number}")
        # The command finds the bridge by way of the store.
        (pool,) = json.loads(await off_loop(rtcbridge, place, "pools", "--json"))
        assert (pool["name"], pool["sessions"]) == ("default", 3)

        first, second, _third = sorted(node.sessions, key=node.sessions.__getitem__)
        await clients[0].close()
        await node.expect("session_end", session=first)
        await soon(lambda: len(open_sessions(place)) == 2, "the end is stored")
        bridge.kill()
        await node.closed()

        # One session goes on over the death of the bridge, one is lost with its node's memory of it.
        node.sessions, node.connected = {second: ""}, {second}
        bridge = await off_loop(place.serve)
        await node.connect()
        await soon(lambda: open_sessions(place) == {second}, "the lost session is ended")
        assert node.epoch == 2
        async with FakeClient(place.url, key) as client:
            await client.start_session("new")
            await soon(lambda: len(open_sessions(place)) == 2, "the new session is stored")
        await soon(lambda: open_sessions(place) == {second}, "and its end")

        rows = {row.id: row for row in place.sessions()}
        assert len(rows) == 4
        assert {name for name, row in rows.items() if row.ended is not None and row.reason} == rows.keys() - {second}
        revoked = await off_loop(rtcbridge, place, "keys", "list", "--json")
        client = FakeClient(place.url, key)
        await client.connect()
        await client.expect("auth_success")
        number = next(row["id"] for row in json.loads(revoked) if row["project"] == "TEST01")
        await off_loop(rtcbridge, place, "keys", "revoke", number)
        assert await client.closed() == 1008

        node.connected = set()
        await node.close()
        await soon(lambda: not open_sessions(place), "the last session is ended")
        (usage,) = json.loads(await off_loop(rtcbridge, place, "usage", "--json"))
        seconds = sum(row.ended - row.started for row in place.sessions() if row.ended)
        assert usage == {"project": "TEST01", "sessions": 4, "open": 0, "seconds": pytest.approx(seconds, abs=1e-5)}
        assert bridge.end() == 0


def open_sessions(place: Home) -> set[str]:
    return {row.id for row in place.sessions() if row.ended is None}


async def test_a_bridge_outlives_its_database(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with place_of(tmp_path, url) as place:
        bridge = await off_loop(place.serve)
        key, node_key = await off_loop(place.client_key), await off_loop(place.node_key)
        async with FakeNode(place.url, node_key, capacity=4) as node, FakeClient(place.url, key) as before:
            await before.start_session("before")
            await soon(lambda: len(open_sessions(place)) == 1, "the session is stored")
            postgres.kill()
            # Known keys are let in, sessions start, are relayed and end.
            async with FakeClient(place.url, key) as during, FakeClient(place.url, key) as brief:
                assert await during.start_session("during") == "answer to during"
                await brief.start_session("brief")
                ended = next(name for name, offer in node.sessions.items() if offer == "brief")
                await brief.close()
                await node.expect("session_end", session=ended)
                await off_loop(bridge.line, "cannot be written")
                await off_loop(postgres.start)
                await off_loop(bridge.line, "written again")
                rows = {row.id: row for row in place.sessions()}
                assert len(rows) == 3
                assert {name for name, row in rows.items() if row.ended is not None} == {ended}
            await soon(lambda: len(open_sessions(place)) == 1, "the end is stored")
        new = await off_loop(place.client_key, "TEST02")
        async with FakeClient(place.url, new) as client:
            await client.expect("auth_success")
        assert bridge.end() == 0


async def test_a_second_bridge_on_one_store_is_refused(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with place_of(tmp_path, url) as place:
        bridge = await off_loop(place.serve)
        second = place.run("serve", RTCBRIDGE_SERVER__PORT="0")
        assert await off_loop(second.wait) == 1
        assert len(second.lines) == 1
        assert second.lines[0].startswith("rtcbridge serve: another bridge runs on the store postgresql://rtcbridge@")
        bridge.kill()
        bridge = await off_loop(place.serve)  # at once
        assert bridge.end() == 0
