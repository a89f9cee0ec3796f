"""What the bridge's port says to plain HTTP: health, the page, the small API, and the demo's key."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.bridges import Running, running
from rtcbridge.config import Ice, IceServer
from rtcbridge.config import Server as ServerConfig

DEMO = "sk_DEMO00_key"


@asynccontextmanager
async def browser(bridge: Running, address: str = "127.0.0.1", **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://{address}:{bridge.port}", headers=headers, trust_env=False
    ) as client:
        yield client


async def status(bridge: Running, path: str, address: str = "127.0.0.1", **headers: str) -> int:
    async with browser(bridge, address, **headers) as client:
        return (await client.get(path)).status_code


async def test_health_and_readiness(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, browser(bridge) as client:
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).status_code == 200
        bridge.server._ready = False  # as while it starts or stops
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200


async def test_the_page_and_what_it_loads(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, browser(bridge) as client:
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        script = page.text.partition('type="module" src="')[2].partition('"')[0]
        loaded = await client.get(script)
        assert loaded.status_code == 200
        assert "javascript" in loaded.headers["content-type"]
        fresh = await client.get(script, headers={"If-None-Match": loaded.headers["etag"]})
        assert fresh.status_code == 304
        for path in ("/nothing", "/assets/../../http.py", "/assets/%2e%2e/%2e%2e/http.py", "/v1/nothing"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/healthz")).status_code == 405


async def test_a_plain_request_to_a_socket_is_told_to_upgrade(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        assert await status(bridge, "/client") == 426
        assert await status(bridge, "/node") == 426


async def test_pools_and_ice_servers_need_a_clients_key(tmp_path: Path) -> None:
    servers = (IceServer(urls=("stun:s.example",)), IceServer(urls=("turn:t.example",), username="u", credential="c"))
    async with running(tmp_path, ice=Ice(servers=servers)) as bridge:
        for path in ("/v1/pools", "/v1/ice-servers"):
            wrong = ("Bearer sk_TEST01_wrong", "Basic x", "Basic c2tfVEVTVDAxX3dyb25nOg==", "Basic /w==", "Other x")
            for headers in ({}, *({"authorization": each} for each in wrong)):
                async with browser(bridge, **headers) as client:
                    refused = await client.get(path)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
            assert await status(bridge, path, authorization=f"Bearer {bridge.node_key}") == 401
        async with browser(bridge, authorization=f"Bearer {bridge.client_key}") as client:
            assert (await client.get("/v1/pools")).json() == [{"name": "default", "model": None}]
            assert (await client.get("/v1/ice-servers")).json() == {
                "ice_servers": [
                    {"urls": ["stun:s.example"]},
                    {"urls": ["turn:t.example"], "username": "u", "credential": "c"},
                ]
            }
            model = {"name": "m", "title": "M", "params": []}
            async with bridge.node(labels={"model": model}):
                assert (await client.get("/v1/pools")).json() == [{"name": "default", "model": model}]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"host": "localhost:8080"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "evil.example"}, 404),
        ({"host": "127.0.0.1.evil.example"}, 404),
        ({"host": "192.168.1.5:8080"}, 404),
        ({"x-forwarded-for": "127.0.0.1"}, 404),
        ({"x-forwarded-for": "203.0.113.7"}, 404),
        ({"forwarded": "for=127.0.0.1"}, 404),
        ({"x-forwarded-proto": "https"}, 404),
        ({"via": "1.1 proxy"}, 404),
    ],
)
@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_the_demos_key_goes_to_this_machine_only(
    tmp_path: Path, headers: dict[str, str], expected: int, trusted: tuple[str, ...]
) -> None:
    server = ServerConfig(port=0, trusted_proxies=trusted)
    async with running(tmp_path, demo=DEMO, server=server) as bridge, browser(bridge, **headers) as client:
        response = await client.get("/v1/demo")
        assert response.status_code == expected
        assert (DEMO in response.text) == (expected == 200)
        assert "access-control-allow-origin" not in response.headers


async def test_the_demos_key_does_not_leave_over_the_network(tmp_path: Path) -> None:
    addresses = [a.address for all in psutil.net_if_addrs().values() for a in all if a.family == socket.AF_INET]
    outer = next((address for address in addresses if not address.startswith("127.")), None)
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    async with running(tmp_path, demo=DEMO, host="0.0.0.0") as bridge:
        assert await status(bridge, "/v1/demo") == 200
        assert await status(bridge, "/v1/demo", outer) == 404
        assert await status(bridge, "/v1/demo", outer, host="localhost") == 404


async def test_without_the_demo_there_is_no_key_to_be_had(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        assert await status(bridge, "/v1/demo") == 404
