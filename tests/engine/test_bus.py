"""The contract of `Bus`, over every engine; and the numbers by which messages come once and in order."""

import random
from collections import deque

from rtcbridge.drivers.engine.channel import BATCH, LIMIT, Batch, Incoming, Outgoing, decode
from rtcbridge.ports_engine import Packet


async def test_messages_come_in_order_with_their_sender(make):
    a, b, c = await make(), await make(), await make()
    for number in range(1000):
        assert a.engine.bus.send(c.engine.replica, f"s{number % 3}", "up", b"a%d" % number)
        assert b.engine.bus.send(c.engine.replica, f"s{number % 3}", "down", b"b%d" % number)
    await c.until(lambda: len(c.packets) == 2000)
    for sender, letter in ((a, b"a"), (b, b"b")):
        mine = [packet for origin, packet in c.packets if origin == sender.engine.replica]
        assert [packet.data for packet in mine] == [b"%b%d" % (letter, number) for number in range(1000)]
        numbers = [packet.number for packet in mine if packet.session == "s1"]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_an_answer_comes_back(make):
    a, b = await make(), await make()
    assert a.engine.bus.address == a.engine.replica
    a.engine.bus.send(b.engine.replica, "s", "up", b"question")
    await b.until(lambda: bool(b.packets))
    b.engine.bus.send(b.packets[0][0], "s", "down", b"answer")
    await a.until(lambda: bool(a.packets))
    assert a.packets[0][1].data == b"answer"


async def test_a_session_that_moves_begins_a_term(make):
    a, b, c = await make(), await make(), await make()
    a.engine.bus.send(c.engine.replica, "s", "up", b"1", term=1)
    await c.until(lambda: len(c.packets) == 1)
    b.engine.bus.send(c.engine.replica, "s", "up", b"2", term=2)
    await c.until(lambda: len(c.packets) == 2)
    assert [(packet.term, packet.number) for _, packet in c.packets] == [(1, 1), (2, 1)]


async def test_a_session_that_has_ended_is_forgotten(make):
    a, b = await make(), await make()
    for _ in range(2):
        a.engine.bus.send(b.engine.replica, "s", "up", b"x")
        await b.until(lambda: bool(b.packets))
        assert b.packets.pop()[1].number == 1
        a.engine.bus.forget("s")
        b.engine.bus.forget("s")


async def test_what_is_sent_to_the_dead_harms_nobody(make):
    a, b = await make(), await make()
    dead = await make()
    await dead.engine.close()
    assert a.engine.bus.send(dead.engine.replica, "s", "up", b"x")
    assert a.engine.bus.send(b.engine.replica, "s", "up", b"y")
    await b.until(lambda: bool(b.packets))
    a.engine.bus.drop(dead.engine.replica)


# --- numbers ---


def packets(count, session="s"):
    return [Packet(session, "up", 0, number, b"%d" % number) for number in range(1, count + 1)]


def test_whatever_is_lost_or_doubled_comes_once_and_in_order():
    for seed in range(200):
        chance = random.Random(seed)
        got = []
        out, incoming = Outgoing(), Incoming(lambda origin, packet, got=got: got.append(packet.number))
        sent = packets(60)
        while sent or out.unseen:
            turn, sent = sent[: (size := chance.randrange(1, 5))], sent[size:]
            for packet in turn:
                assert out.add(packet)
            numbers = out.seal()  # with nothing more to send, all is sent again, as after a new connection
            wire = deque(out.batches("a", 0, numbers[0] if numbers else 0))
            if chance.random() < 0.3:
                wire.extend(list(wire)[-3:])
            if chance.random() < 0.2:
                wire.popleft()
            while wire:
                if not incoming.take(decode(wire.popleft())):
                    wire.extend(out.batches("a", 0, incoming.seen("a") + 1))
                out.seen(incoming.seen("a"))
        assert got == list(range(1, 61))
        assert out.size == 0


def test_large_turns_are_several_batches():
    out = Outgoing()
    for packet in packets(BATCH + 1):
        out.add(packet)
    assert out.seal() == [1, 2]
    assert [len(decode(data).packets) for data in out.batches("a", 0)] == [BATCH, 1]


def test_the_limit():
    out = Outgoing()
    taken = 0
    while out.add(Packet("s", "up", 0, taken + 1, bytes(1 << 20))):
        taken += 1
    assert taken == 16
    assert LIMIT < out.size < LIMIT + (1 << 20)
    out.seal()
    out.seen(1)
    assert out.size == 0


def test_a_receiver_that_was_taken_for_dead_goes_on_behind_what_was_thrown_away():
    got = []
    incoming, out = Incoming(lambda origin, packet: got.append(packet.data)), Outgoing()

    def send(*data):
        for each in data:
            out.add(Packet("s", "up", 0, len(sent) + 1, each))
            sent.append(each)
        out.seal()
        return [incoming.take(decode(batch)) for batch in out.batches("a", 0)]

    sent = []
    assert send(b"1") == [True]
    out.add(Packet("s", "up", 0, 2, b"thrown away"))
    out.seal()
    out.abandon()
    assert (out.size, list(out.batches("a", 0))) == (0, [])
    sent.append(b"thrown away")
    assert send(b"3", b"4") == [True]
    assert send(b"5") == [True, True]
    assert got == [b"1", b"3", b"4", b"5"]


def test_an_older_term_is_dropped():
    got = []
    incoming = Incoming(lambda origin, packet: got.append((packet.term, packet.number)))
    incoming.take(Batch("a", 1, 0, False, [Packet("s", "up", 2, 1, b"")]))
    incoming.take(Batch("b", 1, 0, False, [Packet("s", "up", 1, 5, b""), Packet("s", "up", 2, 2, b"")]))
    assert got == [(2, 1), (2, 2)]
