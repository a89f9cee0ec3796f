"""Where STUN and TURN servers come from: what is said of them, for how long, and what happens while a service fails.

Cloudflare and Twilio are played by a small HTTP server that answers as their documents say, and no other way:
https://developers.cloudflare.com/realtime/turn/generate-credentials/ and https://www.twilio.com/docs/stun-turn/api.
Nothing here has been tried on the services themselves.
"""

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from typing import Any
from urllib.parse import parse_qs

import pytest
from structlog.testing import capture_logs

from rtcbridge.config import Cloudflare, Coturn, Ice, IceServer, Twilio
from rtcbridge.core import messages
from rtcbridge.drivers.ice import PrefetchedServers, make_ice_servers, prefetched
from rtcbridge.drivers.ice.coturn import password
from rtcbridge.drivers.ice.services import CloudflareSource, TwilioSource
from rtcbridge.ports import IceError, IceGrant

NOW = 1_767_222_000.0
STUN = IceServer(urls=("stun:s.example",))
COTURN = Coturn(urls=("turn:t.example", "turns:t.example"), secret="north", ttl=3600)


# --- without a service ---


def test_the_password_is_that_of_an_independent_computation() -> None:
    # printf '1433895918:ninefingers' | openssl dgst -sha1 -hmac logen -binary | base64
    assert password("logen", "1433895918:ninefingers") == "HY+Vd729N0UZ/xCzjg1F0GsoMK8="
    name = "1767225600:01a21f364d2bb59b9aefc7fe199d49ba"
    made = subprocess.run(
        ["openssl", "dgst", "-sha1", "-hmac", "north", "-binary"], input=name.encode(), capture_output=True, check=True
    )
    encoded = subprocess.run(["base64"], input=made.stdout, capture_output=True, check=True)
    assert password("north", name) == encoded.stdout.decode().strip()


def test_everybody_gets_a_credential_of_coturn_of_their_own() -> None:
    servers = make_ice_servers(Ice(coturn=COTURN), lambda: NOW)
    ours, theirs = servers.grant("a"), servers.grant("b")
    assert ours.expires == NOW + 3600
    (server,) = ours.servers
    assert server.username == f"{int(NOW) + 3600}:a"
    assert server.credential == password("north", server.username)
    assert list(server.urls) == ["turn:t.example", "turns:t.example"]
    assert theirs.servers[0].credential != server.credential


def test_fixed_servers_never_expire_and_all_ways_go_together() -> None:
    assert make_ice_servers(Ice()).grant("a") == IceGrant()
    fixed = make_ice_servers(Ice(servers=(STUN,))).grant("a")
    assert (fixed.servers, fixed.expires) == ((messages.IceServer(["stun:s.example"]),), inf)
    both = make_ice_servers(Ice(servers=(STUN,), coturn=COTURN), lambda: NOW).grant("a")
    assert [next(iter(server.urls)) for server in both.servers] == ["stun:s.example", "turn:t.example"]
    assert both.expires == NOW + 3600


# --- the services ---

CLOUDFLARE = {
    "iceServers": [
        {"urls": ["stun:stun.cloudflare.com:3478", "stun:stun.cloudflare.com:53"]},
        {
            "urls": [
                "turn:turn.cloudflare.com:3478?transport=udp",
                "turn:turn.cloudflare.com:53?transport=udp",
                "turns:turn.cloudflare.com:443?transport=tcp",
            ],
            "username": "cf-user",
            "credential": "cf-credential",
        },
    ]
}
TWILIO = {
    "username": "tw-user",
    "password": "tw-credential",
    "ttl": "600",
    "account_sid": "AC1",
    "ice_servers": [
        {"url": "stun:global.stun.twilio.com:3478", "urls": "stun:global.stun.twilio.com:3478"},
        {
            "url": "turn:global.turn.twilio.com:3478?transport=udp",
            "urls": "turn:global.turn.twilio.com:3478?transport=udp",
            "username": "tw-user",
            "credential": "tw-credential",
        },
    ],
    "date_created": "Fri, 01 May 2020 01:42:57 +0000",
    "date_updated": "Fri, 01 May 2020 01:42:57 +0000",
}


@dataclass
class Service:
    """Answers each request with `status` and `body`, and notes what was asked."""

    url: str = ""
    status: int = 201
    body: bytes = b""
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    hang: threading.Event | None = None


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            state.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if state.hang is not None:
                state.hang.wait()
            self.send_response(state.status)
            self.send_header("location", f"{state.url}/elsewhere")
            self.send_header("content-length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    if state.hang is not None:
        state.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()


def cloudflare(service: Service, **more: Any) -> CloudflareSource:
    return CloudflareSource(Cloudflare(key_id="k/1", api_token="cf-token", url=service.url, **more), lambda: NOW)


async def test_cloudflare_is_asked_as_it_documents(service: Service) -> None:
    service.body = json.dumps(CLOUDFLARE).encode()
    grant = await cloudflare(service, ttl=7200).fetch()
    ((path, headers, body),) = service.asked
    assert path == "/v1/turn/keys/k%2F1/credentials/generate-ice-servers"
    assert headers["authorization"] == "Bearer cf-token"
    assert json.loads(body) == {"ttl": 7200}
    assert grant.expires == NOW + 7200
    turn = ["turn:turn.cloudflare.com:3478?transport=udp", "turns:turn.cloudflare.com:443?transport=tcp"]
    assert grant.servers == (  # without port 53, which browsers refuse
        messages.IceServer(["stun:stun.cloudflare.com:3478"]),
        messages.IceServer(turn, "cf-user", "cf-credential"),
    )


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        ({"auth_token": "secret"}, "Basic QUMxOnNlY3JldA=="),  # AC1:secret
        ({"api_key": "SK1", "api_secret": "secret"}, "Basic U0sxOnNlY3JldA=="),
    ],
)
async def test_twilio_is_asked_as_it_documents(service: Service, login: dict[str, str], expected: str) -> None:
    service.body = json.dumps(TWILIO).encode()
    grant = await TwilioSource(Twilio(account_sid="AC1", ttl=900, url=service.url, **login), lambda: NOW).fetch()
    ((path, headers, body),) = service.asked
    assert path == "/2010-04-01/Accounts/AC1/Tokens.json"
    assert headers["authorization"] == expected
    assert parse_qs(body.decode()) == {"Ttl": ["900"]}
    assert grant.expires == NOW + 600, "the service's own word counts"
    assert grant.servers == (
        messages.IceServer(["stun:global.stun.twilio.com:3478"]),
        messages.IceServer(["turn:global.turn.twilio.com:3478?transport=udp"], "tw-user", "tw-credential"),
    )


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, "cf-token is wrong", "the API answered 401: the login is not valid"),
        (500, "", "the API answered 500"),
        (302, "", "the API answered 302"),
        (201, "cf-token", "the answer is not as documented"),
        (201, "{}", "the answer is not as documented"),
        (201, json.dumps({"iceServers": [{"urls": "stun:a"}]}), "the answer has no TURN server"),
        (201, json.dumps({"iceServers": [{"urls": "http:a", "username": "u", "credential": "c"}]}), "no TURN server"),
        (201, "[" * 70_000, "the answer is too long"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line_without_secrets(
    service: Service, status: int, body: str, text: str
) -> None:
    service.status, service.body = status, body.encode()
    with pytest.raises(IceError, match=text) as caught:
        await cloudflare(service).fetch()
    assert "cf-token" not in str(caught.value)
    assert len(service.asked) == 1, "nothing follows a redirection with the token in hand"


async def test_a_service_that_cannot_be_reached(service: Service) -> None:
    unreachable = CloudflareSource(Cloudflare(key_id="k", api_token="t", url="http://127.0.0.1:1"), lambda: NOW)
    with pytest.raises(IceError, match="the API cannot be reached"):
        await unreachable.fetch()


async def test_what_the_configuration_names_is_asked_when_it_starts(service: Service) -> None:
    service.body = json.dumps(CLOUDFLARE | TWILIO).encode()  # one server for both, and each takes what is its own
    ice = Ice(
        servers=(STUN,),
        cloudflare=Cloudflare(key_id="k", api_token="t", url=service.url),
        twilio=Twilio(account_sid="AC1", auth_token="t", url=f"{service.url}/"),
    )
    servers = make_ice_servers(ice, lambda: NOW)
    assert [server.username for server in servers.grant("a").servers] == [""]
    await servers.start()
    grant = servers.grant("a")
    assert [server.username for server in grant.servers] == ["", "", "cf-user", "", "tw-user"]
    assert grant.expires == NOW + 600, "the first of them to expire says when to ask again"
    assert len(service.asked) == 2
    await servers.close()


# --- what is kept ready ---


class Scripted:
    """A service that answers as it is told: with credentials that are good for so many seconds, or an error."""

    name = "scripted"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.calls = self.at_once = 0
        self.life: float | None = 100.0
        self.called = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def fetch(self) -> IceGrant:
        self.calls += 1
        self.at_once += 1
        assert self.at_once == 1
        self.called.set()
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        if self.life is None:
            raise IceError("it is broken")
        return IceGrant((messages.IceServer(["turn:t"], f"user{self.calls}", "c"),), self.clock() + self.life)

    async def next_call(self) -> None:
        async with asyncio.timeout(10):
            await self.called.wait()
        self.called.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class Time:
    """Unix seconds that a test moves; what sleeps is woken by the same hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.sleeps: list[float] = []
        self._wake = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await self._wake.wait()
        self._wake.clear()

    def wake(self, seconds: float) -> None:
        self.now += seconds
        self._wake.set()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    real = asyncio.sleep
    monkeypatch.setattr(prefetched.asyncio, "sleep", lambda s: time.sleep(s) if s else real(0))
    return time


async def test_a_credential_is_shared_for_half_its_life_and_kept_while_the_service_fails(time: Time) -> None:
    source = Scripted(time)
    servers = PrefetchedServers(source, time)
    with capture_logs() as logs:
        await servers.start()
        first = servers.grant("a")
        assert first.servers[0].username == "user1"
        assert servers.grant("b") is first
        assert time.sleeps == [50.0]

        await source.next_call()
        source.life = None
        time.wake(50)  # half of its life: the next one is due, and the service is broken
        await source.next_call()
        assert servers.grant("a") is first
        time.wake(1)
        await source.next_call()
        assert time.sleeps == [50.0, 1.0, 2.0], "each pause is twice the last"
        time.now += 49
        gone = servers.grant("a")
        assert (gone.servers, gone.expires > time()) == ((), True), "what has expired is of no use to anybody"

        source.life = 100.0
        time.wake(2)
        await source.next_call()
        assert servers.grant("a").servers[0].username == "user4"
        await servers.close()
    failures = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["reason"], entry["good_for"]) for entry in failures] == [("it is broken", 50), ("it is broken", 49)]
    assert not any("user" in str(entry) for entry in logs)


async def test_the_start_waits_for_the_first_credential_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetched, "_START", 0.05)
    source = Scripted(lambda: NOW)
    source.go.clear()
    servers = PrefetchedServers(source, lambda: NOW)
    await servers.start()
    assert servers.grant("a").servers == ()
    source.go.set()
    async with asyncio.timeout(10):
        while not servers.grant("a").servers:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    await servers.close()


async def test_a_call_that_hangs_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.hang = threading.Event()
    monkeypatch.setattr(prefetched, "TIMEOUT", 0.2)
    monkeypatch.setattr(prefetched, "_START", 0.01)
    servers = PrefetchedServers(cloudflare(service), lambda: NOW)
    with capture_logs() as logs:
        await servers.start()
        async with asyncio.timeout(10):
            while not logs:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.02)
        await servers.close()
    assert logs[0]["reason"] == "no answer within 0.2 seconds"
