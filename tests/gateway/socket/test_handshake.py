from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from gateway.socket.tools import KEY, TIMEOUT, Recorder, Server, close_frame, handshake, text
from rtcbridge.gateway.listener import Refused, Request

Serve = Callable[..., Awaitable[Server]]
GOOD = handshake().decode()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("the application")(scope, receive, send)


async def _ask(server: Server, request: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
    client = await server.connect()
    client.write(request.encode("latin-1"))
    return await client.response(**options)


async def test_the_example_of_the_rfc(serve: Serve) -> None:
    server = await serve()
    client = await server.connect()
    client.write(GOOD.replace(KEY, "dGhlIHNhbXBsZSBub25jZQ==").encode())
    assert await client.head() == (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),  # as Firefox has it
        ("Connection: Upgrade", "connection:UPGRADE"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
        ("Upgrade: websocket", "UPGRADE: WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        ("/ws ", "/ws?token=a/b?c "),
        ("/ws ", "/%77s "),
        ("/ws ", "http://other.example:80/ws?x "),
        ("Host: test", "Host: test\r\nContent-Length: 0"),
        ("Host: test", "Host: test\r\nOrigin: https://example.org\r\nX-Twice: 1\r\nX-Twice: 2"),
        ("GET", "\r\nGET"),
    ],
)
async def test_accepted(serve: Serve, change: tuple[str, str]) -> None:
    server = await serve()
    client = await server.connect()
    client.write(GOOD.replace(*change).encode() + text("at once"))
    assert (await client.head()).startswith("HTTP/1.1 101 ")
    socket = await asyncio.wait_for(server.sockets.get(), TIMEOUT)
    await asyncio.wait_for(socket.got_message.wait(), TIMEOUT)
    assert socket.got == [b"at once"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("Connection: Upgrade", "Connection: keep-alive"), 426),
        (("Upgrade: websocket\r\n", ""), 426),
        (("Upgrade: websocket", "Upgrade: h2c"), 426),
        (("Version: 13", "Version: 8"), 426),
        (("Sec-WebSocket-Version: 13\r\n", ""), 426),
        (("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8"), 426),
        (("GET", "POST"), 405),
        (("HTTP/1.1", "HTTP/1.0"), 400),
        ((f"Sec-WebSocket-Key: {KEY}\r\n", ""), 400),
        ((KEY, "dGhlIHNhbXBsZQ=="), 400),
        ((KEY, KEY[:-1]), 400),
        ((KEY, "*" * 24), 400),
        ((KEY, f"{KEY}\r\nSec-WebSocket-Key: {KEY}"), 400),
        (("Host: test\r\n", ""), 400),
        (("Host: test", "Host: a\r\nHost: b"), 400),
        (("Host: test", "Host: test\r\nContent-Length: 5"), 400),
        (("Host: test", "Host: test\r\nTransfer-Encoding: chunked"), 400),
        (("Host: test", "Host: test\r\nX-Folded: a\r\n b"), 400),
        (("Host: test", "Host: test\r\nX-Null: a\x00b"), 400),
        (("Host: test", "Host : test"), 400),
        (("Host: test", "Host: test\r\nno colon"), 400),
        (("\r\n", "\n"), 400),
    ],
)
async def test_refused(serve: Serve, change: tuple[str, str], status: int) -> None:
    server = await serve()
    got, headers, body = await _ask(server, GOOD.replace(*change))
    assert got == status
    assert body.count(b"\n") == 1
    assert "close" in headers["connection"]
    assert server.sockets.empty()
    if status == 426:
        assert headers["upgrade"] == "websocket"
        assert headers["sec-websocket-version"] == "13"


async def test_plain_requests_to_a_route(serve: Serve) -> None:
    server = await serve(app=_app)
    for method in ("GET", "POST", "PUT"):
        request = f"{method} /ws?x HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
        status, headers, body = await _ask(server, request)
        assert (status, headers["upgrade"], headers["sec-websocket-version"]) == (426, "websocket", "13")
        assert body == b"This address speaks WebSocket only.\n"
    client = await server.connect()
    client.write(b"HEAD /ws HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await client.response(head_only=True))[0] == 426
    await client.eof()


async def test_a_body_behind_a_refused_request_does_not_destroy_the_answer(serve: Serve) -> None:
    server = await serve()
    client = await server.connect()
    client.write(b"POST /ws HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
    await client.writer.drain()
    assert (await client.response())[0] == 426


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n", b"GET /\x00 HTTP/1.1\r\n", b"\x00"])
async def test_what_is_no_http_is_refused_at_once(serve: Serve, garbage: bytes) -> None:
    server = await serve(handshake_timeout=100)
    client = await server.connect()
    client.write(garbage)
    assert (await client.response())[0] == 400
    await client.eof()


async def test_a_head_that_never_ends(serve: Serve) -> None:
    server = await serve()
    for filler in (
        b"GET /ws HTTP/1.1\r\nX: " + b"x" * 17000,
        b"GET /" + b"x" * 17000,
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 4200,
    ):
        client = await server.connect()
        client.write(filler)
        assert (await client.response())[0] == 431
        await client.eof()


async def test_a_head_in_single_bytes(serve: Serve) -> None:
    server = await serve()
    client = await server.connect()
    client.writer.transport.set_write_buffer_limits(0)
    for byte in GOOD.encode() + text("hi"):
        client.write(bytes((byte,)))
        await client.writer.drain()
    assert (await client.head()).startswith("HTTP/1.1 101 ")


@pytest.mark.parametrize("sent", [b"", b"GET /ws HTT", b"\r\n"])
async def test_silence(serve: Serve, sent: bytes) -> None:
    server = await serve(handshake_timeout=0.1)
    client = await server.connect()
    client.write(sent)
    assert (await client.response())[0] == 408
    await client.eof()


async def test_what_the_route_is_told(serve: Serve) -> None:
    server = await serve()
    client = await server.connect()
    extra = "Origin: https://example.org\r\nX-Two: a\r\nx-two: b\r\nSec-WebSocket-Protocol: one,two\r\n"
    client.write(handshake("/ws?a=1&b=%20", extra))
    head = await client.head()
    assert "sec-websocket-protocol" not in head.lower()  # none is chosen unless the route does
    (request,) = server.requests
    assert (request.method, request.version, request.path, request.query) == ("GET", "1.1", "/ws", "a=1&b=%20")
    assert request.client == client.writer.get_extra_info("sockname")
    assert (request.scheme, request.proxied, request.origin) == ("http", False, "https://example.org")
    assert request.headers.getlist("X-Two") == ["a", "b"]
    assert request.subprotocols == ("one", "two")


async def test_subprotocol(serve: Serve) -> None:
    def choose(request: Request) -> Recorder:
        if "rtcbridge.v2" in request.subprotocols:
            request.subprotocol = "rtcbridge.v2"
        return Recorder()

    server = await serve(routes={"/two": choose})
    for offered, chosen in (
        ("a, rtcbridge.v2", True),
        ("a\r\nSec-WebSocket-Protocol: rtcbridge.v2", True),
        ("a", False),
    ):
        client = await server.connect()
        client.write(handshake("/two", f"Sec-WebSocket-Protocol: {offered}\r\n"))
        assert ("\r\nSec-WebSocket-Protocol: rtcbridge.v2\r\n" in await client.head()) is chosen


async def test_a_route_may_refuse_or_fail(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: Request) -> Recorder:
        raise Refused(503, "Not now.", (("Retry-After", "5"),))

    def fail(request: Request) -> Recorder:
        raise RuntimeError("broken")

    def overreach(request: Request) -> Recorder:
        request.subprotocol = "never.offered"
        return Recorder()

    server = await serve(routes={"/refuse": refuse, "/fail": fail, "/overreach": overreach})
    status, headers, body = await _ask(server, handshake("/refuse").decode())
    assert (status, headers["retry-after"], body) == (503, "5", b"Not now.\n")
    assert (await _ask(server, handshake("/fail").decode()))[0] == 500
    assert (await _ask(server, handshake("/overreach").decode()))[0] == 500
    assert "broken" in caplog.text
    assert "never.offered" in caplog.text


async def test_upgrade_on_a_connection_that_was_used_before(serve: Serve) -> None:
    """As proxies do that keep connections open to what stands behind them."""
    server = await serve(app=_app)
    client = await server.connect()
    for _ in range(2):
        client.write(b"GET /page HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await client.response())[2] == b"the application"
    await client.upgrade()
    socket = await asyncio.wait_for(server.sockets.get(), TIMEOUT)
    client.write(text("hello") + close_frame())
    assert await client.close_code() == 1000
    assert socket.got == [b"hello"]
    client.close()
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


async def test_websocket_paths_are_no_http_even_behind_another_request(serve: Serve) -> None:
    server = await serve(app=_app)
    client = await server.connect()
    client.write(b"GET /page HTTP/1.1\r\nHost: test\r\n\r\nGET /ws HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await client.response())[2] == b"the application"
    status, headers, _ = await client.response()
    assert (status, headers["upgrade"]) == (426, "websocket")
