"""`rtcbridge node` as a program: its usage errors, its environment, and how it ends."""

import argparse
import asyncio
import datetime
import ipaddress
import os
import signal
import ssl
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.bridge import Bridge
from node.clients import TIMEOUT, WrtcClient
from rtcbridge.cli import main
from rtcbridge.cli import node as cli
from rtcbridge.cli.tls import client_tls

PROGRAM = "import sys; from rtcbridge.cli import main; sys.exit(main())"
GOOD = ["passthrough", "--bridge", "ws://127.0.0.1:1", "--key", "nk_TEST01_secret"]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["node", *words])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RTCBRIDGE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "MODEL is missing (or set RTCBRIDGE_MODEL)"),
        (["passthrough"], "--bridge is missing (or set RTCBRIDGE_URL)"),
        (["passthrough", "--bridge", "ws://x"], "--key is missing (or set RTCBRIDGE_NODE_TOKEN)"),
        ([*GOOD, "--key", "sk_TEST01_x"], "--key: expected a node's key, which begins with nk_"),
        ([*GOOD, "--bridge", "http://x"], "--bridge: expected ws://HOST[:PORT] or wss://HOST[:PORT], not 'http://x'"),
        ([*GOOD, "--bridge", "ws://x:99999"], "--bridge: expected ws://HOST"),
        ([*GOOD, "--bridge", "ws://"], "--bridge: expected ws://HOST"),
        ([*GOOD, "--slots", "0"], "--slots: expected a number from 1 to 1000, not '0'"),
        ([*GOOD, "--drain", "soon"], "--drain: expected seconds from 0 to 86400, not 'soon'"),
        ([*GOOD, "--drain", "nan"], "--drain: expected seconds from 0 to 86400, not 'nan'"),
        ([*GOOD, "--slots", "two"], "--slots: expected a number from 1 to 1000, not 'two'"),
        ([*GOOD, "--engine", "gstreamer"], "--engine: expected auto, wrtc, aiortc, not 'gstreamer'"),
        ([*GOOD, "--log-level", "loud"], "--log-level: expected debug, info, warning, error, not 'loud'"),
        ([*GOOD, "--id", "a b"], "--id: expected 1 to 128 letters, digits, or any of . _ : @ -"),
        ([*GOOD, "--ice-server", "http://x"], "--ice-server: expected stun:HOST or turn:HOST,USER,PASSWORD"),
        ([*GOOD, "--ice-server", "turn:x,user"], "--ice-server: expected stun:HOST or turn:HOST,USER,PASSWORD"),
        ([*GOOD, "--insecure"], "--ca and --insecure are for wss:// only"),
        ([*GOOD, "--bridge", "wss://example.org", "--insecure"], "--insecure: only for a bridge on this machine"),
        ([*GOOD, "--bridge", "wss://x", "--ca", "/nowhere.pem"], "--ca: /nowhere.pem cannot be read: No such file"),
        (["nonsense", *GOOD[1:]], "model 'nonsense': expected module:function, file.py:function, or one of"),
        (["missing.py:f", *GOOD[1:]], "model: there is no file missing.py"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_configure_logs", lambda _level: None)
    assert main(["node", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rtcbridge node: {message}")
    assert err.count("\n") == 1


def test_the_environment_stands_in_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "RTCBRIDGE_URL": "ws://10.0.0.1:8080/node",
        "RTCBRIDGE_NODE_TOKEN": "nk_env",
        "RTCBRIDGE_POOL": "gpu",
        "RTCBRIDGE_NODE": "node-7",
        "RTCBRIDGE_SLOTS": "4",
        "RTCBRIDGE_NODE_DRAIN": "80",
        "RTCBRIDGE_MODEL": "cartoon",
    }
    options = cli._options(parse(), environment)
    assert (options["model"], options["bridge"], options["key"]) == ("cartoon", "ws://10.0.0.1:8080/node", "nk_env")
    assert (options["pool"], options["id"], options["slots"], options["engine"]) == ("gpu", "node-7", 4, "auto")
    assert options["drain"] == 80
    options = cli._options(parse("neon", "--pool", "other", "--slots", "2"), environment)
    assert (options["model"], options["pool"], options["slots"]) == ("neon", "other", 2)


def test_an_id_is_made_from_the_host_and_is_new_each_time() -> None:
    one, two = (cli._options(parse(*GOOD), {})["id"] for _ in range(2))
    assert one != two
    assert cli._IDENTIFIER.fullmatch(one)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://h", "ws://h/node"),
        ("ws://h:8080/", "ws://h:8080/node"),
        ("wss://h/node", "wss://h/node"),
        ("wss://h/node/", "wss://h/node"),
        ("wss://h/behind/proxy", "wss://h/behind/proxy/node"),
        ("ws://[::1]:80", "ws://[::1]:80/node"),
    ],
)
def test_the_address_may_leave_out_the_path(given: str, url: str) -> None:
    assert cli.bridge_url(given) == url


def test_a_self_signed_certificate_may_be_trusted_on_this_machine_only() -> None:
    context = client_tls("wss://127.0.0.1:8080/node", "", True)
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE
    context = client_tls("wss://localhost/node", "", False)
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert client_tls("ws://h/node", "", False) is None


async def start(*words: str, program: str = PROGRAM, **environment: str) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RTCBRIDGE_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "node", *words,
        env=inherited | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(TIMEOUT):
        _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


MODEL = """
import time
import rtcbridge
calls = []

@rtcbridge.model
def blocks(frame):
    calls.append(1)
    if len(calls) > 1:
        time.sleep(60)
    return frame
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGTERM, []), (signal.SIGINT, ["--engine", "aiortc", "--log-level", "debug"])],
)
async def test_a_signal_ends_it_in_two_seconds_even_in_a_blocked_model(
    number: int, words: list[str], tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(MODEL)
    client = WrtcClient()
    async with Bridge() as bridge:
        token = "nk_TEST01_secretsecret"
        process = await start(
            f"{app}:blocks", *words, RTCBRIDGE_URL=bridge.url, RTCBRIDGE_NODE_TOKEN=token, RTCBRIDGE_NODE="n7"
        )
        payload = await bridge.registered()
        assert (payload["node"], payload["credential"]) == ("n7", token)
        assert "capacity" not in payload
        await bridge.connect(client, "s1")
        await bridge.until(lambda: any(m["stats"]["model_busy"] > 0 for m in bridge.find("heartbeat")))
        began = time.monotonic()
        process.send_signal(number)
        status, err = await ended(process)
        assert time.monotonic() - began < 2
        assert status == 0
        await bridge.expect("session_state", session="s1", state="closed")
        assert await asyncio.wait_for(bridge.closed.get(), TIMEOUT) == (1000, "")
    await client.close()
    assert "session_opened" in err
    assert "v=0" not in err
    assert "ice-ufrag" not in err
    assert "secretsecret" not in err


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
async def test_sigterm_drains_a_node_that_is_told_so_and_a_second_one_ends_it(second: bool) -> None:
    client = WrtcClient()
    async with Bridge() as bridge:
        process = await start(
            "passthrough", "--drain", "600", RTCBRIDGE_URL=bridge.url, RTCBRIDGE_NODE_TOKEN="nk_TEST01_secretsecret"
        )
        await bridge.registered()
        await bridge.connect(client, "s1")
        process.send_signal(signal.SIGTERM)
        again = await bridge.registered()
        assert (again["capacity"], again["sessions"]) == (1, ["s1"])
        await client.until(lambda count=client.count: client.count > count + 5)
        assert process.returncode is None
        if second:
            process.send_signal(signal.SIGTERM)
            await bridge.expect("session_state", session="s1", state="closed")
        else:
            await bridge.send("session_end", session="s1", reason="done")
        status, _ = await ended(process)
        assert status == 0
    await client.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bridge of the test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "bridge.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@pytest.mark.slow
async def test_a_bridge_with_its_own_certificate(certificate: Path) -> None:
    """Trusted when it is named, or when all is trusted on this machine; refused otherwise, with a clear line."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Bridge(tls=context) as bridge:
        for words in (["--ca", str(certificate)], ["--insecure"], []):
            process = await start("passthrough", "--bridge", bridge.url, "--key", "nk_x", *words)
            if words:
                await bridge.registered()
            else:
                assert process.stderr is not None
                async with asyncio.timeout(TIMEOUT):
                    while b"bridge_unreachable" not in (line := await process.stderr.readline()):
                        assert line
                assert b"CERTIFICATE_VERIFY_FAILED" in line
            process.terminate()
            status, _ = await ended(process)
            assert status == 0


@pytest.mark.slow
async def test_a_refused_node_ends_with_one_line_and_status_1() -> None:
    hasten = "import asyncio; from rtcbridge.node.link import Link; Link._pause = lambda _self, _s: asyncio.sleep(0);"
    async with Bridge(accept=lambda _payload: False) as bridge:
        process = await start(*GOOD, "--bridge", bridge.url, program=hasten + PROGRAM)
        status, err = await ended(process)
        assert status == 1
        assert bridge.registers.qsize() == 5
    assert err.count("registration_refused") == 5
    assert err.splitlines()[-1] == "rtcbridge node: the bridge refused this node: check --key, --pool and --id"
    assert "nk_TEST01_secret" not in err


@pytest.mark.slow
async def test_a_model_that_cannot_be_set_up_is_one_line_and_status_2(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import rtcbridge\n@rtcbridge.model\ndef f(frame): raise RuntimeError('no card')\n")
    process = await start(f"{app}:f", *GOOD[1:])
    status, err = await ended(process)
    assert status == 2
    assert err.splitlines()[-1] == "rtcbridge node: model f fails on its first frame: RuntimeError: no card"
