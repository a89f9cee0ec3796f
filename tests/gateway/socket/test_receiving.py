"""Close codes, over real connections and on both event loops: what a peer may do wrong, and what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.socket.tools import TIMEOUT, Recorder, Server, close_frame, frame, text
from rtcbridge.gateway.socket_group import End, Limits

Serve = Callable[..., Awaitable[Server]]

FAULTS: list[tuple[str, bytes, int]] = [
    ("unmasked", frame(1, b"hello", mask=None), 1002),
    ("unmasked and empty", frame(1, b"", mask=None), 1002),
    *((f"reserved bits {rsv}", frame(1, b"x", rsv=rsv), 1002) for rsv in range(1, 8)),
    *((f"opcode {opcode}", frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    *((f"control frame {opcode} in fragments", frame(opcode, b"", fin=False), 1002) for opcode in (8, 9, 10)),
    *((f"control frame {opcode} too long", frame(opcode, bytes(126)), 1002) for opcode in (8, 9, 10)),
    ("header of a ping that would be too long", frame(9, bytes(126))[:2], 1002),
    ("nothing to continue", frame(0, b"x"), 1002),
    ("message inside a message", frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    ("text is not UTF-8", text(b"\xff"), 1007),
    ("text ends in a character", text("€".encode()[:2]), 1007),
    ("fragment is not UTF-8", frame(1, b"ab\xc3\x28", fin=False), 1007),
    ("half a frame is not UTF-8", text(b"\xff" + bytes(999))[:20], 1007),
    ("binary", frame(2, b"x"), 1003),
    ("binary in fragments", frame(2, b"x", fin=False), 1003),
    ("header of a long message", text(bytes(1001))[:8], 1009),
    ("header of an endless message", b"\x81\xff" + b"\xff" * 8 + bytes(4), 1009),
    ("too long together", frame(1, bytes(600), fin=False) + frame(0, bytes(401), fin=False)[:8], 1009),
    ("close code 999", close_frame(999), 1002),
    ("close code 1005", close_frame(1005), 1002),
    ("close code 1015", close_frame(1015), 1002),
    ("close code 5000", close_frame(5000), 1002),
    ("half a close code", frame(8, b"\x03"), 1002),
    ("close reason is not UTF-8", close_frame(1000, b"\xff"), 1007),
]


@pytest.mark.parametrize(("sent", "code"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
async def test_fault(serve: Serve, sent: bytes, code: int) -> None:
    server = await serve(Limits(max_message=1000, drain_timeout=0.2))
    client, socket = await server.pair()
    client.write(text("before") + sent)
    assert await client.close_code() == code
    end = await socket.end()
    client.write(close_frame())
    await client.eof()
    client.close()
    assert (end.code, end.reason != "") == (code, True)
    assert end.by == ("peer" if sent[0] == 0x88 and len(sent) < 20 else "us")
    assert socket.got == [b"before"]
    await server.listener.group.wait_empty()
    assert len(socket.ends) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1007, 1014, 3000, 4999, None])
async def test_the_peer_closes(serve: Serve, code: int | None) -> None:
    server = await serve()
    client, socket = await server.pair()
    client.write(text("one") + (frame(8) if code is None else close_frame(code, b"why")) + text("ignored"))
    assert await client.close_code() == (code or 1005)
    await client.eof()  # the server closes first, as section 7.1.1 wants
    assert await socket.end() == (End(1005, "peer") if code is None else End(code, "peer", "why"))
    assert socket.got == [b"one"]


async def test_the_peer_closes_inside_a_message(serve: Serve) -> None:
    server = await serve()
    client, socket = await server.pair()
    client.write(frame(1, b"never finished", fin=False) + close_frame(1001))
    assert await client.close_code() == 1001
    assert await socket.end() == End(1001, "peer")


@pytest.mark.parametrize("way", ["eof", "reset"])
async def test_the_peer_is_lost(serve: Serve, way: str) -> None:
    server = await serve()
    client, socket = await server.pair()
    client.write(text("one"))
    await asyncio.wait_for(socket.got_message.wait(), TIMEOUT)
    if way == "eof":
        client.close()
    else:
        client.writer.transport.abort()
    end = await socket.end()
    assert (end.code, end.by) == (1006, "lost")
    await server.listener.group.wait_empty()
    assert len(socket.ends) == 1


@pytest.mark.parametrize("code", [1000, 1008, 1012, 1013, 4000])
async def test_we_close(serve: Serve, code: int) -> None:
    server = await serve()
    client, socket = await server.pair()
    socket.send(b"last words")
    socket.close(code, "why")
    client.write(text("too late"))
    assert await client.frame() == (1, b"last words")
    assert await client.frame() == (8, code.to_bytes(2, "big") + b"why")
    client.write(close_frame(code))
    await client.eof()
    assert await socket.end() == End(code, "us", "why")
    assert socket.got == []


async def test_a_hook_that_fails(serve: Serve) -> None:
    class Failing(Recorder):
        __slots__ = ()

        def received(self, data: bytes) -> None:
            super().received(data)
            raise RuntimeError("broken")

    server = await serve(make=Failing)
    for sent in (text("whole") + text("unseen"), frame(1, b"wh", fin=False) + frame(0, b"ole")):
        client, socket = await server.pair()
        client.write(sent)
        assert await client.close_code() == 1011
        assert await socket.end() == End(1011, "us", "internal error")
        assert socket.got == [b"whole"]


async def test_an_opening_that_fails(serve: Serve) -> None:
    class Failing(Recorder):
        __slots__ = ()

        def opened(self) -> None:
            raise RuntimeError("broken")

    server = await serve(make=Failing)
    client = await server.connect()
    await client.upgrade()
    assert await client.close_code() == 1011


async def test_the_code_of_a_fault_can_be_changed(serve: Serve) -> None:
    class Strict(Recorder):
        __slots__ = ()

        def fault(self, code: int) -> int:
            self.got.append(str(code).encode())
            return 1008

    server = await serve(Limits(max_message=1000), make=Strict)
    for sent, code in ((frame(2, b"x"), b"1003"), (text(bytes(2000)), b"1009"), (text(b"\xff"), b"1007")):
        client, socket = await server.pair()
        client.write(sent)
        assert await client.frame() == (8, b"\x03\xf0")
        assert (await socket.end()).code == 1008
        assert socket.got == [code]
        client.close()


async def test_messages_in_pieces_with_pings_between(serve: Serve) -> None:
    server = await serve(Limits(binary=True))
    client, socket = await server.pair()
    message = "Ein längerer Text — 漢字 — 🛰".encode() * 100
    stream = (
        frame(1, message[:1001], fin=False)
        + frame(9, b"ping 1")
        + frame(0, message[1001:1002], fin=False)
        + frame(10, b"unasked")
        + frame(0, b"", fin=False)
        + frame(0, message[1002:])
        + text("")
        + frame(2, b"\xff\xfe", fin=False)
        + frame(9, b"")
        + frame(0, b"\xfd")
        + text("end")
    )
    for position in range(0, len(stream), 97):
        client.write(stream[position : position + 97])
        await asyncio.sleep(0)
    assert await client.frame() == (10, b"ping 1")
    assert await client.frame() == (10, b"")
    client.write(close_frame())
    assert await client.close_code() == 1000
    assert socket.got == [message, b"", b"end"]
    assert socket.got_binary == [b"\xff\xfe\xfd"]


async def test_rate(serve: Serve) -> None:
    server = await serve(Limits(message_rate=5, message_burst=20))
    client, socket = await server.pair()
    client.write(text("x") * 19 + frame(9))
    assert await client.frame() == (10, b"")
    assert len(socket.got) == 19
    client.write(text("x"))
    assert await client.close_code() == 1008
    assert await socket.end() == End(1008, "us", "rate")
    assert len(socket.got) == 19


async def test_fragments_count_a_little(serve: Serve) -> None:
    server = await serve(Limits(message_rate=5, message_burst=20))
    client, socket = await server.pair()
    # Twenty messages of two frames are twenty messages; a flood of empty fragments is not one.
    client.write((frame(1, b"a", fin=False) + frame(0, b"b")) * 19)
    client.write(frame(1, b"", fin=False) + frame(0, b"", fin=False) * 16)
    assert await client.close_code() == 1008
    assert len(socket.got) == 19


async def test_no_rate_limit(serve: Serve) -> None:
    server = await serve(Limits(message_rate=None, message_burst=1))
    client, socket = await server.pair()
    client.write(text("x") * 5000 + close_frame())
    assert await client.close_code() == 1000
    assert len(socket.got) == 5000


@pytest.mark.parametrize("answer", [frame(10, b""), text("anything"), frame(9, b"")])
async def test_ping_that_is_answered(serve: Serve, answer: bytes) -> None:
    server = await serve(Limits(ping_interval=0.1, ping_timeout=0.1))
    client, socket = await server.pair()
    for _ in range(3):
        while await client.frame() != (9, b""):
            pass  # a Pong to our own ping
        client.write(answer)
    assert socket.is_open


async def test_ping_timeout(serve: Serve) -> None:
    server = await serve(Limits(ping_interval=0.1, ping_timeout=0.1, drain_timeout=0.1))
    loop = asyncio.get_running_loop()
    client, socket = await server.pair()
    assert await client.frame() == (9, b"")
    client.write(frame(10))
    assert await client.frame() == (9, b"")
    pinged = loop.time()
    assert await client.frame() == (8, b"\x03\xf3ping timeout")
    assert loop.time() - pinged >= 0.09
    assert await socket.end() == End(1011, "us", "ping timeout")
    assert await asyncio.wait_for(client.reader.read(), TIMEOUT) == b""


@pytest.mark.parametrize("seconds", [0.02, 30.0])
async def test_what_is_expected_puts_no_ping_off(serve: Serve, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = asyncio.Event()
    monkeypatch.setattr(Recorder, "opened", lambda socket: socket.expect(seconds))
    monkeypatch.setattr(Recorder, "overdue", lambda socket: overdue.set())
    server = await serve(Limits(ping_interval=0.2, ping_timeout=0.2))
    client, socket = await server.pair()
    assert await client.frame() == (9, b"")
    assert overdue.is_set() == (seconds < 0.2)
    assert socket.is_open


async def test_half_a_frame_is_life_but_not_for_ever(serve: Serve) -> None:
    server = await serve(Limits(ping_interval=0.1, ping_timeout=0.1))
    client, socket = await server.pair()
    client.write(frame(1, b"begun", fin=False))
    codes: list[Any] = []
    while not codes:
        opcode, payload = await client.frame()
        if opcode == 9:
            client.write(frame(10))
        else:
            codes.append(payload)
    assert codes == [b"\x03\xf0"]
    assert await socket.end() == End(1008, "us", "message never finished")
