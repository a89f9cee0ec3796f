"""Client tokens at two bridges in processes of their own, over one Valkey and one PostgreSQL."""

import asyncio
import os
import sys

import httpx
import jwt
import pytest

from drivers.postgres_server import programs
from engine.valkey import program
from gateway.shared.test_processes import Pair, pair, postgres  # noqa: F401 - fixtures
from rtcbridge.drivers.engine.redis_quotas import LASTS
from rtcbridge.testing import FakeClient
from rtcbridge.testing.extended import ExtendedClient
from wire.live import Program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (programs() and program()), reason="needs PostgreSQL and Valkey"),
]


def http(replica: Program, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{replica.port}", headers=headers, trust_env=False)


async def token(replica: Program, key: str, **asked: object) -> str:
    async with http(replica, key) as client:
        answer = await client.post("/v1/tokens", json=asked)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


def extended(replica: Program, shown: str) -> ExtendedClient:
    return ExtendedClient(f"ws://127.0.0.1:{replica.port}", shown)


async def rotate(store: str) -> None:
    """As an operator does it, in another process."""
    done = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rtcbridge",
        "keys",
        "rotate",
        "--signing",
        env=os.environ | {"RTCBRIDGE_STORE__URL": store},
    )
    assert await done.wait() == 0


async def published(replica: Program) -> set[str]:
    async with http(replica, "none") as client:
        keys = (await client.get("/.well-known/jwks.json")).json()["keys"]
        return {key["kid"] for key in keys}


async def test_tokens_over_a_rotation(pair: Pair) -> None:  # noqa: F811
    first = await token(pair.old, pair.client_key, expires_in=600)
    assert await published(pair.old) == {jwt.get_unverified_header(first[3:])["kid"]}
    await rotate(pair.store)
    async with asyncio.timeout(15):
        while len(await published(pair.old)) < 2 or len(await published(pair.new)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        second = first
        while jwt.get_unverified_header(second[3:])["kid"] == jwt.get_unverified_header(first[3:])["kid"]:
            await asyncio.sleep(0.2)
            second = await token(pair.new, pair.client_key)
    for shown in (first, second):
        for replica in (pair.old, pair.new):
            async with FakeClient(f"ws://127.0.0.1:{replica.port}", shown) as client:
                await client.expect("auth_success")


async def test_sessions_are_counted_over_both_and_a_dead_ones_lapse(pair: Pair) -> None:  # noqa: F811
    shown = await token(pair.new, pair.client_key, expires_in=600, max_sessions=1)
    async with pair.node(), extended(pair.new, shown) as second:
        first = extended(pair.old, shown)
        await first.connect()
        await first.send("session_start")  # holds a reservation, which dies with its bridge
        await first.expect("node_status", status="waiting")
        await second.send("session_start")
        assert (await second.expect("error"))["code"] == "session_limit"
        await pair.old.kill()
        async with asyncio.timeout(LASTS + 15):
            while True:
                await second.send("session_start")
                answer = await second.until(
                    lambda: next((m for m in second.inbox if m["type"] in ("error", "node_status")), None), "an answer"
                )
                second.inbox.remove(answer)
                if answer["type"] == "node_status":
                    break
                await asyncio.sleep(0.5)
