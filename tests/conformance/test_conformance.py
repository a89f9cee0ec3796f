"""`rtcbridge conformance`: ours passes, alone and in several replicas; a bridge that breaks a rule fails there."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conformance.broken import Alter, broken
from rtcbridge.conformance.vectors import Vector
from wire.live import Bridge, running

pytestmark = pytest.mark.slow

POOL = Vector(name="any", rule="any", pool={"provider": "static"}, steps=[])


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running(Bridge(tmp_path, [POOL], {})) as bridge:
        yield bridge


def keys(bridge: Bridge, *, nodes: bool = True) -> list[str]:
    values = bridge.worlds[0].values
    found = ["--key", values["client_key"], "--pool", values["pool"], "--revoked-key", values["revoked_key"]]
    return found + (["--node-key", values["node_key"]] if nodes else [])


async def play(*arguments: str, limit: float = 300.0) -> tuple[int, str, str]:
    """Run the command; return its status, stdout and stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RTCBRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-O", "-m", "rtcbridge", "conformance", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    try:
        async with asyncio.timeout(limit):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def results(url: str, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    status, out, err = await play(url, "--json", *arguments)
    assert not err
    return status, json.loads(out)


def failed(found: list[dict[str, Any]]) -> dict[str, str]:
    return {each["name"]: each["detail"] for each in found if each["outcome"] == "fail"}


def passed(found: list[dict[str, Any]]) -> int:
    return sum(each["outcome"] == "pass" for each in found)


async def test_ours_passes(bridge: Bridge) -> None:
    status, found = await results(bridge.url, *keys(bridge), "--timeout", "20", "--pause", "0.1")
    assert failed(found) == {}
    assert status == 0
    assert passed(found) > 90
    assert {each["dialect"] for each in found if each["outcome"] == "pass"} == {"documented", "extension"}
    assert all(each["detail"] for each in found if each["outcome"] == "skip")


async def test_with_a_clients_key_alone_no_slot_is_asked_for(bridge: Bridge) -> None:
    status, out, err = await play(bridge.url, *keys(bridge, nodes=False))
    assert (status, err) == (0, "")
    assert "  pass  documented  an unknown key: gets the same close" in out
    assert "skipped: needs --node-key and a pool of its own" in out
    assert ", 0 failed, " in out.splitlines()[-1]


BROKEN: list[tuple[str, Alter, int | None, str]] = [
    ("the documented order", lambda message: None if message["type"] == "answer" else message, None, "nothing came"),
    (
        "session_start again",
        lambda message: message | {"since": 1} if message["type"] == "node_status" else message,
        None,
        "'since': 1",
    ),
    ("an unknown key", lambda message: message, 4001, "the end (4001) instead of the end (1008)"),
]


@pytest.mark.parametrize(("name", "alter", "code", "instead"), BROKEN, ids=[each[0] for each in BROKEN])
async def test_a_broken_rule_is_found(bridge: Bridge, name: str, alter: Alter, code: int | None, instead: str) -> None:
    more = ("--only", f": {name}: ", "--timeout", "3")
    async with broken(bridge.url) as sound:
        status, found = await results(sound, *keys(bridge), *more)
        assert (status, failed(found)) == (0, {}), "the proxy itself breaks nothing"
    async with broken(bridge.url, alter, code) as unsound:
        status, found = await results(unsound, *keys(bridge), *more)
    assert status == 1
    assert list(failed(found)) == [name]
    assert instead in failed(found)[name]


async def test_nothing_can_be_played(bridge: Bridge) -> None:
    own = keys(bridge)
    wrong = "sk_AAAAAA_aaaaaaaaaaaaaaaaaaaaaaaa"
    for arguments, text in {
        ("ws://127.0.0.1:1", *own): "no bridge answers at ws://127.0.0.1:1",
        (bridge.url, "--key", wrong): "the bridge refused the key",
        (bridge.url, *own, "--node-key", "nk_x"): "the bridge refused the node key for the pool",
        (f"{bridge.url}/elsewhere", *own): "HTTP 404",
        ("mail://x", *own): "expected ws://HOST",
        (bridge.url,): "--key is missing (or set RTCBRIDGE_KEY)",
        (bridge.url, *own, "--only", "no such rule"): "no rule has the text 'no such rule'",
    }.items():
        status, out, err = await play(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert text in err


async def test_a_pool_with_somebody_elses_node(bridge: Bridge) -> None:
    world = bridge.worlds[0]
    await world.connect("n1", "/node", "")
    payload = {"credential": world.values["node_key"], "node": "theirs", "pool": world.values["pool"]}
    await world.send("n1", [(True, json.dumps({"type": "REGISTER", "payload": payload}).encode())])
    status, _, err = await play(bridge.url, *keys(bridge))
    await world.finish()
    assert status == 2
    assert "the pool has nodes already" in err
