"""Who is told of STUN and TURN servers, with which credentials, and when again."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.bridges import Running, running
from gateway.shared.replicas import replicas
from rtcbridge.config import Coturn, Ice, IceServer
from rtcbridge.drivers.ice.coturn import password
from rtcbridge.testing.extended import ExtendedClient

STUN = IceServer(urls=("stun:s.example",))
ICE = Ice(servers=(STUN,), policy="relay", coturn=Coturn(urls=("turn:t.example",), secret="north", ttl=600))
SHORT = Ice(coturn=Coturn(urls=("turn:t.example",), secret="north", ttl=5))


def login(servers: list[dict[str, Any]]) -> str:
    """The name in the credential that is among these, which must be right."""
    server = servers[-1]
    assert server["urls"] == ["turn:t.example"]
    assert server["credential"] == password("north", server["username"])
    return str(server["username"])


def extended(bridge: Running) -> ExtendedClient:
    return ExtendedClient(bridge.url, bridge.client_key)


async def test_a_client_of_the_extension_and_its_node_each_have_credentials_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path, ice=ICE) as bridge, bridge.node() as node, extended(bridge) as client:
        welcome = await client.expect("auth_success")
        assert welcome["ice_servers"][0] == {"urls": ["stun:s.example"]}
        assert welcome["ice_transport_policy"] == "relay"
        expires, _, user = login(welcome["ice_servers"]).partition(":")
        assert user == client.session
        await client.start_session("o")
        offer = await node.expect("offer")
        assert (offer["ice_transport_policy"], offer["ice_servers"][0]) == ("relay", {"urls": ["stun:s.example"]})
        later, _, user = login(offer["ice_servers"]).partition(":")
        assert user == f"{offer['session']}-node"
        assert int(later) >= int(expires)


async def test_without_any_nothing_is_said_of_them(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node() as node, extended(bridge) as client:
        assert set(await client.expect("auth_success")) == {"type", "session", "resume"}
        await client.start_session("o")
        assert set(await node.expect("offer")) == {"type", "session", "sdp"}


async def test_a_client_of_the_documented_api_is_told_nothing_more_and_its_node_is(tmp_path: Path) -> None:
    async with running(tmp_path, ice=SHORT) as bridge, bridge.node() as node, bridge.client() as client:
        await client.start_session("o")
        assert login((await node.expect("offer"))["ice_servers"])
        await client.send("offer", sdp="again")  # renegotiates: on the same session, with credentials made anew
        again = await node.expect("offer")
        assert (again["sdp"], bool(login(again["ice_servers"]))) == ("again", True)
        async with extended(bridge) as other:
            await other.expect("ice_servers")  # in this time a client of the extension is told new credentials
        assert {"auth_success", "node_status", "answer"} >= {message["type"] for message in client.inbox}


async def test_credentials_are_renewed_before_they_expire_and_by_a_new_socket(tmp_path: Path) -> None:
    async with running(tmp_path, ice=SHORT) as bridge, bridge.node() as node, extended(bridge) as client:
        first = login((await client.expect("auth_success"))["ice_servers"])
        await client.start_session("o")
        await node.expect("offer")
        second = login((await client.expect("ice_servers"))["ice_servers"])
        assert int(first.partition(":")[0]) < int(second.partition(":")[0])
        await client.drop()
        await client.resume()
        third = login((await client.expect("auth_success"))["ice_servers"])
        assert int(third.partition(":")[0]) >= int(second.partition(":")[0])
        fourth = login((await client.expect("ice_servers"))["ice_servers"])
        assert int(third.partition(":")[0]) < int(fourth.partition(":")[0])
        assert fourth.endswith(client.session)


async def test_what_is_sent_again_is_as_fresh_as_what_a_new_socket_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, ice=SHORT) as bridge, bridge.node() as node, extended(bridge) as client:
        await client.start_session("o")
        await node.expect("offer")
        await client.expect("auth_success")
        lost = login((await client.expect("ice_servers"))["ice_servers"])
        await client.drop()
        client.taken -= 1  # as if it had been lost with the socket
        async with extended(bridge) as other:
            await other.expect("auth_success")
            await other.expect("ice_servers")  # by now that one is about to expire
        await client.resume()
        fresh = login((await client.expect("auth_success"))["ice_servers"])
        again = login((await client.expect("ice_servers"))["ice_servers"])
        assert int(lost.partition(":")[0]) < int(fresh.partition(":")[0]) <= int(again.partition(":")[0])


async def test_the_node_of_another_bridge_is_told_as_well(tmp_path: Path) -> None:
    async with replicas(tmp_path, ice=ICE) as bridges:
        here, there = bridges.all
        async with there.node() as node, ExtendedClient(here.url, here.client_key) as client:
            await client.expect("auth_success")
            await client.start_session("o")
            assert login((await node.expect("offer"))["ice_servers"])


# --- over HTTP ---


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def test_ice_servers_over_http_for_the_documented_api(tmp_path: Path, no_proxy: None) -> None:
    async with running(tmp_path, ice=ICE) as bridge:
        url = f"http://127.0.0.1:{bridge.port}/v1/ice-servers"
        basic = base64.b64encode(f"{bridge.client_key}:".encode()).decode()
        async with httpx.AsyncClient() as browser:
            names = set()
            for login_line in (f"Bearer {bridge.client_key}", f"Basic {basic}", f"basic {basic}"):
                answer = await browser.get(url, headers={"authorization": login_line})
                assert answer.headers["cache-control"] == "no-store"
                body = json.loads(answer.text)
                assert body["ice_transport_policy"] == "relay"
                assert 590 <= body["ttl"] <= 600
                names.add(login(body["ice_servers"]))
            assert len(names) == 3, "each has a credential of its own"
            assert all(name.partition(":")[2].startswith("TEST01-") for name in names)


async def test_pages_of_any_origin_may_ask_without_cookies(tmp_path: Path, no_proxy: None) -> None:
    async with running(tmp_path, ice=ICE) as bridge:
        base = f"http://127.0.0.1:{bridge.port}"
        origin = {"origin": "https://app.example"}
        asks = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        async with httpx.AsyncClient(base_url=base) as browser:
            before = await browser.options("/v1/ice-servers", headers=origin | asks)
            assert before.status_code == 200
            assert before.headers["access-control-allow-origin"] == "*"
            assert "authorization" in before.headers["access-control-allow-headers"].lower()
            assert "access-control-allow-credentials" not in before.headers
            refused = await browser.get("/v1/ice-servers", headers=origin)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
            other = await browser.get("/v1/pools", headers=origin)
            assert "access-control-allow-origin" not in other.headers
