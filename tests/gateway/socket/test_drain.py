"""The end of a connection: the peer gets the close code whatever it is doing, and cannot keep the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.socket.conftest import Certificate
from gateway.socket.tools import TIMEOUT, Client, Server, close_frame, frame, text, until, unused_bytes
from rtcbridge.gateway import drain
from rtcbridge.gateway.socket_group import Limits

Serve = Callable[..., Awaitable[Server]]
Certificates = tuple[Certificate, Certificate]


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> Certificate | None:
    return certificates[0] if request.param == "tls" else None


async def _last_code(client: Client) -> int:
    """Code of the first Close frame, behind whatever else."""
    while True:
        opcode, payload = await client.frame()
        if opcode == 8:
            return int.from_bytes(payload, "big")


@pytest.mark.parametrize(("bad", "code"), [(frame(3), 1002), (text(b"\xff"), 1007), (text(bytes(9000)), 1009)])
async def test_code_arrives_although_the_peer_has_more_to_say(
    serve: Serve, tls: Certificate | None, bad: bytes, code: int
) -> None:
    server = await serve(Limits(max_message=8192), tls=tls)
    client, socket = await server.pair()
    client.write(bad + unused_bytes(1_000_000))
    await socket.end()
    client.write(unused_bytes(1_000_000))
    await client.writer.drain()
    assert await _last_code(client) == code
    client.write(close_frame(code))
    await client.eof()


async def test_code_arrives_although_the_peer_is_sending_when_we_close(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(tls=tls)
    client, socket = await server.pair()
    client.write(unused_bytes(1_000_000))
    await asyncio.wait_for(socket.got_message.wait(), TIMEOUT)
    socket.send(b"last words")
    socket.close(1012)
    client.write(unused_bytes(1_000_000) + text("cut")[:3])
    assert await client.frame() == (1, b"last words")
    assert await _last_code(client) == 1012
    client.write(text("cut")[3:] + close_frame(1012))
    await client.eof()


async def test_data_behind_the_peers_close_frame(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(tls=tls)
    client, _ = await server.pair()
    client.write(close_frame(3000) + unused_bytes(100_000))
    assert await _last_code(client) == 3000
    if tls is None:
        await client.eof()
    client.close()


async def test_both_close_at_once(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(tls=tls)
    client, socket = await server.pair()
    client.write(close_frame(1001))
    socket.close(1012)
    assert await _last_code(client) in {1001, 1012}
    await client.eof()
    client.close()
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)
    assert len(socket.ends) == 1


async def test_what_the_peer_says_until_it_has_our_close_frame_is_taken(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(tls=tls)
    client, socket = await server.pair()
    socket.send(b"last words")
    socket.close_behind(1012)
    socket.close(1000)  # does nothing: it is closing
    client.write(text("on its way") + frame(9, b"ping"))
    assert await client.frame() == (1, b"last words")
    assert await _last_code(client) == 1012
    assert not socket.ends
    client.write(text("too") + close_frame(1012) + text("nobody's"))
    end = await socket.end()
    assert (end.code, end.by) == (1012, "us")
    assert socket.got == [b"on its way", b"too"]
    client.close()
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


async def test_a_peer_that_goes_on_without_closing_is_cut(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(Limits(drain_timeout=0.1), tls=tls)
    client, socket = await server.pair()
    socket.close_behind(1012)
    client.write(text("still here"))
    assert (await socket.end()).by == "lost"
    assert socket.got == [b"still here"]


async def test_a_peer_that_breaks_the_rules_behind_our_close_frame_is_cut(serve: Serve) -> None:
    server = await serve()
    client, socket = await server.pair()
    socket.close_behind(1012)
    client.write(text(b"\xff"))
    assert (await socket.end()).code == 1012
    assert await _last_code(client) == 1012
    await client.eof()  # and no second Close frame


async def test_a_peer_that_never_closes_is_cut(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(Limits(drain_timeout=0.2), tls=tls)
    client, socket = await server.pair()
    started = asyncio.get_running_loop().time()
    socket.close(1000)
    assert await _last_code(client) == 1000
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)
    assert asyncio.get_running_loop().time() - started >= 0.19


async def test_a_peer_that_never_stops_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "MAX_DRAIN_BYTES", 100_000)
    server = await serve(Limits(drain_timeout=100))
    client, socket = await server.pair()
    socket.close(1000)
    assert await _last_code(client) == 1000
    client.write(unused_bytes(200_000))
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)


async def test_a_slow_peer_that_reads_at_last_gets_everything(serve: Serve, tls: Certificate | None) -> None:
    server = await serve(Limits(max_outbox=8_000_000, drain_timeout=0.3), tls=tls)
    client, socket = await server.pair(receive_buffer=4096)
    client.writer.transport.pause_reading()
    for _ in range(50):
        socket.send(b"x" * 100_000)
    await until(lambda: socket._queue is None)
    socket.close(1013)
    await asyncio.sleep(0.4)  # longer than the drain time of a peer that has everything
    client.writer.transport.resume_reading()
    for _ in range(50):
        assert await client.frame() == (1, b"x" * 100_000)
    assert await _last_code(client) == 1013


async def test_a_peer_that_never_reads_is_cut(serve: Serve) -> None:
    server = await serve(Limits(max_outbox=8_000_000, drain_timeout=0.05))
    client, socket = await server.pair(receive_buffer=4096)
    client.writer.transport.pause_reading()
    socket.send(b"x" * 8_000_000)
    await until(lambda: socket._queue is None)
    socket.close(1000)
    await asyncio.wait_for(server.listener.group.wait_empty(), TIMEOUT)
