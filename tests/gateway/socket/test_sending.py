"""Without a network and without time: coalescing, the flush, the end, the message credit."""

from __future__ import annotations

import gc
import sys

import pytest

from gateway.socket.tools import FakeLoop, FakeTransport, Recorder, close_frame, parse_server_frames, text
from rtcbridge.gateway.socket_group import End, Limits, SocketGroup
from rtcbridge.gateway.timers import TimerWheel


class World:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.group = SocketGroup(self.loop, TimerWheel(self.loop, self.loop.clock))  # type: ignore[arg-type]

    def open(self, limits: Limits | None = None, **options: bool) -> tuple[Recorder, FakeTransport]:
        socket, transport = Recorder(limits, **options), FakeTransport()
        socket.start(self.group, transport)  # type: ignore[arg-type]
        return socket, transport


@pytest.fixture
def world() -> World:
    return World()


def test_one_write_a_socket_and_turn(world: World) -> None:
    first, first_transport = world.open()
    second, second_transport = world.open()
    first.send(b"one")
    second.send(b"a", b"", b"b" * 200)
    first.send(b"two")
    assert first.unsent == len(b"..one..two")
    assert first_transport.writes == []
    assert len(world.loop.soon) == 1  # one flush for all
    world.loop.turn()
    assert first_transport.writes == [b"\x81\x03one\x81\x03two"]
    assert second_transport.writes == [b"\x81\x7e\x00\xc9a" + b"b" * 200]
    assert first.unsent == 0
    first.send(b"three")
    world.loop.turn()
    assert len(first_transport.writes) == 2
    assert len(second_transport.writes) == 1


def test_a_busy_turn_waits_for_the_next_ones_while_they_add_to_it(world: World) -> None:
    sockets = [world.open() for _ in range(7)]
    for socket, _ in sockets[:3]:
        socket.send(b"one")
    world.loop.turn()
    assert all(transport.writes == [] for _, transport in sockets)
    for socket, _ in sockets:
        socket.send(b"two")
    world.loop.turn()
    assert all(transport.writes == [] for _, transport in sockets)
    sockets[0][0].send(b"three")
    world.loop.turn()  # nobody has joined in
    assert [transport.writes for _, transport in sockets] == [
        [b"\x81\x03one\x81\x03two\x81\x05three"],
        *[[b"\x81\x03one\x81\x03two"]] * 2,
        *[[b"\x81\x03two"]] * 4,
    ]


def test_nothing_waits_where_no_connection_is_opened(world: World) -> None:
    sockets = [world.open() for _ in range(3)]
    for flush in range(4):
        for socket, _ in sockets:
            socket.send(b"soon")
        world.loop.turn()
        assert sockets[0][1].writes == [b"\x81\x04soon"] * flush
        world.loop.turn()
    for socket, _ in sockets:
        socket.send(b"now")
    world.loop.turn()
    assert all(transport.writes[-1] == b"\x81\x03now" for _, transport in sockets)
    world.open()
    for socket, _ in sockets:
        socket.send(b"soon")
    world.loop.turn()
    assert all(transport.writes[-1] == b"\x81\x03now" for _, transport in sockets)


@pytest.mark.parametrize(("a_turn", "turns"), [(3, 9), (30, 3), (64, 1)])
def test_the_waiting_has_an_end(world: World, a_turn: int, turns: int) -> None:
    opened = []
    for turn in range(1, turns + 1):
        assert all(transport.writes == [] for _, transport in opened)
        for _ in range(a_turn):
            socket, transport = world.open()
            socket.send(b"here")
            opened.append((socket, transport))
        world.loop.turn()
        assert turn == turns or opened[0][1].writes == []
    assert all(transport.writes == [b"\x81\x04here"] for _, transport in opened)


@pytest.mark.parametrize("size", [0, 125, 126, 8191, 8192, 65535, 65536])
def test_text_of_any_size(world: World, size: int) -> None:
    socket, transport = world.open()
    socket.send(b"x" * size)
    socket.send_binary(b"y" * size)
    world.loop.turn()
    assert parse_server_frames(b"".join(transport.writes)) == [(1, b"x" * size), (2, b"y" * size)]


def test_close_sends_what_was_queued_then_tells_the_end_later(world: World) -> None:
    socket, transport = world.open()
    socket.send(b"last words")
    socket.close(3000, "bye")
    assert not socket.is_open
    assert socket.ends == []  # never inside our own call
    assert parse_server_frames(b"".join(transport.writes)) == [(1, b"last words"), (8, b"\x0b\xb8bye")]
    socket.send(b"into the void")
    socket.close(1000)
    world.loop.turn()
    assert socket.ends == [End(3000, "us", "bye")]
    assert len(transport.writes) == 1
    assert transport.ended == ""  # waits for the peer
    transport.protocol.data_received(text("ignored") + close_frame(3000))
    assert transport.ended == "eof"
    assert socket.got == []
    transport.protocol.connection_lost(None)
    assert world.group.connections == set()
    assert socket.ends == [End(3000, "us", "bye")]


def test_nothing_is_sent_before_start_and_after_loss(world: World) -> None:
    socket = Recorder()
    socket.send(b"x")
    socket.close()
    assert socket.unsent == 0
    socket, transport = world.open()
    socket.send(b"x")
    socket.connection_lost(ConnectionResetError("reset"))
    world.loop.turn()
    socket.send(b"y")
    world.loop.turn()
    assert transport.writes == []
    assert socket.ends == [End(1006, "lost", "reset")]


def test_outbox(world: World) -> None:
    limits = Limits(max_outbox=1000)
    slow, slow_transport = world.open(limits)
    quick, quick_transport = world.open(limits)
    for socket in (slow, quick):
        socket.send(b"x" * 5000)  # whoever has read everything may be sent more than the limit at once
    world.loop.turn()
    slow_transport.backlog = 900
    for socket in (slow, quick):
        socket.send(b"y" * 98)
    world.loop.turn()
    assert slow.is_open
    for socket in (slow, quick):
        socket.send(b"z" * 99)
    world.loop.turn()
    assert slow.ends == [End(1013, "us", "outbox")]
    assert quick.is_open
    assert parse_server_frames(quick_transport.writes[-1]) == [(1, b"z" * 99)]
    # What was over the limit is not sent, so that no more memory is taken; the Close frame is.
    assert parse_server_frames(slow_transport.writes[-1]) == [(8, b"\x03\xf5")]


def test_pongs_count_to_the_outbox(world: World) -> None:
    socket, transport = world.open(Limits(max_outbox=1000))
    transport.backlog = 1000
    socket.data_received(b"\x89\x80\x00\x00\x00\x00")
    world.loop.turn()
    assert socket.ends == [End(1013, "us", "outbox")]


def test_ends_that_make_others_send_in_the_flush(world: World) -> None:
    limits = Limits(max_outbox=10)
    other, other_transport = world.open()

    class Telling(Recorder):
        __slots__ = ()

        def ended(self, end: End) -> None:
            super().ended(end)
            other.send(b"it ended")
            raise RuntimeError("a hook that fails")

    slow, transport = Telling(limits), FakeTransport()
    slow.start(world.group, transport)  # type: ignore[arg-type]
    transport.backlog = 10
    other.send(b"first")
    slow.send(b"too much")
    world.loop.turn()
    world.loop.turn()
    frames = parse_server_frames(b"".join(other_transport.writes))
    assert frames == [(1, b"first"), (1, b"it ended")]
    assert world.loop.soon == []


def test_the_hook_may_close_while_frames_are_waiting(world: World) -> None:
    class Once(Recorder):
        __slots__ = ()

        def received(self, data: bytes) -> None:
            super().received(data)
            self.close(1000)

    socket, transport = Once(), FakeTransport()
    socket.start(world.group, transport)  # type: ignore[arg-type]
    socket.data_received(text("one") + text("two") + close_frame())
    assert socket.got == [b"one"]
    assert transport.ended == "eof"  # the Close frame behind them was seen
    world.loop.turn()
    assert socket.ends == [End(1000, "us", "")]


def test_an_idle_connection_holds_no_buffer(world: World) -> None:
    socket, _ = world.open()
    socket.data_received(text("x" * 3000) + text("y" * 60000)[:50000])
    socket.data_received(text("y" * 60000)[50000:])
    socket.send(b"z" * 10000)
    world.loop.turn()
    socket.got.clear()
    sizes = [sys.getsizeof(held) for held in gc.get_referents(socket) if isinstance(held, (bytes, bytearray, list))]
    assert sum(sizes) < 500, sizes


def test_credit_is_renewed_each_second_up_to_the_burst(world: World) -> None:
    socket, _ = world.open(Limits(message_rate=10, message_burst=15, ping_interval=1000))
    for _ in range(5):
        socket.data_received(text("x") * 15)
        world.loop.advance(1.1)  # ten of fifteen are back
        socket.data_received(text("x") * 10)
        world.loop.advance(2.2)
    assert len(socket.got) == 5 * 25
    assert world.loop.pending() == 1  # but for the ping nothing is scheduled: the credit is full
    socket.data_received(text("x") * 16)
    assert socket.ends == [End(1008, "us", "rate")]
    assert len(socket.got) == 5 * 25 + 15


def test_a_steady_peer_within_its_rate_stays(world: World) -> None:
    socket, _ = world.open(Limits(message_rate=50, message_burst=200, ping_interval=1000))
    for _ in range(50 * 60):
        socket.data_received(text("x"))
        world.loop.advance(1 / 49)
    assert socket.is_open


def test_credit_of_a_closed_socket_is_forgotten(world: World) -> None:
    socket, transport = world.open(Limits(message_rate=1, message_burst=5))
    socket.data_received(text("x") + close_frame())
    transport.protocol.connection_lost(None)
    world.loop.advance(1.1)
    assert world.loop.pending() == 0
