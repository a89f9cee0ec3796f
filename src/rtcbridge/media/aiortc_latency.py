"""What takes aiortc's latency from two frames to what the network and the codec need.

aiortc has no hook for either of these, so they reach into its senders and receivers. Each looks before it
leaps: where a version of aiortc keeps its parts elsewhere, the log says so once and aiortc works as shipped.
"""

from __future__ import annotations

from typing import Any

import structlog
from aiortc.codecs import HEADER_EXTENSIONS
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap

from rtcbridge.media.sdp import PLAYOUT_DELAY

log = structlog.get_logger()

_ONE_BYTE_PROFILE = 0xBEDE  # RFC 8285, section 4.2
_CAPACITY = 512  # packets that wait for one that is missing, as in aiortc
_told: set[str] = set()


def offer_playout_delay() -> None:
    """Let video negotiate the RTP header extension `playout-delay`."""
    extensions = HEADER_EXTENSIONS["video"]
    if all(extension.uri != PLAYOUT_DELAY for extension in extensions):
        used = {e.id for kind in HEADER_EXTENSIONS.values() for e in kind}
        free = next(n for n in range(1, 15) if n not in used)
        extensions.append(RTCRtpHeaderExtensionParameters(id=free, uri=PLAYOUT_DELAY))


def send_playout_delay(sender: Any) -> None:
    """Make a sender say "show at once" (0 to 0 ms) with every packet, where that was negotiated."""
    if sender.kind == "video":
        _replace(sender, "_RTCRtpSender__rtp_header_extensions_map", HeaderExtensionsMap, _PlayoutDelayMap())


def use_marker_bit(receiver: Any) -> None:
    """Make a receiver decode a picture at its last packet (RFC 7741, section 4.1), not at the next one's first."""
    if receiver.track is not None and receiver.track.kind == "video":
        buffer = _MarkerBuffer(capacity=_CAPACITY, is_video=True)
        _replace(receiver, "_RTCRtpReceiver__jitter_buffer", JitterBuffer, buffer)


def _replace(owner: Any, name: str, expected: type, value: Any) -> None:
    if type(getattr(owner, name, None)) is expected:
        setattr(owner, name, value)
    elif not isinstance(getattr(owner, name, None), type(value)) and name not in _told:
        _told.add(name)
        log.warning("aiortc_latency_as_shipped", missing=name)


class _PlayoutDelayMap(HeaderExtensionsMap):
    """Writes the extension behind the others: 12 bits of least and 12 bits of most delay, both zero."""

    def __init__(self) -> None:
        super().__init__()
        self._element = b""

    def configure(self, parameters: RTCRtpParameters) -> None:
        super().configure(parameters)
        for extension in parameters.headerExtensions:
            if extension.uri == PLAYOUT_DELAY and 1 <= extension.id <= 14:
                self._element = bytes((extension.id << 4 | 2, 0, 0, 0))

    def set(self, values: HeaderExtensions) -> tuple[int, bytes]:
        profile, block = super().set(values)
        if self._element and (profile == _ONE_BYTE_PROFILE or not block):
            # A block ends in padding to four bytes, which is allowed between elements too.
            return _ONE_BYTE_PROFILE, block + self._element
        return profile, block


class _MarkerBuffer(JitterBuffer):
    """A jitter buffer that knows a picture to be whole by the marker bit of its last packet."""

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        self._skip_padding()
        parts: list[bytes] = []
        timestamp = None
        for count in range(self._capacity):
            packet: Any = self._packets[(self._origin + count) % self._capacity]  # type: ignore[operator]
            if packet is None:
                return None
            if timestamp is None:
                timestamp = packet.timestamp
            elif packet.timestamp != timestamp:
                break
            parts.append(packet._data)
            if packet.marker:
                self.remove(count + 1)
                return JitterFrame(data=b"".join(parts), timestamp=timestamp)
        return super()._remove_frame(sequence_number)

    def _skip_padding(self) -> None:
        """Drop packets without payload, which probe the bandwidth behind a picture that is gone already."""
        for _ in range(self._capacity):
            packet: Any = self._packets[self._origin % self._capacity]  # type: ignore[operator]
            if packet is None or packet._data:
                return
            self.remove(1)
