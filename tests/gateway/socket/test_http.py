"""The adapter to uvicorn: an upgrade of uvicorn that breaks what it relies on shows here."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.socket.tools import TIMEOUT, Client, Server, until
from rtcbridge.gateway.http_adapter import LimitBody

Serve = Callable[..., Awaitable[Server]]

GET = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"
BIG = b"b" * 3_000_000


async def _hello(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.url.query}".strip())


async def _echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def _big(request: Request) -> Response:
    return Response(BIG)


async def _fail(request: Request) -> Response:
    raise RuntimeError("broken")


async def _stream(request: Request) -> Response:
    async def parts() -> Any:
        for part in ("one", "two"):
            yield part
            await asyncio.sleep(0.3)

    return StreamingResponse(parts())


@pytest.fixture
def app() -> Any:
    routes = [
        Route("/hello", _hello),
        Route("/echo", _echo, methods=["POST"]),
        Route("/big", _big),
        Route("/fail", _fail),
        Route("/stream", _stream),
    ]
    return LimitBody(Starlette(routes=routes), max_body=100_000)


async def test_keep_alive(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    for number in range(3):
        client.write(GET.replace(b"/hello", b"/hello?%d" % number))
        status, headers, body = await client.response()
        assert (status, body) == (200, b"hello %d" % number)
        assert headers["content-type"].startswith("text/plain")
        age = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
        assert abs(age - time.time()) < 5
        assert "server" not in headers
    assert len(server.listener.group.connections) == 1


async def test_pipelined(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(GET.replace(b"/hello", b"/hello?1") + GET.replace(b"/hello", b"/hello?2") + GET[:10])
    assert (await client.response())[2] == b"hello 1"
    assert (await client.response())[2] == b"hello 2"
    client.write(GET[10:])
    assert (await client.response())[2] == b"hello"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_in_pieces(serve: Serve, app: Any, chunked: bool) -> None:
    server = await serve(app=app)
    client = await server.connect()
    head = b"POST /echo HTTP/1.1\r\nHost: test\r\n"
    for _ in range(2):
        client.write(head + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 10\r\n\r\n"))
        for piece in (b"01234", b"5", b"6789"):
            await asyncio.sleep(0.01)
            client.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            client.write(b"0\r\n\r\n")
        assert (await client.response())[::2] == (200, b"0123456789")


async def test_expect_continue(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(b"POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.head()).startswith("HTTP/1.1 100 ")
    client.write(b"ok")
    assert (await client.response())[2] == b"ok"


async def test_head_and_errors(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(GET.replace(b"GET", b"HEAD"))
    status, headers, _ = await client.response(head_only=True)
    assert (status, headers["content-length"]) == (200, "5")
    for path, expected in ((b"/nowhere", 404), (b"/echo", 405), (b"/fail", 500)):
        client.write(GET.replace(b"/hello", path))
        assert (await client.response())[0] == expected
    client = await server.connect()
    client.write(GET.replace(b"/hello", b"http://test/hello?absolute"))
    assert (await client.response())[2] == b"hello absolute"


async def test_odd_targets(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    for line in (b"OPTIONS *", b"GET http://test", b"CONNECT test:443", b"GET //hello", b"GET /%ff"):
        client = await server.connect()
        client.write(line + b" HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await client.response())[0] in {400, 404, 405}


async def test_connection_close_and_http_1_0(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    for request in (GET.replace(b"Host", b"Connection: close\r\nHost"), GET.replace(b"1.1", b"1.0")):
        client = await server.connect()
        client.write(request)
        assert (await client.response())[0] == 200
        await client.eof()


async def test_a_big_response_and_a_streamed_one(serve: Serve, app: Any) -> None:
    server = await serve(app=app, request_timeout=0.2)  # shorter than the stream takes
    client = await server.connect()
    client.write(GET.replace(b"/hello", b"/big"))
    assert (await client.response())[2] == BIG
    client.write(GET.replace(b"/hello", b"/stream"))
    assert "chunked" in await client.head()
    assert (
        await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), TIMEOUT) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )


async def test_an_upgrade_that_no_route_offers_is_an_ordinary_request(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    for name in (b"h2c", b"websocket"):
        client = await server.connect()
        client.write(GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: " + name + b"\r\nHost"))
        assert (await client.response())[2] == b"hello"


async def test_garbage_behind_a_request(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(GET)
    await client.response()
    client.write(b"\x00\x01\x02")
    assert (await client.response())[0] == 400
    await client.eof()
    client = await server.connect()
    client.write(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    await _cut(client)


async def _cut(client: Client) -> bytes:
    """All that comes until the connection ends, however it does."""
    try:
        return await asyncio.wait_for(client.reader.read(), TIMEOUT)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("first", [b"", GET])
async def test_head_is_bounded_in_size_on_every_request(serve: Serve, app: Any, first: bytes) -> None:
    server = await serve(app=app)
    for tail in (b"", b"\r\n\r\n"):
        client = await server.connect()
        if first:
            client.write(first)
            await client.response()
        client.write(GET[:-2] + b"X: ")
        for _ in range(17):
            client.write(b"x" * 1024)
            await asyncio.sleep(0)
        client.write(tail)
        assert (await client.response())[0] == 431
        await client.eof()


async def test_head_is_bounded_behind_a_pipelined_request(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(GET + GET[:-2] + b"X: ")
    assert (await client.response())[2] == b"hello"
    client.write(b"x" * 17000)
    await asyncio.sleep(0)
    assert (await client.response())[0] == 431
    client = await server.connect()
    client.write(GET + GET[:-2] + b"X: " + b"x" * 17000 + b"\r\n\r\n")
    answer = await _cut(client)  # the first request is being answered, so the second may only cut it off
    assert answer.count(b"hello") <= 1
    assert len(server.listener.group.connections) <= 1


async def test_pipelined_requests_are_bounded_in_number(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client = await server.connect()
    client.write(GET * 10_000)
    assert (await _cut(client)).count(b"hello") <= 17


async def test_idle_connections_are_closed(serve: Serve, app: Any) -> None:
    server = await serve(app=app, keep_alive=1, handshake_timeout=100)
    client = await server.connect()
    client.write(GET)
    await client.response()
    await client.eof()


@pytest.mark.parametrize("begun", [GET[:9], b"\r\n", b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nabc"])
@pytest.mark.parametrize("first", [b"", GET])
async def test_requests_are_bounded_in_time(serve: Serve, app: Any, first: bytes, begun: bytes) -> None:
    server = await serve(app=app, handshake_timeout=0.1, request_timeout=0.2)
    client = await server.connect()
    if first:
        client.write(first)
        await client.response()
    client.write(begun)
    answer = await _cut(client)
    assert not answer or answer.startswith(b"HTTP/1.1 408 ")
    client.close()
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


async def test_blank_lines_do_not_keep_a_connection(serve: Serve, app: Any) -> None:
    server = await serve(app=app, handshake_timeout=0.1, request_timeout=0.2)
    client = await server.connect()
    client.write(GET + b"\r\n")
    assert (await client.response())[2] == b"hello"
    client.write(b"\r\n")
    await _cut(client)


async def test_a_client_that_does_not_read_its_response_is_cut(serve: Serve, app: Any) -> None:
    server = await serve(app=app, request_timeout=0.2)
    client = await server.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    client.write(GET.replace(b"/hello", b"/big"))
    await until(lambda: len(server.listener.group.connections) == 1)
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_is_bounded_in_size(serve: Serve, app: Any, chunked: bool) -> None:
    server = await serve(app=app)
    client = await server.connect()
    body = b"x" * 200_000
    head = b"POST /echo HTTP/1.1\r\nHost: test\r\n"
    if chunked:
        client.write(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    else:
        client.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status, _, text = await client.response()
    assert (status, text) == (413, b"The body of the request is too long.\n")
    client.write(GET)
    assert (await client.response())[2] == b"hello"  # the rest was read over


async def test_close_lets_a_response_finish(serve: Serve, app: Any) -> None:
    server = await serve(app=app)
    client, idle = await server.connect(), await server.connect()
    idle.write(GET)
    await idle.response()
    client.write(GET.replace(b"/hello", b"/stream"))
    await client.head()
    await server.listener.close(timeout=5)
    assert await _cut(client) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    await idle.eof()


async def test_the_application_gets_no_lifespan_and_an_exception_is_logged(
    serve: Serve, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scopes: list[str] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope["type"])
        await app(scope, receive, send)

    server = await serve(app=noting)
    client = await server.connect()
    client.write(GET.replace(b"/hello", b"/fail"))
    assert (await client.response())[0] == 500
    assert scopes == ["http"]
    assert "RuntimeError: broken" in caplog.text
