"""A peer that does not read is closed with 1013, takes a bounded share of memory, and slows nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.socket.tools import Server, text
from rtcbridge.gateway.socket_group import End, Limits

Serve = Callable[..., Awaitable[Server]]

MESSAGE = b"m" * 4000
OUTBOX = 256 * 1024


async def test_slow_reader(serve: Serve) -> None:
    server = await serve(Limits(max_outbox=OUTBOX, drain_timeout=5))
    slow, slow_socket = await server.pair(receive_buffer=4096)
    quick, quick_socket = await server.pair()
    slow.writer.transport.pause_reading()
    most = sent = 0
    while not slow_socket.ends:
        slow_socket.send(MESSAGE)
        quick_socket.send(MESSAGE)
        sent += 1
        assert await quick.frame() == (1, MESSAGE)  # at once, each of them
        most = max(most, slow_socket.unsent)
        assert sent < 100_000
    assert slow_socket.ends == [End(1013, "us", "outbox")]
    assert OUTBOX // 2 < most <= OUTBOX
    slow.writer.transport.resume_reading()
    got = 0
    while (read := await slow.frame())[0] == 1:
        assert read == (1, MESSAGE)
        got += 1
    assert read == (8, b"\x03\xf5")
    assert got == sent - 1  # all but the message that was too much
    quick.write(text("still here"))
    await asyncio.wait_for(quick_socket.got_message.wait(), 5)
    assert quick_socket.is_open


async def test_a_burst_to_a_peer_that_reads_is_no_slow_reader(serve: Serve) -> None:
    server = await serve(Limits(max_outbox=OUTBOX))
    client, socket = await server.pair()
    for _ in range(3):
        for _ in range(500):
            socket.send(MESSAGE)  # two megabytes in one turn
        for _ in range(500):
            assert await client.frame() == (1, MESSAGE)
    assert socket.is_open
