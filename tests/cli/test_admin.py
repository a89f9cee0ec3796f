"""Commands that look at a running bridge and act on it: found by its store, or by address and key."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.bridges import Running, running
from rtcbridge.cli import CommandError, main
from rtcbridge.cli.api import ENVIRONMENT
from rtcbridge.cli.certificate import make_certificate
from rtcbridge.cli.lock import RunningBridge, UnreachableError, find_bridge, store_lock
from rtcbridge.config import CommandOptions, Nodes, Pool
from rtcbridge.config import Server as ServerConfig

CONFIG = """
[store]
url = "sqlite:///bridge.db"
[[pools]]
provider = "static"
[[pools]]
name = "cloud"
provider = "command"
[pools.command]
create = "true"
start = "true"
stop = "true"
destroy = "true"
"""
POOLS = (
    Pool(provider="static"),
    Pool(
        name="cloud",
        provider="command",
        command=CommandOptions(create="true", start="true", stop="true", destroy="true"),
    ),
)
SLOW = Nodes(heartbeat=60.0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bridge.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Running]:
    """A bridge that has told its store where it listens, as `rtcbridge serve` does."""
    with capture_logs():  # which are not for this process's stdout
        async with running(tmp_path, pools=POOLS, nodes=SLOW) as bridge:
            with store_lock(tmp_path / "bridge.db") as announce:
                announce(RunningBridge(f"http://127.0.0.1:{bridge.port}"))
                yield bridge


async def ran(*arguments: str) -> int:
    """Run a command in a thread: the bridge needs this one."""
    return await asyncio.to_thread(main, [*arguments])


async def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    capsys.readouterr()
    status = await ran(*arguments, "--config", "bridge.toml")
    out, err = capsys.readouterr()
    assert (status, err) in ((0, ""), (0, "(none)\n"))
    return [line.split() for line in out.splitlines()]


async def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The status and the one line of a command that fails."""
    capsys.readouterr()
    status = await ran(*arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return status, err.strip()


# --- lists and actions, on the bridge's own machine ---


async def test_lists_of_a_running_bridge(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with bridge.node(capacity=1) as node, bridge.client() as live, bridge.client() as waits:
        await live.start_session()
        await waits.send("session_start")
        await waits.expect("node_status", status="full")
        head, row = await table(capsys, "nodes")
        assert head == ["NODE", "POOL", "STATE", "FOR", "LEFT", "SESSIONS", "LOAD", "MADE", "BY", "REASON"]
        assert [*row[:3], *row[-2:]] == ["node-1", "default", "ready", "1/1", "hand"]
        assert len(await table(capsys, "nodes", "--pool", "cloud")) == 1
        head, *rows = await table(capsys, "sessions")
        first, second = sorted(rows, key=lambda row: "live" not in row)
        assert head == ["SESSION", "POOL", "NODE", "PROJECT", "STATE", "SINCE", "FOR", "PLACE", "ETA"]
        assert [first[0], *first[1:5]] == [*node.sessions, "default", "node-1", "TEST01", "live"]
        assert (second[1:4], second[-1]) == (["default", "TEST01", "full"], "1")
        pools = await table(capsys, "pools")
        assert pools[1:] == [
            ["default", "static", "1", "0", "1/-", "1", "ready", "1", "0", "1"],
            ["cloud", "command", "1", "0", "0/4", "0", "0", "0"],
        ]


async def test_json_is_what_the_api_says(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with bridge.node(labels={"gpu": "T4"}), bridge.client() as client, bridge.admin() as api:
        await client.start_session()
        for command in ("pools", "nodes", "sessions"):
            capsys.readouterr()
            assert await ran(command, "--json", "--config", "bridge.toml") == 0
            assert json.loads(capsys.readouterr().out) == (await api.get(f"/{command}")).json()["items"]


async def test_a_long_list_is_fetched_page_by_page(
    bridge: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtcbridge.cli.api._PAGE", 2)
    nodes = [bridge.node(node=f"n{number}") for number in range(5)]
    for node in nodes:
        await node.connect()
    rows = await table(capsys, "nodes")
    assert [row[0] for row in rows[1:]] == ["n0", "n1", "n2", "n3", "n4"]
    for node in nodes:
        await node.close()


async def test_a_session_is_ended(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with bridge.node() as node, bridge.client() as client:
        await client.start_session()
        (session,) = node.sessions
        rows = await table(capsys, "sessions", "end", session, "--reason", "lunch")
        assert rows[1][0] == session
        assert "ended" in rows[1]
        await client.expect("error", message="The session was ended by the operator.")
        assert (await node.expect("session_end"))["reason"] == "ended by the operator: lunch"
        assert len(await table(capsys, "sessions")) == 1


async def test_a_node_is_drained(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with bridge.node() as node, bridge.client() as client:
        await client.start_session()
        capsys.readouterr()
        assert await ran("nodes", "--config", "bridge.toml", "drain", "node-1", "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["id"], row["state"], row["sessions"]) == ("node-1", "draining", 1)
        await node.expect("drain")


async def test_settings_are_changed_and_reset(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    rows = await table(capsys, "pools", "set", "cloud", "--max-nodes", "9", "--idle-timeout", "60.5")
    assert " ".join(rows[1]).endswith("max_nodes 9 (configured 4), idle_timeout 60.5 (configured 120)")
    assert rows[1][4] == "0/9"
    rows = await table(capsys, "pools", "reset", "cloud", "max-nodes")
    assert rows[1][4] == "0/4"
    assert "idle_timeout" in rows[1]
    rows = await table(capsys, "pools", "reset", "cloud")
    assert "idle_timeout" not in rows[1]


async def test_what_the_bridge_refuses_is_one_line(bridge: Running, capsys: pytest.CaptureFixture[str]) -> None:
    refused = "rtcbridge pools set: pool cloud: min_ready: expected at most max_nodes times slots = 4, got 9"
    for arguments, expected in (
        (("nodes", "drain", "no"), (1, "rtcbridge nodes drain: There is no node 'no'.")),
        (("sessions", "end", "a b?"), (1, "rtcbridge sessions end: There is no session 'a b?'.")),
        (("pools", "set", "no", "--beta", "1"), (1, "rtcbridge pools set: There is no pool 'no'.")),
        (("pools", "set", "cloud", "--min-ready", "9"), (2, refused)),
        (("nodes", "--pool", "no"), (2, "rtcbridge nodes: pool: expected one of default, cloud, got 'no'")),
    ):
        assert await failure(capsys, *arguments, "--config", "bridge.toml") == expected


# --- from elsewhere ---


async def test_an_address_and_a_key(
    bridge: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{bridge.port}"
    assert await ran("pools", "--url", url, "--key", bridge.admin_key) == 0
    assert await ran("pools", "--url", f"ws://127.0.0.1:{bridge.port}/", "--key", bridge.admin_key) == 0
    monkeypatch.setenv("RTCBRIDGE_ADMIN_URL", url)
    monkeypatch.setenv("RTCBRIDGE_ADMIN_KEY", bridge.admin_key)
    assert await ran("pools") == 0
    for key in ("ak_wrong", bridge.client_key):
        line = f"rtcbridge nodes: the bridge at {url} refused the key"
        assert await failure(capsys, "nodes", "--key", key) == (1, line)
    monkeypatch.delenv("RTCBRIDGE_ADMIN_URL")
    assert await ran("pools", "--config", "bridge.toml") == 0, "the bridge of the store, with the key that is given"
    assert await failure(capsys, "pools", "--config", "bridge.toml", "--key", "ak_wrong") == (
        1,
        f"rtcbridge pools: the bridge at {url} refused the key",
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pools", "--url", "http://127.0.0.1:1"], "rtcbridge pools: --url needs --key, or RTCBRIDGE_ADMIN_KEY"),
        (
            ["top", "--url", "ftp://x"],
            "rtcbridge top: --url expects http://HOST:PORT or https://HOST:PORT, got 'ftp://x'",
        ),
        (
            ["pools", "--url", "http://h:x"],
            "rtcbridge pools: --url expects http://HOST:PORT or https://HOST:PORT, got ",
        ),
        (
            ["pools", "--url", "http://h/x"],
            "rtcbridge pools: --url expects http://HOST:PORT or https://HOST:PORT, got ",
        ),
        (["pools", "--key", "a b"], "rtcbridge pools: --key expects a key of `rtcbridge keys create --admin`"),
        (["pools", "--url", "https://h", "--ca", "no.pem"], "rtcbridge pools: --ca expects a file of certificates: no"),
        (["sessions", "--all", "--url", "http://h"], "rtcbridge sessions: --all reads the store of this machine, and"),
        (["nodes", "explode", "n"], "rtcbridge nodes: ACTION: invalid choice: 'explode' (choose from "),
        (["nodes", "drain"], "rtcbridge nodes drain: expected NODE"),
        (["pools", "set", "p"], "rtcbridge pools set: expected at least one of --max-nodes, --min-ready, "),
        (["pools", "set", "p", "--max-nodes", "x"], "rtcbridge pools set: --max-nodes expects a number, got 'x'"),
        (["pools", "set", "p", "--beta", "nan"], "rtcbridge pools set: --beta expects a number, got 'nan'"),
        (["pools", "reset", "p", "slots"], "rtcbridge pools reset: SETTING expects one of max_nodes, min_ready, "),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    key = ["--key", "ak_x"] if "--url" in arguments and "needs --key" not in line else []
    assert main([*arguments, *key]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["nodes", "drain", "n"], ["sessions", "end", "s"], ["pools", "reset", "cloud"]])
def test_it_takes_a_bridge_to_act(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command, "--config", "bridge.toml"]) == 1
    line = f"rtcbridge {' '.join(command[:2])}: no bridge runs on this store, and it takes one to act; "
    assert capsys.readouterr().err.startswith(line)


def test_a_bridge_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for command in (["pools"], ["nodes", "stop", "n"], ["top"]):
            assert main([*command, "--url", url, "--key", "ak_x"]) == 1
            err = capsys.readouterr().err
            assert err == f"rtcbridge {' '.join(command[:2])}: no bridge answers at {url}: connection refused\n"
    assert main(["top", "--config", "bridge.toml"]) == 1
    assert capsys.readouterr().err == "rtcbridge top: no bridge runs on this store; see --config and --url\n"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "what answers at {} is no bridge of this version"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "what answers at {} is no bridge with an admin API"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://h/\r\nContent-Length: 0\r\n\r\n",
            "what answers at {} is no bridge wi",
        ),
        (b"SSH-2.0-x\r\n", "no bridge answers at {}: "),
        (b"", "no bridge answers at {}: it closed the connection"),
    ],
)
async def test_another_server_is_one_line(capsys: pytest.CaptureFixture[str], answer: bytes, line: str) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        status, said = await failure(capsys, "pools", "--url", url, "--key", "ak_x")
    assert status == 1
    assert said.startswith(f"rtcbridge pools: {line.format(url)}")


async def test_a_bridge_with_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On its own machine its certificate is trusted whatever name it has, and no other."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    certificate, key = make_certificate(tmp_path / "own", [])
    other, _ = make_certificate(tmp_path / "other", [])
    server = ServerConfig(port=0, tls_cert=certificate, tls_key=key)
    async with running(tmp_path, pools=POOLS, server=server) as bridge:
        url = f"https://127.0.0.1:{bridge.port}"
        with store_lock(tmp_path / "bridge.db") as announce:
            announce(RunningBridge(url, certificate))
            assert len(await table(capsys, "pools")) == 3
            announce(RunningBridge(url, other))
            status, line = await failure(capsys, "pools", "--config", "bridge.toml")
            assert status == 1
            assert line.startswith(f"rtcbridge pools: no bridge answers at {url}: ")
            assert "certificate" in line
            announce(RunningBridge(url, str(tmp_path / "bridge.toml")))
            status, line = await failure(capsys, "pools", "--config", "bridge.toml")
            assert "the bridge's certificate cannot be read" in line
        given = ("--url", f"https://localhost:{bridge.port}", "--key", bridge.admin_key)
        assert (await failure(capsys, "pools", *given))[0] == 1
        assert await ran("pools", *given, "--ca", certificate) == 0


# --- the lock beside the store ---


def test_the_lock_says_where_the_bridge_listens(tmp_path: Path) -> None:
    store, found = tmp_path / "x.db", RunningBridge("http://127.0.0.1:1")
    assert find_bridge(store) is None
    with store_lock(store) as announce:
        announce(RunningBridge("http://127.0.0.1:1", "/some/long/path/to/a/certificate"))
        announce(found)
        assert find_bridge(store) == found
        with pytest.raises(CommandError, match="another bridge runs on the store"), store_lock(store):
            pass
        assert find_bridge(store) == found
    assert find_bridge(store) is None
    assert Path(f"{store}.lock").stat().st_mode & 0o077 == 0


def test_what_a_killed_bridge_has_left_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtcbridge.cli.lock._PATIENCE", 0.1)
    store = tmp_path / "x.db"
    Path(f"{store}.lock").write_text('{"url":"http://127.0.0.1:1"}')
    assert find_bridge(store) is None
    with store_lock(store):
        with pytest.raises(UnreachableError, match="starting or stopping"):
            find_bridge(store)
        Path(f"{store}.lock").write_text('{"url":')
        with pytest.raises(UnreachableError):
            find_bridge(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_lock_of_somebody_else(tmp_path: Path) -> None:
    store = tmp_path / "x.db"
    Path(f"{store}.lock").touch(mode=0)
    with pytest.raises(CommandError, match="Permission denied"):
        find_bridge(store)
