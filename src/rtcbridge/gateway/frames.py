"""The pieces of RFC 6455 frames, without input or output: headers, close payloads, messages in pieces."""

from __future__ import annotations

import codecs
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel with the C extension for this platform
    from websockets.utils import apply_mask

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FIN",
    "HEADERS",
    "PING",
    "PONG",
    "TEXT",
    "Assembly",
    "FrameError",
    "apply_mask",
    "check_header",
    "close_payload",
    "header",
    "is_utf8",
    "parse_close",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
FIN: Final = 0x80

MAX_CONTROL: Final = 125
"""Bytes that a control frame may carry (RFC 6455, section 5.5)."""

_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_UTF8: Final = codecs.getincrementaldecoder("utf-8")

# RFC 6455, section 7.4, with the codes that the registry of IANA has gained since (1012 to 1014).
_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


class FrameError(Exception):
    """The peer has broken the protocol.

    Attributes:
        code: Close code for it: 1002 or 1007.
        reason: What it did, for logs.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def header(opcode: int, length: int) -> bytes:
    """Head of an unmasked, unfragmented frame with a payload of `length` bytes."""
    if length < 126:
        return bytes((FIN | opcode, length))
    if length < 65536:
        return bytes((FIN | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((FIN | opcode, 127)) + length.to_bytes(8, "big")


HEADERS: Final = tuple(header(TEXT, length) for length in range(8192))
"""Heads of text frames by length: a look-up costs a fifth of making one."""


def check_header(first: int, second: int) -> None:
    """Check what a client's frame says in its first two bytes. Raises FrameError (1002)."""
    if first & 0x70:
        raise FrameError(1002, "reserved bit set")
    opcode = first & 0x0F
    if opcode not in _OPCODES:
        raise FrameError(1002, "reserved opcode")
    if second < 0x80:
        raise FrameError(1002, "frame not masked")
    if opcode >= CLOSE:
        if not first & FIN:
            raise FrameError(1002, "fragmented control frame")
        if second & 0x7F > MAX_CONTROL:
            raise FrameError(1002, "control frame too long")


def is_utf8(data: bytes) -> bool:
    """Whether `data` is well-formed UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def close_payload(code: int, reason: str = "") -> bytes:
    """Payload of a Close frame; `reason` is cut to the 123 bytes that fit, between characters."""
    text = reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + text


def close_frame(code: int, reason: str = "") -> bytes:
    """A Close frame; 1005 stands for none of both."""
    if not reason and (frame := _CLOSE_FRAMES.get(code)) is not None:
        return frame
    return _close_frame(code, reason)


def _close_frame(code: int, reason: str = "") -> bytes:
    payload = b"" if code == 1005 else close_payload(code, reason)
    return header(CLOSE, len(payload)) + payload


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame; the code is 1005 where the peer gave none.

    Raises:
        FrameError: 1002 for a code that may not be sent, 1007 for a reason that is not UTF-8.
    """
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CLOSE_CODES or 3000 <= code < 5000):
        raise FrameError(1002, "close code not valid")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(1007, "close reason is not UTF-8") from None


_CLOSE_FRAMES: Final = {code: _close_frame(code) for code in (*_CLOSE_CODES, 1005)}


class Assembly:
    """A message of which only a part is there: in several frames, or in a frame that has not arrived whole.

    Bytes are unmasked, checked and appended as they come, so that a message in many small pieces costs no
    more than linear time, and invalid UTF-8 is found at its first byte.

    Attributes:
        opcode: TEXT or BINARY.
        data: What is there, unmasked.
        fin: Whether the frame that is being read, or was read last, is the message's last one.
        missing: Bytes of payload that the present frame still lacks.
        frames: Frames begun.
        age: Pings that were sent since the message began.
    """

    __slots__ = ("_decoder", "_mask", "age", "data", "fin", "frames", "missing", "opcode")

    def __init__(self, opcode: int) -> None:
        self.opcode = opcode
        self.data = bytearray()
        self.fin = False
        self.missing = 0
        self.frames = 0
        self.age = 0
        self._mask = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def begin(self, fin: bool, length: int, mask: bytes) -> None:
        """Start a frame of `length` bytes."""
        self.fin = fin
        self.missing = length
        self.frames += 1
        self._mask = mask

    def feed(self, chunk: bytes) -> None:
        """Take the next masked bytes of the present frame, at most `missing`. Raises FrameError (1007)."""
        mask = self._mask
        size = len(chunk)
        plain = apply_mask(chunk, mask)
        self.data += plain
        self.missing -= size
        self._mask = mask[size % 4 :] + mask[: size % 4]
        if self.opcode == TEXT and (self._decoder is not None or not plain.isascii()):
            if self._decoder is None:
                self._decoder = _UTF8()
            self._decode(plain, False)

    def finish(self) -> bytes:
        """The whole message. Raises FrameError (1007) if it ends inside a character."""
        if self._decoder is not None:
            self._decode(b"", True)
        return bytes(self.data)

    def _decode(self, plain: bytes, final: bool) -> None:
        assert self._decoder is not None
        try:
            self._decoder.decode(plain, final)
        except UnicodeDecodeError:
            raise FrameError(1007, "text is not UTF-8") from None
