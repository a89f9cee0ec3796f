"""`rtcbridge serve` as a program: keys, signals, TLS, its store, its logs, and its refusals."""

import asyncio
import json
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from gateway.programs import RTCBRIDGE, Home, Program, environment, home, is_alive
from rtcbridge.cli.certificate import make_certificate
from rtcbridge.drivers.providers import sweep
from rtcbridge.testing import FakeClient, FakeNode

pytestmark = pytest.mark.slow
T = TypeVar("T")

STATIC = '[[pools]]\nprovider = "static"\n'


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Home]:
    with home(tmp_path, STATIC) as made:
        yield made


async def off_loop(call: Callable[..., T], *args: object) -> T:
    return await asyncio.to_thread(call, *args)


async def command(place: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return await off_loop(
        lambda: subprocess.run(
            [*RTCBRIDGE, *words, "--config", str(place.file)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    )


async def test_keys_of_the_command_line_count_at_once(place: Home) -> None:
    place.serve()
    made = await command(place, "keys", "create", "--project", "TEST01")
    key = made.stdout.split()[-1]
    node_key = (await command(place, "keys", "create", "--node", "--pool", "default")).stdout.split()[-1]
    async with FakeNode(place.url, node_key) as node, FakeClient(place.url, key) as client:
        assert await client.start_session() == "answer to an offer"
        rows = json.loads((await command(place, "keys", "list", "--json")).stdout)
        client_row = next(row for row in rows if row["project"] == "TEST01")
        await command(place, "keys", "revoke", client_row["id"])
        assert await client.closed() == 1008
        await node.expect("session_end")
        assert node.code is None
        listed = json.loads((await command(place, "nodes", "--json")).stdout)
        assert [(row["id"], row["state"]) for row in listed] == [("node-1", "ready")]
    async with FakeClient(place.url, key) as again:
        assert await again.closed() == 1008
        assert again.inbox == []


async def test_commands_find_the_bridge_of_their_store(place: Home) -> None:
    bridge = place.serve()
    async with FakeNode(place.url, place.node_key()) as node, FakeClient(place.url, place.client_key()) as client:
        await client.start_session()
        listed = json.loads((await command(place, "sessions", "--json")).stdout)
        assert [(row["state"], row["connected"]) for row in listed] == [("live", True)], (
            "the bridge knows, not the store"
        )
        await command(place, "nodes", "drain", "node-1")
        await node.expect("drain")
        await command(place, "sessions", "end", listed[0]["id"])
        await client.expect("error", message="The session was ended by the operator.")
        await off_loop(lambda: bridge.event("admin", action="end session", key="local"))
    assert bridge.end() == 0
    said = (await command(place, "nodes")).stderr
    assert said.endswith("rtcbridge nodes: no bridge runs on this store; the list is what it says\n")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Home]:
    """A bridge with a local pool, of which nothing is left behind."""
    pool = '[[pools]]\nmin_ready = 1\nmax_nodes = 1\n[pools.local]\nstate = "nodes"\n'
    with home(tmp_path, pool) as place:
        try:
            yield place
        finally:
            place.dispose()
            asyncio.run(sweep(tmp_path / "nodes"))


def node_process(place: Home) -> int:
    """The process of the one local node."""
    (file,) = place.folder.glob("nodes/default/*/process.json")
    return int(json.loads(file.read_text())["pid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_graceful_end_says_1012_and_leaves_nodes_running(local: Home, number: signal.Signals) -> None:
    async def stay_until_the_end(bridge: Program) -> None:
        async with FakeClient(local.url, local.client_key()) as client:
            await client.send("session_start")
            await client.expect("node_status", status="waiting")
            assert await off_loop(bridge.end, number) == 0
            assert await client.closed() == 1012

    asyncio.run(stay_until_the_end(local.serve()))
    process = node_process(local)
    assert is_alive(process)
    local.serve().event("node registered", epoch=2)
    assert node_process(local) == process


async def test_one_bridge_a_store(place: Home) -> None:
    first = place.serve()
    port, place.port = place.port, 0
    second = place.run("serve")
    assert await off_loop(second.wait) == 1
    assert second.lines == [f"rtcbridge serve: another bridge runs on the store {place.store}"]
    place.port = port
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{place.page}/readyz")).status_code == 200
    first.kill()  # nothing it leaves keeps the next one out
    place.serve()


async def test_a_taken_port_is_one_line_and_status_1(place: Home, tmp_path: Path) -> None:
    place.serve()
    other = tmp_path / "other"
    other.mkdir()
    with home(other, STATIC) as second:
        program = second.run("serve", RTCBRIDGE_SERVER__PORT=str(place.port))
        assert await off_loop(program.wait) == 1
        *logs, last = program.lines
        assert last == f"rtcbridge serve: port {place.port} on 127.0.0.1 is taken; choose another"
        assert not [line for line in logs if "Traceback" in line]
        program = second.run("serve", RTCBRIDGE_SERVER__METRICS=f"127.0.0.1:{place.port}")
        assert await off_loop(program.wait) == 1
        assert program.lines[-1].startswith(f"rtcbridge serve: server.metrics 127.0.0.1:{place.port}: ")
        assert "already in use" in program.lines[-1]


@pytest.mark.parametrize(
    ("config", "env", "line"),
    [
        ("[server]\nprot = 1\n", {}, "{file}: server.prot: no such key; did you mean port?"),
        ("[server]\nport = 'x'\n", {}, '{file}: server.port: expected a whole number from 0 to 65535, got "x"'),
        ("[[pools]]\nprovider = 'command'\n", {}, '{file}: [[pools]] "default": command.create: expected a shell '),
        ("not toml", {}, "{file}: not valid TOML: "),
        (STATIC, {"RTCBRIDGE_LOG__LEVEL": "loud"}, "RTCBRIDGE_LOG__LEVEL: expected one of debug, "),
        ("[server]\ntls_cert = 'x.pem'\ntls_key = 'x.pem'\n", {}, "{file}: server.tls_cert: expected a file, and "),
    ],
)  # fmt: skip
def test_a_bad_configuration_is_one_line_and_status_2(
    tmp_path: Path, config: str, env: dict[str, str], line: str
) -> None:
    with home(tmp_path, config) as place:
        program = place.run("serve", **env)
        assert program.wait() == 2
        assert len(program.lines) == 1
        assert program.lines[0].startswith(f"rtcbridge serve: {line.format(file=place.file)}")
        assert not place.store.exists()


def test_a_bad_command_line_is_one_line_and_status_2(place: Home) -> None:
    program = place.run("serve", "--port", "8080")
    assert program.wait() == 2
    assert program.lines == ["rtcbridge: unrecognized arguments: --port 8080"]


def test_a_missing_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    with home(tmp_path, "") as place:
        place.file.unlink()
        program = place.run("serve")
        assert program.wait() == 2
        assert program.lines == [f"rtcbridge serve: {place.file}: cannot be read: No such file or directory"]


def test_files_that_are_no_certificate_are_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with home(tmp_path, f"[server]\ntls_cert = 'x.pem'\ntls_key = 'x.pem'\n{STATIC}") as place:
        program = place.run("serve")
        assert program.wait() == 1
        assert program.lines[-1].startswith("rtcbridge serve: server.tls_cert, server.tls_key: expected a certificate")


async def test_sighup_reads_the_certificate_again(tmp_path: Path) -> None:
    for name in ("one", "two", "live"):
        (tmp_path / name).mkdir()
    made = [make_certificate(tmp_path / name, []) for name in ("one", "two")]
    live = [shutil.copy(file, tmp_path / "live") for file in made[0]]
    server = "[server]\ntls_cert = 'live/demo.crt'\ntls_key = 'live/demo.key'\n"
    with home(tmp_path, server + STATIC) as place:
        bridge = place.serve()
        key = place.client_key()
        trust_one, trust_two = (ssl.create_default_context(cafile=certificate) for certificate, _ in made)
        async with FakeClient(place.url, key, tls=trust_one) as early:
            await early.expect("auth_success")
            for file, target in zip(made[1], live, strict=True):
                shutil.copy(file, target)
            bridge.send(signal.SIGHUP)
            await off_loop(bridge.event, "certificate reloaded")
            async with FakeClient(place.url, key, tls=trust_two) as late:
                await late.expect("auth_success")
            with pytest.raises(ssl.SSLCertVerificationError):
                await FakeClient(place.url, key, tls=trust_one).connect()
            shutil.copy(place.file, live[0])
            bridge.send(signal.SIGHUP)
            await off_loop(bridge.event, "certificate not reloaded")
            async with FakeClient(place.url, key, tls=trust_two) as late:
                await late.expect("auth_success")
            await early.send("session_start")
            await early.expect("node_status", status="full")
        assert bridge.end() == 0


@pytest.mark.parametrize("style", ["json", "console"])
async def test_logs_hold_no_secret_and_no_sdp(tmp_path: Path, style: str) -> None:
    ice = (
        '[ice]\nservers = [{ urls = ["turn:t.example"], username = "user", credential = "turn-secret" }]\n'
        '[ice.coturn]\nurls = ["turn:c.example"]\nsecret = "coturn-secret"\n'
        '[ice.cloudflare]\nkey_id = "k"\napi_token = "cloudflare-secret"\nurl = "http://127.0.0.1:1"\n'
        '[ice.twilio]\naccount_sid = "AC1"\nauth_token = "twilio-secret"\nurl = "http://127.0.0.1:1"\n'
    )
    with home(tmp_path, ice + STATIC) as place:
        bridge = place.run(
            "serve", RTCBRIDGE_SERVER__PORT="0", RTCBRIDGE_LOG__LEVEL="debug", RTCBRIDGE_LOG__FORMAT=style
        )
        pattern = {"json": r'"port": (\d+).*"listening"', "console": r"listening .*port=(\d+)"}[style]
        place.port = int((await off_loop(bridge.line, pattern))[1])
        await _session_of_secrets(place)
        assert bridge.end() == 0
        assert "session ended" in bridge.text  # so debug lines are among them
        assert "admin key refused" in bridge.text
        assert "no new TURN credentials" in bridge.text
        services = ("turn-secret", "coturn-secret", "cloudflare-secret", "twilio-secret")
        for secret in ("sdp-secret", "ufrag-secret", "sk_", "nk_", "ak_", "bearer-secret", *services):
            assert secret not in bridge.text


async def _session_of_secrets(place: Home) -> None:
    key, node_key = place.client_key(), place.node_key()
    init = {"sdpMid": "0", "candidate": "candidate:1 1 udp 1 192.0.2.7 9 typ host ufrag-secret"}
    async with FakeNode(place.url, node_key) as node, FakeClient(place.url, key) as client:
        await client.start_session("v=0 sdp-secret")
        session = next(iter(node.sessions))
        await client.send("candidate", candidate=init)
        await node.expect("candidate")
        await node.send("candidate", session=session, candidate=init)
        await client.expect("candidate")
        await client.send_raw('{"type":"offer","sdp":["sdp-secret"]}')
        await client.send_raw('{"type":"offer","sdp":"sdp-secret')
        await client.send_raw("sdp-secret")
        await node.send("answer", session=session, sdp={"sdp-secret": 1})
        await node.send("answer", session="sdp-secret", sdp="sdp-secret")
        for _ in range(3):
            await client.expect("error")
    async with FakeClient(place.url, "sk_TEST01_nosuchkey") as stranger:
        await stranger.closed()
    for wrong in ("nk_default_nosuchkey", key):
        with pytest.raises(ConnectionError):
            await FakeNode(place.url, wrong).connect()
    async with httpx.AsyncClient(base_url=place.page, trust_env=False) as http:
        for headers in ({"authorization": "Bearer bearer-secret"}, {"authorization": f"Bearer {key}"}):
            await http.get("/v1/pools?key=bearer-secret", headers=headers)
            await http.get("/v1/ice-servers", headers=headers)
            await http.get("/v1/admin/nodes", headers=headers)
        with place.keys() as keys:
            admin = keys.create_admin_key()
        changed = await http.patch(
            "/v1/admin/pools/default", headers={"authorization": f"Bearer {admin}"}, json={"bearer-secret": 1}
        )
        assert changed.status_code == 400
