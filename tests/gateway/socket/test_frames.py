from __future__ import annotations

import pytest

from gateway.socket.tools import frame
from rtcbridge.gateway import frames
from rtcbridge.gateway.drain import FrameSkipper
from rtcbridge.gateway.frames import Assembly, FrameError


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_header(length: int) -> None:
    unmasked = frame(1, bytes(length), mask=None)
    assert frames.header(frames.TEXT, length) == unmasked[: len(unmasked) - length]
    if length < len(frames.HEADERS):
        assert frames.HEADERS[length] == frames.header(frames.TEXT, length)


@pytest.mark.parametrize("first", range(256))
def test_check_header_accepts_what_the_rfc_does(first: int) -> None:
    opcode = first & 0x0F
    control = opcode >= 8
    valid = not first & 0x70 and opcode in {0, 1, 2, 8, 9, 10} and not (control and first < 0x80)
    for second in (0, 0x7D, 0x7E, 0x80, 0xFD, 0xFE, 0xFF):
        allowed = valid and second >= 0x80 and not (control and second > 0xFD)
        if allowed:
            frames.check_header(first, second)
        else:
            with pytest.raises(FrameError) as raised:
                frames.check_header(first, second)
            assert raised.value.code == 1002


def test_close_codes() -> None:
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in (*range(6000), 0xFFFF):
        payload = code.to_bytes(2, "big")
        if code in allowed:
            assert frames.parse_close(payload + "Grüße".encode()) == (code, "Grüße")
        else:
            with pytest.raises(FrameError) as raised:
                frames.parse_close(payload)
            assert raised.value.code == 1002


def test_close_payloads() -> None:
    assert frames.parse_close(b"") == (1005, "")
    with pytest.raises(FrameError):
        frames.parse_close(b"\x03")
    with pytest.raises(FrameError) as raised:
        frames.parse_close(b"\x03\xe8\xc3")
    assert raised.value.code == 1007
    assert frames.close_payload(1000) == b"\x03\xe8"
    long = frames.close_payload(1000, "é" * 100)
    assert len(long) == 124  # 61 characters of two bytes; half of one is not sent
    assert frames.parse_close(long) == (1000, "é" * 61)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 64])
def test_assembly_in_pieces_over_frames(step: int) -> None:
    message = "πλάνη, 🛰 und sonst nichts".encode()
    mask = b"\x11\x22\x33\x44"
    assembly = Assembly(frames.TEXT)
    for fin, part in ((False, message[:9]), (False, b""), (True, message[9:])):
        masked = frame(1, part, mask=mask)[6:]
        assembly.begin(fin, len(part), mask)
        for position in range(0, len(masked), step):
            assembly.feed(masked[position : position + step])
        assert assembly.missing == 0
    assert assembly.fin
    assert assembly.frames == 3
    assert assembly.finish() == message


@pytest.mark.parametrize("bad", [b"\xff", b"ok\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"])
def test_assembly_finds_bad_text_at_once(bad: bytes) -> None:
    assembly = Assembly(frames.TEXT)
    assembly.begin(False, 1000, bytes(4))
    with pytest.raises(FrameError) as raised:
        assembly.feed(bad)
    assert raised.value.code == 1007


def test_assembly_that_ends_inside_a_character() -> None:
    assembly = Assembly(frames.TEXT)
    assembly.begin(True, 2, bytes(4))
    assembly.feed("€".encode()[:2])
    with pytest.raises(FrameError):
        assembly.finish()


@pytest.mark.parametrize("step", [1, 2, 7, 100, 100_000])
def test_skipper_finds_the_close_frame_behind_anything(step: int) -> None:
    before = [frame(1, b"x" * size, fin=size % 2 == 0) for size in (0, 1, 125, 126, 65536)] + [frame(9, b"p")]
    data = b"yz" + b"".join(before) + frame(8)
    skipper = FrameSkipper(skip=2)
    pieces = [data[position : position + step] for position in range(0, len(data), step)]
    taken = next(number for number, piece in enumerate(pieces) if skipper.found_close(piece))
    assert taken == (len(data) - 5) // step  # with the second byte of the Close frame


def test_skipper_gives_up_on_nonsense() -> None:
    with pytest.raises(FrameError):
        FrameSkipper().found_close(frame(1, b"x") + b"\x00\x00")
