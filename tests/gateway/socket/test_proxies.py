from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.socket.tools import Server, handshake
from rtcbridge.gateway.proxies import Origin, TrustedProxies

Serve = Callable[..., Awaitable[Server]]

PROXY = ("10.0.0.1", 4000)
XFF = "x-forwarded-for"
PROTO = "x-forwarded-proto"


def _origin(
    peer: tuple[str, int], *headers: tuple[str, str], trusted: tuple[str, ...] = ("10.0.0.0/8", "::1")
) -> Origin:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return TrustedProxies(trusted).origin(peer, "http", Headers(raw=raw))


def test_no_proxy() -> None:
    assert _origin(PROXY) == Origin(PROXY, "http", proxied=False)


@pytest.mark.parametrize("name", ["forwarded", XFF, PROTO, "x-forwarded-host", "x-real-ip", "via"])
def test_a_stranger_is_not_believed_but_remembered_as_a_proxy(name: str) -> None:
    peer = ("192.0.2.9", 1)
    assert _origin(peer, (name, "for=127.0.0.1;proto=https")) == Origin(peer, "http", proxied=True)
    assert _origin(("127.0.0.1", 1), (name, "1.2.3.4"), trusted=()) == Origin(("127.0.0.1", 1), "http", proxied=True)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:5555", ("192.0.2.1", 5555)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]:77", ("2001:db8::1", 77)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("127.0.0.1, 192.0.2.1", ("192.0.2.1", 0)),  # what a client writes itself stands on the left
        ("127.0.0.1, 192.0.2.1, 10.0.0.7", ("192.0.2.1", 0)),
        ("10.0.0.9, 10.0.0.7", ("10.0.0.9", 0)),  # all of them trusted: the first is the client
        ("192.0.2.1, unknown", PROXY),
        ("192.0.2.1, unknown, 10.0.0.7", ("10.0.0.7", 0)),
        ("192.0.2.1:99999", ("192.0.2.1", 0)),
        ("", PROXY),
        ("1.2.3", PROXY),
        ("<script>", PROXY),
    ],
)
def test_x_forwarded_for(header: str, client: tuple[str, int]) -> None:
    assert _origin(PROXY, (XFF, header)) == Origin(client, "http", proxied=True)


def test_repeated_headers_are_one_list() -> None:
    assert _origin(PROXY, (XFF, "127.0.0.1"), (XFF, "192.0.2.1, 10.0.0.7")).client == ("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("header", "client", "scheme"),
    [
        ("for=192.0.2.1", ("192.0.2.1", 0), "http"),
        ("For=192.0.2.1;Proto=HTTPS;by=203.0.113.43", ("192.0.2.1", 0), "https"),
        ('for="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711), "http"),
        ('for="192.0.2.1:80"; proto="https"', ("192.0.2.1", 80), "https"),
        ("for=127.0.0.1, for=192.0.2.1;proto=https , for=10.0.0.3;proto=http", ("192.0.2.1", 0), "https"),
        ('for=127.0.0.1;host="a,b;c=\\"d", for=192.0.2.1', ("192.0.2.1", 0), "http"),
        ("for=_hidden", PROXY, "http"),
        ("for=unknown, for=10.0.0.3", ("10.0.0.3", 0), "http"),
        ("proto=https", PROXY, "http"),
        ("for=192.0.2.1, nonsense", PROXY, "http"),
        ("for=", PROXY, "http"),
        ('for="192.0.2.1', PROXY, "http"),
        ("nonsense, for=192.0.2.1", ("192.0.2.1", 0), "http"),
        (",,,", PROXY, "http"),
        ("", PROXY, "http"),
    ],
)
def test_forwarded(header: str, client: tuple[str, int], scheme: str) -> None:
    assert _origin(PROXY, ("forwarded", header)) == Origin(client, scheme, proxied=True)


def test_x_forwarded_proto() -> None:
    assert _origin(PROXY, (XFF, "192.0.2.1"), (PROTO, "https")).scheme == "https"
    assert _origin(PROXY, (XFF, "192.0.2.1"), (PROTO, "gopher")).scheme == "http"
    assert _origin(("192.0.2.1", 1), (XFF, "192.0.2.1"), (PROTO, "https")).scheme == "http"


def test_two_headers_that_disagree_are_both_disbelieved() -> None:
    forwarded, other = ("forwarded", "for=192.0.2.1"), (XFF, "127.0.0.1")
    assert _origin(PROXY, forwarded, other) == Origin(PROXY, "http", proxied=True)
    assert _origin(PROXY, forwarded, (XFF, "192.0.2.1")).client == ("192.0.2.1", 0)


def test_trusted_networks_are_checked() -> None:
    assert _origin(("::1", 1), (XFF, "192.0.2.1")).client == ("192.0.2.1", 0)
    assert _origin(("::ffff:10.0.0.1", 1), (XFF, "192.0.2.1")).client == ("192.0.2.1", 0)
    with pytest.raises(ValueError, match=r"proxy\.example"):
        TrustedProxies(["10.0.0.1", "proxy.example"])


@pytest.mark.parametrize("trusted", [True, False])
async def test_over_both_paths(serve: Serve, trusted: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        assert request.client is not None
        told = [request.client.host, request.url.scheme, request.state.proxied]
        await JSONResponse(told)(scope, receive, send)

    server = await serve(app=app, trusted_proxies=["127.0.0.0/8"] if trusted else [])
    expected = ("192.0.2.1", "https") if trusted else ("127.0.0.1", "http")
    client = await server.connect()
    headers = "X-Forwarded-For: 10.9.8.7, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
    client.write(f"GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())
    assert (await client.response())[2].decode() == f'["{expected[0]}","{expected[1]}",true]'
    client.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await client.response())[2] == b'["127.0.0.1","http",false]'
    client.write(handshake(extra=headers))
    await client.head()
    (request,) = server.requests
    assert (request.client[0], request.scheme, request.proxied) == (*expected, True)
