"""Client tokens over a real server: minted, shown, bounded, revoked."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bridges import STATIC, Running, running
from gateway.shared.replicas import until
from rtcbridge.config import Auth, Pool
from rtcbridge.ports import KeyLimits
from rtcbridge.testing import FakeClient, FakeNode
from rtcbridge.testing.extended import ExtendedClient

PAGE = "https://app.example"


@asynccontextmanager
async def backend(bridge: Running, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A back end that has a secret key."""
    headers = {"authorization": f"Bearer {key or bridge.client_key}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{bridge.port}", headers=headers, trust_env=False
    ) as client:
        yield client


async def token(bridge: Running, key: str = "", **asked: Any) -> str:
    async with backend(bridge, key) as client:
        answer = await client.post("/v1/tokens", json=asked)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


async def refused(client: FakeClient) -> None:
    """Assert that a client is closed as one with a wrong key is."""
    async with client:
        assert await client.closed() == 1008
        assert not client.inbox


async def accepted(client: FakeClient) -> None:
    async with client:
        await client.expect("auth_success")


async def test_a_token_opens_a_session_in_both_dialects(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(capacity=2):
        before = int(time.time())
        async with backend(bridge) as client:
            answer = await client.post("/v1/tokens")
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        made = answer.json()
        assert made.keys() == {"token", "expires_at"}
        assert before + 60 <= made["expires_at"] <= time.time() + 60
        assert made["token"].startswith("ek_")
        async with FakeClient(bridge.url, made["token"]) as plain:
            assert await plain.start_session() == "answer to an offer"
        async with ExtendedClient(bridge.url, made["token"]) as extended:
            await extended.expect("auth_success")
            await extended.send("session_start")
            await extended.expect("node_status")


async def test_a_back_end_shows_its_key_either_way(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, backend(bridge) as client:
        basic = "Basic " + base64.b64encode(f"{bridge.client_key}:".encode()).decode()
        assert (await client.post("/v1/tokens", headers={"authorization": basic})).status_code == 201
        for header in ("", "Bearer", "Bearer sk_TEST01_wrong", f"Bearer {bridge.node_key}", "Basic !!", "Basic /w==",
                       f"Bearer {bridge.admin_key}", f"Digest {bridge.client_key}"):  # fmt: skip
            answer = await client.post("/v1/tokens", headers={"authorization": header})
            assert answer.status_code == 401, header
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/tokens")).status_code == 404


async def test_a_token_makes_no_other(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, backend(bridge, await token(bridge)) as client:
        assert (await client.post("/v1/tokens")).status_code == 401
        assert (await client.get("/v1/pools")).status_code == 200


async def test_no_page_of_another_origin_gets_one(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, backend(bridge) as client:
        asked = {"origin": PAGE, "access-control-request-method": "POST"}
        preflight = await client.options("/v1/tokens", headers=asked)
        assert preflight.status_code == 405
        answer = await client.post("/v1/tokens", headers={"origin": PAGE})
        assert answer.status_code == 403
        for each in (preflight, answer):
            assert not [name for name in each.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 3601}, "expires_in"),
        ({"expires_in": "60"}, "expires_in"),
        ({"pools": ["nowhere"]}, "pools"),
        ({"pools": "default"}, "pools"),
        ({"origins": ["app.example"]}, "origins"),
        ({"origins": ["https://app.example/"]}, "origins"),
        ({"max_session": -1}, "max_session"),
        ({"max_sessions": -1}, "max_sessions"),
        ({"scope": "all"}, "scope"),
        ([], "body"),
    ],
)
async def test_what_cannot_be_asked_for(tmp_path: Path, asked: object, named: str) -> None:
    async with running(tmp_path) as bridge, backend(bridge) as client:
        answer = await client.post("/v1/tokens", json=asked)
        assert answer.status_code == 400
        assert named in answer.json()["error"]


async def test_bodies_that_are_no_json_or_too_long(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, backend(bridge) as client:
        assert (await client.post("/v1/tokens", content=b"{")).status_code == 400
        assert (await client.post("/v1/tokens", content=b"\xff")).status_code == 400
        assert (await client.post("/v1/tokens", content=b" " * 20_000)).status_code == 413


async def test_anybody_can_verify_a_token_with_the_published_keys(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, backend(bridge) as client:
        assert (await client.get("/.well-known/jwks.json")).json() == {"keys": []}
        text = (await token(bridge, expires_in=5, origins=[PAGE], max_sessions=2)).removeprefix("ek_")
        answer = await client.get("/.well-known/jwks.json", headers={"authorization": ""})
        assert answer.headers["content-type"] == "application/jwk-set+json"
        keys = jwt.PyJWKSet.from_dict(answer.json())
        key = keys[jwt.get_unverified_header(text)["kid"]]
        claims = jwt.decode(text, key, algorithms=["EdDSA"], audience="rtcbridge")
        assert claims["exp"] - claims["iat"] == 5
        assert (claims["sub"], claims["key"]) == ("TEST01", "1")
        assert (claims["origins"], claims["max_sessions"]) == ([PAGE], 2)


async def test_a_revoked_key_takes_its_tokens_and_their_sockets_along(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        shown = await token(bridge)
        async with FakeClient(bridge.url, shown) as client:
            await client.expect("auth_success")
            bridge.keys.revoke_key("1")
            assert await client.closed() == 1008
        await refused(FakeClient(bridge.url, shown))


async def test_only_pages_of_its_origins_may_show_a_token(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        shown = await token(bridge, origins=[PAGE])
        await accepted(FakeClient(bridge.url, shown, headers={"Origin": PAGE}))
        await refused(FakeClient(bridge.url, shown, headers={"Origin": "https://evil.example"}))
        await refused(FakeClient(bridge.url, shown))
        async with backend(bridge, shown) as client:
            assert (await client.get("/v1/pools", headers={"origin": "https://evil.example"})).status_code == 401
            assert (await client.get("/v1/pools", headers={"origin": PAGE})).status_code == 200
            assert (await client.get("/v1/pools")).status_code == 200, "as a page of the bridge itself asks"


async def test_a_token_chooses_among_the_pools_of_its_project(tmp_path: Path) -> None:
    pools = (STATIC, Pool(name="big", provider="static"), Pool(name="theirs", provider="static", projects=("TEST02",)))
    async with running(tmp_path, pools=pools) as bridge, backend(bridge) as client:
        assert (await client.post("/v1/tokens", json={"pools": ["theirs"]})).status_code == 400
        node_key = bridge.keys.create_node_key("big")
        async with (
            FakeNode(bridge.url, node_key, pool="big") as node,
            FakeClient(bridge.url, shown := await token(bridge, pools=["big"])) as inside,
        ):
            await inside.start_session()
            assert len(node.sessions) == 1
            (pool,) = (await client.get("/v1/pools", headers={"authorization": f"Bearer {shown}"})).json()
            assert pool["name"] == "big"
        both = await token(bridge, pools=["big", "default"])
        (pool,) = (await client.get("/v1/pools", headers={"authorization": f"Bearer {both}"})).json()
        assert pool["name"] == "default", "the project's own, where it is among them"


async def test_a_token_bounds_its_sessions_in_time(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node():
        shown = await token(bridge, max_session=0.2)
        async with ExtendedClient(bridge.url, shown) as client:
            await client.start_session()
            error = await client.expect("error")
            assert error["code"] == "session_too_long"
        async with FakeClient(bridge.url, shown) as plain:
            await plain.start_session()
            assert (await plain.expect("error"))["message"] == "The session reached its maximum length."


async def test_a_token_has_so_many_sessions_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(capacity=3):
        shown, another = await token(bridge, max_sessions=1), await token(bridge, max_sessions=1)
        first, second = ExtendedClient(bridge.url, shown), ExtendedClient(bridge.url, shown)
        async with first, second, FakeClient(bridge.url, another) as other:
            await first.start_session()
            await other.start_session()
            await second.send("session_start")
            error = await second.expect("error")
            assert (error["code"], error["retryable"]) == ("session_limit", True)
            await second.expect("session_end", reason="session_limit")
            await second.send("offer", sdp="an offer")
            assert (await second.expect("error"))["code"] == "session_limit"
            await first.send("session_end")
            await first.expect("session_end")
            await second.send("session_start")
            await second.expect("node_status", status="waiting")
        assert len(bridge.server.bridge.admission.quotas) == 0


async def test_a_client_of_the_documented_dialect_is_told_as_clearly(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(capacity=3):
        shown = await token(bridge, max_sessions=1)
        async with FakeClient(bridge.url, shown) as first, FakeClient(bridge.url, shown) as second:
            await first.start_session()
            await second.send("session_start")
            message = {"type": "error", "message": "The credential has as many sessions as it may have."}
            assert await second.expect("error") == message
            await second.send("candidate", candidate={"candidate": "", "sdpMid": "0"})  # dropped in silence
            await second.send("offer", sdp="an offer")
            assert await second.expect("error") == message
            assert second.inbox == [{"type": "auth_success"}]


async def test_a_session_bounded_by_a_token_stays_so_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        node = bridge.node(capacity=2)
        await node.connect()
        shown = await token(bridge, max_sessions=1, max_session=100)
        client = FakeClient(bridge.url, shown)
        await client.connect()
        await client.start_session()
        await bridge.server._ledger.flush()
        (row,) = bridge.server._ledger.open_sessions()
    async with running(tmp_path) as again:
        entry = again.server.bridge.sessions[row.id]
        assert entry.bounds is not None
        assert entry.bounds.max_session == 100
        left = entry.session.expires - again.server.bridge.clock()
        assert 0 < left <= 100
        assert not again.server.bridge.admission.quotas.take("another", entry.bounds.groups)
    await node.drop()
    await client.drop()


# --- keys with restrictions ---


async def test_a_key_may_do_what_its_scopes_say(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        minting = bridge.keys.create_client_key("TEST01", scopes=["tokens"])
        connecting = bridge.keys.create_client_key("TEST01", scopes=["connect"])
        await refused(FakeClient(bridge.url, minting))
        await accepted(FakeClient(bridge.url, connecting))
        async with backend(bridge, connecting) as client:
            answer = await client.post("/v1/tokens")
            assert (answer.status_code, answer.json()) == (403, {"error": "The key lacks the scope tokens."})
        await accepted(FakeClient(bridge.url, await token(bridge, minting)))


async def test_an_expired_key_is_refused_in_silence_and_its_sockets_stay(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node():
        key = bridge.keys.create_client_key("TEST01", expires=time.time() + 0.5)
        async with FakeClient(bridge.url, key) as client:
            await client.expect("auth_success")
            await until(lambda: bridge.keys.identify(key) is None)
            await refused(FakeClient(bridge.url, key))
            assert await client.start_session() == "answer to an offer"


async def test_a_token_ends_with_its_key(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        end = time.time() + 10
        key = bridge.keys.create_client_key("TEST01", expires=end)
        async with backend(bridge, key) as client:
            assert (await client.post("/v1/tokens", json={"expires_in": 3600})).json()["expires_at"] == int(end)


async def test_a_rotated_key_overlaps_with_the_new_one(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        new = bridge.keys.rotate_key("1", 3600)
        assert new
        for key in (bridge.client_key, new):
            await accepted(FakeClient(bridge.url, key))
        newer = bridge.keys.rotate_key(bridge.keys.keys()[-1].id, 0)
        assert newer
        await refused(FakeClient(bridge.url, new))
        await accepted(FakeClient(bridge.url, newer))


async def test_a_key_has_so_many_connections(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        key = bridge.keys.create_client_key("TEST01", limits=KeyLimits(connections=2))
        shown = await token(bridge, key)
        async with FakeClient(bridge.url, key) as first:
            await first.expect("auth_success")
            async with FakeClient(bridge.url, shown) as second:
                await second.expect("auth_success")
                await refused(FakeClient(bridge.url, key))
                await refused(FakeClient(bridge.url, shown))
                await accepted(FakeClient(bridge.url, bridge.client_key))
            (use,) = bridge.server.bridge.access._uses.values()
            await until(lambda: len(use.sockets) == 1)
            await accepted(ExtendedClient(bridge.url, shown))


async def test_a_key_has_so_many_sessions_with_all_its_tokens(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(capacity=3):
        key = bridge.keys.create_client_key("TEST01", limits=KeyLimits(sessions=1))
        async with FakeClient(bridge.url, key) as first, ExtendedClient(bridge.url, await token(bridge, key)) as second:
            await first.start_session()
            await second.send("session_start")
            assert (await second.expect("error"))["code"] == "session_limit"


async def test_a_key_has_so_many_messages_a_second(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node():
        key = bridge.keys.create_client_key("TEST01", limits=KeyLimits(messages=3))
        first, second = ExtendedClient(bridge.url, key), FakeClient(bridge.url, key)
        async with first, second:
            await second.expect("auth_success")
            for _ in range(8):
                await first.send("session_start")
            error = await first.expect("error")
            assert (error["code"], error["retryable"]) == ("rate_limited", True)
            await first.acknowledge()
            await second.send("session_start")
            assert (await second.expect("error"))[
                "message"
            ] == "The credential has been used too often in a short time."
            assert first.code is None, "it is told, and not closed"


async def test_a_key_makes_so_many_sessions_and_tokens_a_minute(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.node(capacity=3):
        key = bridge.keys.create_client_key("TEST01", limits=KeyLimits(creations=2))
        shown = await token(bridge, key)
        async with ExtendedClient(bridge.url, shown) as client, backend(bridge, key) as back_end:
            await client.start_session()
            answer = await back_end.post("/v1/tokens")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 0
            await client.send("session_end")
            await client.expect("session_end")
            await client.send("session_start")
            assert (await client.expect("error"))["code"] == "rate_limited"


async def test_the_last_use_of_a_key_is_written_now_and_then(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        assert bridge.keys.keys()[0].last_used is None
        bridge.keys.changed()
        before = time.time()
        await accepted(bridge.client())
        bridge.keys.write_uses()
        used = bridge.keys.keys()[0].last_used
        assert used is not None
        assert before <= used <= time.time()
        assert bridge.keys.keys()[1].last_used is None
        assert not bridge.keys.changed(), "no key has changed"
        await accepted(bridge.client())


# --- secret keys and browsers ---


async def test_secret_keys_may_be_kept_out_of_browsers(tmp_path: Path) -> None:
    async with running(tmp_path, auth=Auth(secret_keys_from_browsers=False)) as bridge:
        await refused(FakeClient(bridge.url, bridge.client_key, headers={"Origin": PAGE}))
        await refused(ExtendedClient(bridge.url, bridge.client_key, headers={"Origin": PAGE}))
        await accepted(FakeClient(bridge.url, bridge.client_key))
        await accepted(FakeClient(bridge.url, await token(bridge), headers={"Origin": PAGE}))
        for page in ("null", f"http://127.0.0.1:{bridge.port}"):
            await refused(FakeClient(bridge.url, bridge.client_key, headers={"Origin": page}))
        async with backend(bridge) as client:
            assert (await client.get("/v1/pools")).status_code == 200
            assert (await client.get("/v1/pools", headers={"origin": PAGE})).status_code == 401


async def test_secret_keys_are_taken_from_browsers_unless_told_otherwise(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        await accepted(FakeClient(bridge.url, bridge.client_key, headers={"Origin": PAGE}))


async def test_the_demos_page_is_given_a_token_where_it_needs_one(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        key = bridge.client_key
    async with running(tmp_path, demo=key, auth=Auth(secret_keys_from_browsers=False)) as bridge:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{bridge.port}", trust_env=False) as page:
            given = (await page.get("/v1/demo")).json()["credential"]
        assert given.startswith("ek_")
        await accepted(FakeClient(bridge.url, given, headers={"Origin": f"http://127.0.0.1:{bridge.port}"}))


async def test_a_token_that_somebody_else_has_signed_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        text = (await token(bridge)).removeprefix("ek_")
        head, claims = jwt.get_unverified_header(text), jwt.decode(text, options={"verify_signature": False})
        forged = jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": head["kid"]})
        await refused(FakeClient(bridge.url, f"ek_{forged}"))
        await refused(FakeClient(bridge.url, text))
        await accepted(FakeClient(bridge.url, f"ek_{text}"))
