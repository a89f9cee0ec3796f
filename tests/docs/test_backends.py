"""The back ends of docs/how-to/client-tokens.md, against a real bridge: what they hand out opens a session."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from docs.pages import ROOT, every, inline
from gateway.bridges import Running, running
from rtcbridge.gateway.tokens import DEFAULT_LIFETIME, TokenRequest
from rtcbridge.testing import FakeClient
from rtcbridge.testing.extended import ExtendedClient

PAGE = ROOT / "docs" / "how-to" / "client-tokens.md"
BACKENDS = ROOT / "examples" / "backends"
ESBUILD = ROOT / "sdk" / "js" / "node_modules" / ".bin" / "esbuild"
ORIGIN = "https://app.example.org"


def test_the_page_shows_the_examples_as_they_are() -> None:
    shown = {block.info: block.text for block in every(PAGE) if block.info}
    assert shown.keys() == {file.name for file in BACKENDS.iterdir() if file.is_file()}
    for name, text in shown.items():
        assert text == (BACKENDS / name).read_text()


def test_the_page_has_every_field_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE.read_text(), re.MULTILINE))
    fields = {name: getattr(TokenRequest(), name) for name in TokenRequest.__struct_fields__}
    expected = {
        name: f"`{list(value)}`" if isinstance(value, tuple) else f"{value:g}" for name, value in fields.items()
    }
    assert table == expected
    assert DEFAULT_LIFETIME == 60


def test_the_body_of_the_command_is_one() -> None:
    (command,) = (block.text for block in every(PAGE) if block.language == "sh" and "curl" in block.text)
    (body,) = re.findall(r"-d '(.+)'", command)
    assert json.loads(body).keys() <= set(TokenRequest.__struct_fields__)
    assert "`session_limit`" in {f"`{text}`" for text in inline(PAGE)}
    assert tomllib.loads("[auth]\nsecret_keys_from_browsers = false")


def _load(bridge: Running, key: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("BRIDGE_URL", f"http://127.0.0.1:{bridge.port}")
    monkeypatch.setenv("BRIDGE_KEY", key)
    spec = importlib.util.spec_from_file_location("fastapi_app", BACKENDS / "fastapi_app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def opens_a_session(bridge: Running, token: str) -> None:
    """Assert that a page of the back end can use a token, once at a time, and another page cannot."""
    headers = {"Origin": ORIGIN}
    async with FakeClient(bridge.url, token, headers=headers) as client:
        assert await client.start_session() == "answer to an offer"
        async with ExtendedClient(bridge.url, token, headers=headers) as second:
            await second.send("session_start")
            assert (await second.expect("error"))["code"] == "session_limit"
    async with FakeClient(bridge.url, token, headers={"Origin": "https://other.example"}) as stranger:
        assert await stranger.closed() == 1008


async def test_the_back_end_in_fastapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    async with running(tmp_path) as bridge, bridge.node(capacity=2):
        key = bridge.keys.create_client_key("TEST01", scopes=["tokens"])
        app = _load(bridge, key, monkeypatch).app
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example.org") as page:
            answer = await page.post("/api/token")
            assert answer.status_code == 200
            await opens_a_session(bridge, answer.json()["token"])
            bridge.keys.revoke_key("4")
            assert (await page.post("/api/token")).status_code == 503


@pytest.mark.skipif(not ESBUILD.exists() or shutil.which("node") is None, reason="npm ci was not run in sdk/js")
async def test_the_back_end_in_next_js(tmp_path: Path) -> None:
    built = tmp_path / "route.mjs"
    bundle = await asyncio.create_subprocess_exec(
        ESBUILD, BACKENDS / "next_route.ts", "--format=esm", f"--outfile={built}", "--log-level=error"
    )
    assert await bundle.wait() == 0
    call = f"import({json.dumps(built.as_uri())}).then((m) => m.POST()).then((r) => r.text()).then(console.log)"
    async with running(tmp_path) as bridge, bridge.node(capacity=2):
        key = bridge.keys.create_client_key("TEST01", scopes=["tokens"])
        node = await asyncio.create_subprocess_exec(
            "node",
            "-e",
            call,
            env=os.environ | {"BRIDGE_URL": f"http://127.0.0.1:{bridge.port}", "BRIDGE_KEY": key},
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, _ = await node.communicate()
        await opens_a_session(bridge, json.loads(out)["token"])
