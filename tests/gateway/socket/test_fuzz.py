"""Our parser against the sans-IO one of `websockets`: random streams, valid and corrupted, cut at random places.

Both must deliver the same messages, send the same frames, and close with the same code. They may differ only where
RFC 6455 leaves the choice, and `_allowed` names each such place.
"""

from __future__ import annotations

import codecs
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from gateway.socket.tools import FakeLoop, FakeTransport, Recorder, close_frame, frame, parse_server_frames
from rtcbridge.gateway.socket_group import Limits, SocketGroup
from rtcbridge.gateway.timers import TimerWheel

MAX_MESSAGE = 1000
STREAMS = 250  # per seed

TEXTS = ["", "a", "plain ascii text", "Grüße", "漢字かな", "🛰" * 30, "x" * 125, "y" * 126, "é" * 300, "z" * 999]


@dataclass
class Outcome:
    messages: list[tuple[int, bytes]] = field(default_factory=list)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    code: int | None = None
    frames: int = 0
    """Frames that were taken; only the reference counts them."""


class _Ours(Recorder):
    __slots__ = ("outcome",)

    def __init__(self) -> None:
        super().__init__(Limits(max_message=MAX_MESSAGE, binary=True))
        self.outcome = Outcome()

    def received(self, data: bytes) -> None:
        self.outcome.messages.append((1, data))

    def received_binary(self, data: bytes) -> None:
        self.outcome.messages.append((2, data))


def _ours(chunks: list[bytes]) -> Outcome:
    loop = FakeLoop()
    group = SocketGroup(loop, TimerWheel(loop, loop.clock))  # type: ignore[arg-type]
    socket, transport = _Ours(), FakeTransport()
    socket.start(group, transport)  # type: ignore[arg-type]
    for chunk in chunks:
        if transport.ended:
            break
        transport.protocol.data_received(chunk)
        loop.turn()
    outcome = socket.outcome
    outcome.sent = parse_server_frames(b"".join(transport.writes))
    if outcome.sent and outcome.sent[-1][0] == 8:
        outcome.code = int.from_bytes(outcome.sent.pop()[1][:2], "big") or 1005
        assert [end.code for end in socket.ends] == [outcome.code]
    else:
        assert socket.ends == []
    return outcome


def _reference(stream: bytes) -> Outcome:
    outcome = Outcome()
    protocol = Protocol(Side.SERVER, state=OPEN, max_size=MAX_MESSAGE)
    protocol.receive_data(stream)
    parts: list[bytes] = []
    opcode = 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        outcome.frames += 1
        if event.opcode is Opcode.PING:
            outcome.sent.append((10, bytes(event.data)))
        if event.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            continue
        if event.opcode is not Opcode.CONT:
            parts, opcode = [], int(event.opcode)
            decoder.reset()
        parts.append(bytes(event.data))
        if opcode == 1:  # the reference leaves this to the layer above it
            try:
                decoder.decode(event.data, event.fin)
            except UnicodeDecodeError:
                outcome.code = 1007
                outcome.frames -= 1
                return outcome
        if event.fin:
            outcome.messages.append((opcode, b"".join(parts)))
    if protocol.close_sent is not None:
        outcome.code = int(protocol.close_sent.code)
    return outcome


@dataclass
class Head:
    first: int
    length: int
    inside: bool
    """Whether a fragmented message had begun before it."""


def _head_of(stream: bytes, number: int) -> Head:
    """The header of a stream's frame, those before it being whole."""
    inside = False
    position = 0
    while True:
        first, length = stream[position], stream[position + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(stream[position + 2 : position + 2 + extended], "big")
        if number == 0:
            return Head(first, length, inside)
        number -= 1
        position += 2 + extended + 4 + length
        if first & 0x0F < 8:
            inside = first < 0x80


def _allowed(stream: bytes, ours: Outcome, theirs: Outcome) -> str:
    """Why the two may differ, or nothing."""
    head = _head_of(stream, theirs.frames)
    opcode = head.first & 0x0F
    if opcode == 8 and head.first == 0x88 and head.inside and theirs.code == 1002 and head.length <= 125:
        return "a Close frame inside a fragmented message: a control frame may stand there (section 5.4)"
    if theirs.code == 1009 and 8 <= opcode <= 10 and head.length <= 125 and head.inside:
        return "a control frame is no part of the message whose size is limited"
    if opcode == 8 and (ours.code, theirs.code) == (1002, 1007):
        return "a Close frame with a code and a reason that are both wrong"
    if ours.code == 1002 and theirs.code == 1009:
        broken = (head.first & 0x70) or opcode >= 8 or (opcode == 0) != head.inside
        return "one frame is both broken and too long" if broken else ""
    return ""


def _message(chance: random.Random) -> list[bytes]:
    """A message in one frame or several, with control frames between."""
    frames = []
    opcode = chance.choice([1, 1, 1, 2])
    payload = chance.choice(TEXTS).encode() if opcode == 1 else chance.randbytes(chance.randrange(300))
    cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.choice([0, 0, 0, 1, 3])))
    bounds = [0, *cuts, len(payload)]
    for number, (start, end) in enumerate(pairwise(bounds)):
        last = number == len(cuts)
        mask = chance.randbytes(4)
        frames.append(frame(opcode if number == 0 else 0, payload[start:end], fin=last, mask=mask))
        if chance.random() < 0.2:
            extra = chance.randbytes(chance.choice([0, 5, 125]))
            frames.append(frame(chance.choice([9, 10]), extra, mask=mask))
    return frames


def _fault(chance: random.Random) -> bytes:
    """A frame that is wrong in some way, or only in this place."""
    if chance.random() < 0.3:
        code = chance.choice([1000, 1001, 3000, 4999, 1004, 1005, 1016, 2999, 65535])
        return close_frame(code, chance.choice([b"", "Grüße".encode(), b"\xff"]))
    if chance.random() < 0.2:
        return frame(1, b"f" * (MAX_MESSAGE + 1))
    return frame(
        chance.randrange(16),
        b"f" * chance.choice([0, 1, 126, MAX_MESSAGE + 1]),
        fin=chance.random() < 0.5,
        rsv=chance.choice([0, 0, 4]),
        mask=chance.choice([None, chance.randbytes(4)]),
    )


def _stream(chance: random.Random) -> bytes:
    """Frames of a few messages, perhaps a fault among them, perhaps some bytes changed."""
    frames = [part for _ in range(chance.randrange(1, 8)) for part in _message(chance)]
    if chance.random() < 0.5:
        frames.insert(chance.randrange(len(frames) + 1), _fault(chance))
    if chance.random() < 0.2:
        frames.append(close_frame(1000, b"bye"))
    stream = bytearray(b"".join(frames))
    if chance.random() < 0.4:
        for _ in range(chance.randrange(1, 4)):
            stream[chance.randrange(len(stream))] = chance.randrange(256)
    # Ends every frame that the reference would still wait for; then comes an unmasked continuation.
    return bytes(stream) + bytes(2 * MAX_MESSAGE)


def _chunks(chance: random.Random, stream: bytes) -> list[bytes]:
    style = chance.choice(["one", "bytes", "random", "random"])
    if style == "one":
        return [stream]
    chunks = []
    position = 0
    while position < len(stream):
        size = 1 if style == "bytes" else chance.choice([1, 2, 3, 7, 50, 400])
        chunks.append(stream[position : position + size])
        position += size
    return chunks


@pytest.mark.parametrize("seed", range(16))
def test_same_as_the_reference(seed: int) -> None:
    chance = random.Random(seed)
    allowed = 0
    codes = set()
    for number in range(STREAMS):
        stream = _stream(chance)
        theirs, ours = _reference(stream), _ours(_chunks(chance, stream))
        codes.add(ours.code)
        frames, theirs.frames = theirs.frames, 0
        if ours == theirs:
            continue
        theirs.frames = frames
        why = _allowed(stream, ours, theirs)
        assert why, (seed, number, ours, theirs, stream.hex())
        assert ours.messages[: len(theirs.messages)] == theirs.messages
        assert ours.sent[: len(theirs.sent)] == theirs.sent
        allowed += 1
    assert codes >= {1002, 1007, 1009}  # the streams do reach the faults
    assert allowed < STREAMS // 10


@pytest.mark.parametrize("seed", range(8))
def test_any_chunking_gives_the_same(seed: int) -> None:
    chance = random.Random(1000 + seed)
    for _ in range(STREAMS // 2):
        stream = _stream(chance)
        assert _ours(_chunks(chance, stream)) == _ours([stream])


@pytest.mark.parametrize("seed", range(4))
def test_noise(seed: int) -> None:
    """Not even sense in the first bytes: it must end in a close code, and never in an exception."""
    chance = random.Random(2000 + seed)
    for _ in range(STREAMS):
        stream = chance.randbytes(200) + bytes(2 * MAX_MESSAGE)
        outcome = _ours(_chunks(chance, stream))
        assert outcome.code is not None
