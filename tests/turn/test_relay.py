"""Both engines through a real coturn and no other way, with the credentials that the bridge makes."""

import asyncio
import re
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from node.clients import CLIENTS, grey
from node.test_engine_contract import Call
from rtcbridge.config import Coturn as CoturnSection
from rtcbridge.drivers.ice.coturn import CoturnServers
from rtcbridge.media import IceServer
from turn.server import Coturn, coturn, needs_coturn, secret

pytestmark = [pytest.mark.slow, needs_coturn]


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """coturn at this machine's own address: it relays nothing from or to loopback."""
    addresses = [a.address for all in psutil.net_if_addrs().values() for a in all if a.family == socket.AF_INET]
    outer = next((address for address in addresses if not address.startswith("127.")), None)
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    with coturn(tmp_path_factory.mktemp("turn"), outer, f"--allowed-peer-ip={outer}") as server:
        yield server


def ice(turn: Coturn, user: str, ttl: float = 60, key: str = "", now: float | None = None) -> list[IceServer]:
    """What the bridge would say to `user`."""
    section = CoturnSection(urls=(turn.url,), secret=key or secret(), ttl=ttl)
    clock = time.time if now is None else lambda: now
    (server,) = CoturnServers(section, clock).grant(user).servers
    return [IceServer(tuple(server.urls), server.username, server.credential)]


def kinds(*sdps: str) -> set[str]:
    """The types of the candidates in these."""
    return {kind for sdp in sdps for kind in re.findall(r"candidate:.* typ (\w+)", sdp)}


def users(turn: Coturn) -> set[str]:
    return {name.partition(":")[2] for name in turn.relayed_for()}


@pytest.fixture(params=["wrtc", "aiortc"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("library", ["wrtc", "aiortc"], ids=["from-wrtc", "from-aiortc"])
async def test_media_goes_through_the_relay_only(turn: Coturn, engine: str, library: str) -> None:
    name = f"{library}-{engine}"
    call = Call(engine, CLIENTS[library](ice=ice(turn, name)), ice(turn, f"{name}-node"), "relay")
    try:
        call.client.show = grey(60)
        await call.connected()
        await call.client.until_luma(175, 210)
        trickled = [str(each["candidate"]) for each in call.node.candidates if each]
        assert kinds(*call.answers, *trickled) == {"relay"}
        assert {name, f"{name}-node"} <= users(turn)
    finally:
        await call.close()


@pytest.mark.parametrize("wrong", ["expired", "forged"])
async def test_a_credential_that_has_expired_or_is_forged_relays_nothing(turn: Coturn, engine: str, wrong: str) -> None:
    name = f"{engine}-{wrong}"
    bad = ice(turn, name, now=time.time() - 3600) if wrong == "expired" else ice(turn, name, key="guessed")
    call = Call(engine, CLIENTS["wrtc"](ice=ice(turn, "good")), bad, "relay")
    try:
        since = len(turn.program.lines)
        await call.negotiate()
        await asyncio.to_thread(turn.program.line, rf"user <\d+:{name}>.*(401|[Uu]nauthorized)", since=since)
        assert kinds(*call.answers, *(str(each["candidate"]) for each in call.node.candidates if each)) == set()
        assert name not in users(turn)
    finally:
        await call.close()


async def test_an_ice_restart_takes_the_newest_credentials(turn: Coturn, engine: str) -> None:
    client = CLIENTS["wrtc"](ice=ice(turn, "first"))
    call = Call(engine, client, ice(turn, f"{engine}-first-node"), "relay")
    try:
        client.show = grey(60)
        await call.connected()
        await client.until_luma(175, 210)
        before = client.pair()
        call.peer.set_ice_servers(ice(turn, f"{engine}-second-node"))
        client.use(ice(turn, f"{engine}-second"))
        assert not {f"{engine}-second", f"{engine}-second-node"} & users(turn), "nothing is gathered for it alone"
        await call.negotiate(restart=True)
        await client.until(lambda: client.pair() not in (before, ("", "")))
        client.show = grey(160)
        await client.until_luma(70, 110)
        assert {f"{engine}-second", f"{engine}-second-node"} <= users(turn)
        assert "failed" not in call.node.states
    finally:
        await call.close()
