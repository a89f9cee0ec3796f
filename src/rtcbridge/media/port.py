"""What is asked of a WebRTC library (names after the W3C WebRTC recommendation).

A `Peer` is the answering side of one RTCPeerConnection, a node's; an `Offerer` is the offering side, a client's. All
their methods and all callbacks of `PeerEvents` run on the event loop; only the frames' `i420()` may be called from
another thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    I420 = NDArray[np.uint8]
    """One picture: uint8, shape (height * 3 // 2, width), planes Y, U, V behind each other; both sides even."""

Kind = Literal["audio", "video"]
ConnectionState = Literal["new", "connecting", "connected", "disconnected", "failed", "closed"]
"""RTCPeerConnectionState, W3C WebRTC 4.3.3."""
IcePolicy = Literal["all", "relay"]
"""RTCIceTransportPolicy, W3C WebRTC 4.2.3."""


class EngineError(Exception):
    """The engine refused what it was given (an SDP, a candidate, an ICE server); the text says why."""


class EngineUnavailableError(Exception):
    """The engine asked for does not exist or its library is not installed."""


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server (RTCIceServer, W3C WebRTC 4.2.2)."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine.

    Attributes:
        start_bitrate: kbit/s that the congestion control of both sides starts with; without it a 720p
            stream stays small and blurred for many seconds.
        max_bitrate: kbit/s that this side sends at most.
    """

    start_bitrate: int = 2500
    max_bitrate: int = 8000


class VideoFrame(Protocol):
    """One picture that came in. It holds memory of the engine until it is closed."""

    @property
    def width(self) -> int:
        """Width in pixels of what `i420` returns."""

    @property
    def height(self) -> int:
        """Height in pixels of what `i420` returns."""

    @property
    def arrival(self) -> float:
        """Time at which it came in, seconds of `time.monotonic`."""

    def i420(self) -> I420:
        """Return the picture upright, its sides cropped to even numbers. Any thread; the array is the caller's."""

    def close(self) -> None:
        """Release the picture. A second call does nothing."""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """A piece of sound: interleaved signed 16-bit samples, native byte order."""

    samples: bytes
    sample_rate: int
    channels: int


class VideoOut(Protocol):
    """The track that goes to the other side."""

    def send(self, picture: I420) -> None:
        """Send a copy of the picture, now. On the loop; never blocks; after the track ended it does nothing."""


class AudioOut(Protocol):
    """The sound track that goes to the other side."""

    def send(self, frame: AudioFrame) -> None:
        """Send, now. On the loop; never blocks; after the track ended it does nothing."""


class DataChannel(Protocol):
    """RTCDataChannel, W3C WebRTC 6.2. Handlers are set with `listen`."""

    @property
    def label(self) -> str:
        """The label that the client gave it."""

    @property
    def buffered_amount(self) -> int:
        """Bytes queued and not yet sent."""

    def send(self, data: str) -> None:
        """Queue a text message; on a channel that is not open it does nothing."""


class PeerEvents(Protocol):
    """What a peer tells its owner, on the event loop. No event comes after `close` has returned."""

    def on_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """A local candidate (RTCIceCandidateInit as JSON); None after the last."""

    def on_connection_state(self, state: ConnectionState) -> None:
        """`connection_state` changed."""

    def on_video_frame(self, frame: VideoFrame, out: VideoOut | None) -> None:
        """A picture came in; `out` is the track of its section the other way. The receiver closes the frame."""

    def on_audio_frame(self, frame: AudioFrame, out: AudioOut | None) -> None:
        """Sound came in; `out` is the track of its section the other way."""

    def on_data_channel(self, channel: DataChannel) -> None:
        """A channel opened, whichever side made it."""

    def on_message(self, channel: DataChannel, data: str | bytes) -> None:
        """A message came on a channel."""

    def on_channel_closed(self, channel: DataChannel) -> None:
        """A channel closed."""


class Connection(Protocol):
    """What both sides of one RTCPeerConnection can do."""

    @property
    def connection_state(self) -> ConnectionState:
        """The state as last reported."""

    async def add_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Add a candidate of the other side; None or an empty `candidate` means end-of-candidates (RFC 8838).

        Raises:
            EngineError: it cannot be parsed, or belongs to no media section.
        """

    def set_ice_servers(self, ice_servers: Sequence[IceServer], ice_transport_policy: IcePolicy | None = None) -> None:
        """Ask these from the next ICE restart on; the candidates that are there stay in use.

        An offerer whose engine gathers late asks them from the next `gather` on. None leaves the policy as it was.

        Raises:
            EngineError: an ICE server is not valid; nothing has changed.
        """

    async def get_stats(self) -> dict[str, Any]:
        """Return the counters of the connection by name: bytes, packets, lost, round-trip time in seconds."""

    async def close(self) -> None:
        """Close for good and release everything. A second call does nothing."""


class Peer(Connection, Protocol):
    """The answering side of one RTCPeerConnection."""

    async def answer(self, offer: str) -> str:
        """Apply an offer, the first or a later one, and return the answer's SDP.

        Raises:
            EngineError: the offer cannot be parsed, applied or answered. A first offer that failed leaves a
                peer that can only be closed; a later one leaves the connection as it was.
        """


class Offerer(Connection, Protocol):
    """The offering side of one RTCPeerConnection. Tracks and channels are made before the first offer."""

    def add_video(self) -> VideoOut:
        """Make a section for pictures both ways, and return the track that is sent."""

    def add_audio(self) -> AudioOut:
        """Make a section for sound both ways, and return the track that is sent."""

    def create_data_channel(self, label: str) -> DataChannel:
        """Make a reliable, ordered channel; `on_data_channel` says when it is open."""

    async def offer(self, restart: bool = False) -> str:
        """Make an offer and return its SDP. Where the engine gathers late, `gather` must follow.

        Args:
            restart: look for another path to the other side (an ICE restart, RFC 8445 section 9).

        Raises:
            EngineError: it cannot be made.
        """

    async def gather(self) -> None:
        """Put the last offer in force on this side, and begin to gather candidates. Raises EngineError."""

    async def accept(self, answer: str) -> None:
        """Apply the answer to the last offer; when there is no offer to be answered, do nothing.

        Raises:
            EngineError: it cannot be parsed or applied.
        """


class Engine(Protocol):
    """A WebRTC library."""

    name: str
    gathers_late: bool
    """Whether an offer can be made, and sent, before it is known which servers to ask."""

    def create_peer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> Peer:
        """Make a peer that will ask `ice_servers`, and no others.

        With the policy `relay` it has and uses relayed candidates only.

        Raises:
            EngineError: an ICE server is not valid.
        """

    def create_offerer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> Offerer:
        """Make the offering side; the rest is as of `create_peer`.

        Raises:
            EngineError: an ICE server is not valid.
        """
