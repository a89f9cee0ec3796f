"""The little of SDP (RFC 8866) that the node reads and writes itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
"""URI of the RTP header extension by which a sender bounds the receiver's jitter buffer."""

_RTPMAP = re.compile(r"a=rtpmap:(\d+) ([^/\s]+)/")
_NOT_CODECS = {"rtx", "red", "ulpfec", "flexfec-03"}
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One `m=` section: its kind, mid, and direction as its author sees it."""

    kind: str
    mid: str
    direction: str
    ice_ufrag: str
    ice_pwd: str


def _sections(sdp: str) -> list[list[str]]:
    """Split into the session part and one list of lines for each media section."""
    parts: list[list[str]] = [[]]
    for line in sdp.replace("\r\n", "\n").split("\n"):
        if line.startswith("m="):
            parts.append([])
        if line:
            parts[-1].append(line)
    return parts


def media_sections(sdp: str) -> list[MediaSection]:
    """Return the media sections in order; what a section leaves out it takes from the session part."""
    session, *media = _sections(sdp)

    def value(lines: list[str], name: str) -> str:
        prefix = f"a={name}:"
        return next((line[len(prefix) :] for part in (lines, session) for line in part if line.startswith(prefix)), "")

    def direction(lines: list[str]) -> str:
        found = (line[2:] for part in (lines, session) for line in part if line[2:] in _DIRECTIONS)
        return next(found, "sendrecv")

    return [
        MediaSection(
            kind=lines[0][2:].split(" ", 1)[0],
            mid=value(lines, "mid"),
            direction=direction(lines),
            ice_ufrag=value(lines, "ice-ufrag"),
            ice_pwd=value(lines, "ice-pwd"),
        )
        for lines in media
    ]


def without_empty_end(sdp: str) -> str:
    """Return `sdp` without `a=end-of-candidates` where it has no candidates: more will be trickled.

    libwebrtc's offer for an ICE restart still has the line of the generation before.
    """
    if "a=candidate:" in sdp:
        return sdp
    return "".join(line for line in sdp.splitlines(keepends=True) if line.strip() != "a=end-of-candidates")


def split_candidates(sdp: str) -> tuple[str, list[str], bool]:
    """Take the ICE candidates out of an SDP.

    Returns:
        the SDP without them; each of them once, as `candidate:…`; and whether it says that these are all.
    """
    lines = sdp.splitlines()
    found = dict.fromkeys(line.removeprefix("a=") for line in lines if line.startswith("a=candidate:"))
    rest = [line for line in lines if line != "a=end-of-candidates" and not line.startswith("a=candidate:")]
    return "\r\n".join(rest) + "\r\n", list(found), bool(found) and "a=end-of-candidates" in lines


def with_start_bitrate(sdp: str, kbps: int) -> str:
    """Return `sdp` with `x-google-start-bitrate` on every video codec that has none.

    libwebrtc reads it from the remote description and starts its bandwidth estimate there, not at 300 kbit/s.
    """
    session, *media = _sections(sdp)
    lines = list(session)
    for section in media:
        lines += _start_bitrate(section, kbps) if section[0].startswith("m=video") else section
    return "\r\n".join(lines) + "\r\n"


def _start_bitrate(section: list[str], kbps: int) -> list[str]:
    codecs = [m[1] for line in section if (m := _RTPMAP.match(line)) and m[2].lower() not in _NOT_CODECS]
    with_fmtp = {pt for pt in codecs if any(line.startswith(f"a=fmtp:{pt} ") for line in section)}
    setting = f"x-google-start-bitrate={kbps}"
    lines = []
    for line in section:
        name, _, rest = line.partition(" ")
        payload_type = name.partition(":")[2]
        if name.startswith("a=fmtp:") and payload_type in codecs and "x-google-start-bitrate" not in rest:
            line = f"{line};{setting}"
        lines.append(line)
        if name.startswith("a=rtpmap:") and payload_type in codecs and payload_type not in with_fmtp:
            lines.append(f"a=fmtp:{payload_type} {setting}")
    return lines
