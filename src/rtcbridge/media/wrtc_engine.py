"""The engine on libwebrtc (PyPI `wrtc`, module `webrtc`)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import structlog
import webrtc

from rtcbridge.media import i420, sdp
from rtcbridge.media.port import (
    AudioFrame,
    AudioOut,
    ConnectionState,
    EngineConfig,
    EngineError,
    IceServer,
    PeerEvents,
    VideoOut,
)

if TYPE_CHECKING:
    from rtcbridge.media.port import I420
    from rtcbridge.media.wrtc_offerer import WrtcOfferer

log = structlog.get_logger()

# libwebrtc has no API for the playout delay, only these switches, read when its first connection is made:
# send 0/0 in the RTP header extension, and treat what is received as if it said 0/0.
_FIELD_TRIALS = {
    "WebRTC-ForceSendPlayoutDelay": "min_ms:0,max_ms:0",
    "WebRTC-ForcePlayoutDelay": "min_ms:0,max_ms:0",
}


class WrtcEngine:
    """Makes peers on libwebrtc."""

    name = "wrtc"
    gathers_late = True

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        if any(webrtc.field_trials.get(name) != group for name, group in _FIELD_TRIALS.items()):
            try:
                webrtc.field_trials.update(_FIELD_TRIALS)
            except webrtc.InvalidStateError:
                log.warning("playout_delay_not_set", reason="libwebrtc was already in use in this process")

    def create_peer(self, events: PeerEvents, ice_servers: Sequence[IceServer] = ()) -> WrtcPeer:
        """Make a peer. Raises EngineError on an ICE server that is not valid."""
        return WrtcPeer(_connection(ice_servers), events, self._config)

    def create_offerer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), relay_only: bool = False
    ) -> WrtcOfferer:
        """Make the offering side. Raises EngineError on an ICE server that is not valid."""
        from rtcbridge.media.wrtc_offerer import WrtcOfferer

        return WrtcOfferer(_connection(ice_servers, bundle="max-bundle", relay_only=relay_only), events, self._config)


def _connection(ice_servers: Sequence[IceServer], **options: Any) -> webrtc.RTCPeerConnection:
    try:
        return webrtc.RTCPeerConnection(configuration(ice_servers, **options))
    except (webrtc.RTCException, ValueError, TypeError) as error:
        raise EngineError(f"ice_servers: {error}") from None


def configuration(
    ice_servers: Sequence[IceServer],
    bundle: Literal["balanced", "max-bundle"] = "balanced",
    relay_only: bool = False,
) -> webrtc.RTCConfiguration:
    """The configuration of a connection. Raises what the library raises."""
    servers = [webrtc.RTCIceServer(list(s.urls), s.username, s.credential) for s in ice_servers]
    configuration = webrtc.RTCConfiguration(ice_servers=servers, bundle_policy=bundle)
    if relay_only:
        configuration.ice_transport_policy = webrtc.RTCIceTransportPolicy.relay
    return configuration


class WrtcPeer:
    """One RTCPeerConnection of libwebrtc."""

    def __init__(self, pc: webrtc.RTCPeerConnection, events: PeerEvents, config: EngineConfig) -> None:
        self._pc = pc
        self._events = events
        self._config = config
        self._tracks: dict[str, _Track] = {}
        self._dtls: webrtc.RTCDtlsTransport | None = None
        self._remote_closed = False
        self._closed = False
        pc.on("icecandidate", self._on_ice_candidate)
        pc.on("connectionstatechange", self._on_connection_state)
        pc.on("datachannel", self._on_data_channel)

    @property
    def connection_state(self) -> ConnectionState:
        """The state as libwebrtc has it."""
        return "closed" if self._closed or self._remote_closed else self._pc.connection_state.value

    async def answer(self, offer: str) -> str:
        """Apply an offer and return the answer's SDP. Raises EngineError."""
        description = webrtc.RTCSessionDescriptionInit(
            type="offer", sdp=sdp.with_start_bitrate(offer, self._config.start_bitrate)
        )
        try:
            await self._pc.set_remote_description(description)
            await self._attach_tracks(offer)
            await self._pc.set_local_description()
        except (webrtc.RTCException, ValueError, TypeError) as error:
            await self._rollback()
            raise EngineError(f"the offer cannot be applied: {error}") from None
        self._watch_dtls()
        await self._limit_bitrate()
        local = self._pc.local_description
        if local is None:
            raise EngineError("the connection was closed")
        return sdp.with_start_bitrate(local.sdp, self._config.start_bitrate)

    async def _rollback(self) -> None:
        if self._pc.signaling_state == "have-remote-offer":
            rollback = webrtc.RTCSessionDescriptionInit(type="rollback", sdp="")
            with contextlib.suppress(webrtc.RTCException):
                await self._pc.set_remote_description(rollback)

    async def _attach_tracks(self, offer: str) -> None:
        """Give each incoming track a way back: on its own section, or else on one that only receives."""
        directions = {section.mid: section.direction for section in sdp.media_sections(offer)}
        by_mid = {t.mid: t for t in self._pc.get_transceivers() if t.mid is not None and not t.stopped}
        spare = {mid: t for mid, t in by_mid.items() if directions.get(mid) == "recvonly" and t.sender.track is None}
        for mid, transceiver in by_mid.items():
            if mid in self._tracks or directions.get(mid) not in ("sendrecv", "sendonly"):
                continue
            kind = transceiver.receiver.track.kind.value
            back: webrtc.RTCRtpTransceiver | None = transceiver
            if directions[mid] == "sendonly":
                same = (m for m, t in spare.items() if t.receiver.track.kind.value == kind)
                back = spare.pop(next(same, ""), None)
            out: _VideoOut | _AudioOut | None = None
            if back is not None:
                out = _VideoOut() if kind == "video" else _AudioOut()
                back.direction = "sendrecv" if back is transceiver else "sendonly"
                await back.sender.replace_track(out.track)
            self._tracks[mid] = _Track(transceiver.receiver.track, out, self._events)

    async def _limit_bitrate(self) -> None:
        for sender in self._pc.get_senders():
            if sender.track is None or sender.track.kind != "video":
                continue
            parameters = sender.get_parameters()
            for encoding in parameters.encodings:
                encoding.max_bitrate = self._config.max_bitrate * 1000
            with contextlib.suppress(webrtc.RTCException):
                await sender.set_parameters(parameters)

    def _watch_dtls(self) -> None:
        """Learn at once that the client has closed: libwebrtc would call it `disconnected` for seconds."""
        transports = [sender.transport for sender in self._pc.get_senders()]
        if self._pc.sctp is not None:
            transports.append(self._pc.sctp.transport)
        self._dtls = next((transport for transport in transports if transport is not None), None)
        if self._dtls is not None:
            self._dtls.on("statechange", self._on_dtls_state)

    async def add_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Add a candidate of the client, None or empty: the end. Raises EngineError."""
        candidate = candidate or {}
        try:
            await self._pc.add_ice_candidate(
                webrtc.RTCIceCandidateInit(
                    candidate=candidate.get("candidate") or "",
                    sdp_mid=candidate.get("sdpMid"),
                    sdp_m_line_index=candidate.get("sdpMLineIndex"),
                    username_fragment=candidate.get("usernameFragment"),
                )
            )
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"the candidate cannot be added: {error}") from None

    async def get_stats(self) -> dict[str, Any]:
        """Return counters of the connection, see `Peer.get_stats`."""
        if self._closed:
            return {}
        report = await self._pc.get_stats()
        totals: dict[str, Any] = {}
        for entry in report.values():
            for source, target in _STATS.get(str(entry.type), {}).items():
                value = getattr(entry, source, None)
                if value is not None:
                    totals[target] = totals.get(target, 0) + value
        return totals

    async def close(self) -> None:
        """Close for good; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._pc.remove_all_listeners()
        if self._dtls is not None:
            self._dtls.remove_all_listeners()
        tracks = list(self._tracks.values())
        self._tracks.clear()
        self._pc.close()
        for track in tracks:
            await track.close()

    def _on_dtls_state(self, _event: webrtc.Event) -> None:
        if self._dtls is not None and self._dtls.state == "closed" and not (self._closed or self._remote_closed):
            self._remote_closed = True
            self._events.on_connection_state("closed")

    def _on_ice_candidate(self, event: webrtc.RTCPeerConnectionIceEvent) -> None:
        candidate = event.candidate
        self._events.on_ice_candidate(None if candidate is None else dict(candidate.to_json()))

    def _on_connection_state(self, _event: webrtc.Event) -> None:
        if not self._remote_closed:
            self._events.on_connection_state(self._pc.connection_state.value)

    def _on_data_channel(self, event: webrtc.RTCDataChannelEvent) -> None:
        self._watch_channel(event.channel)

    def _watch_channel(self, native: webrtc.RTCDataChannel) -> _DataChannel:
        channel = _DataChannel(native)

        def on_message(message: webrtc.MessageEvent) -> None:
            if isinstance(message.data, str | bytes):
                self._events.on_message(channel, message.data)

        native.on("message", on_message)
        native.on("close", lambda _event: self._events.on_channel_closed(channel))
        if native.ready_state == "open":
            self._events.on_data_channel(channel)
        else:
            native.once("open", lambda _event: self._events.on_data_channel(channel))
        return channel


_STATS = {
    "inbound-rtp": {
        "bytes_received": "bytes_received",
        "packets_received": "packets_received",
        "packets_lost": "packets_lost",
        "frames_decoded": "frames_decoded",
    },
    "outbound-rtp": {
        "bytes_sent": "bytes_sent",
        "packets_sent": "packets_sent",
        "frames_encoded": "frames_encoded",
    },
    "candidate-pair": {"current_round_trip_time": "round_trip_time"},
}


class _Frame:
    """A decoded picture of libwebrtc."""

    def __init__(self, native: webrtc.VideoFrame) -> None:
        self._native = native
        self.arrival = time.monotonic()
        sides = native.coded_width & ~1, native.coded_height & ~1
        self.width, self.height = sides if native.rotation % 180 == 0 else sides[::-1]

    def i420(self) -> I420:
        native = self._native
        width, height = native.coded_width & ~1, native.coded_height & ~1
        rect = webrtc.DOMRectInit(0, 0, width, height)
        if native.format == "I420":
            picture = np.empty((height * 3 // 2, width), np.uint8)
            # The public copy_to makes a future and so is bound to the loop; the copy itself is not.
            native._copy_to(picture.data.cast("B"), webrtc.VideoFrameCopyToOptions(rect=rect))
        else:
            import cv2

            rgba = np.empty((height, width, 4), np.uint8)
            native._copy_to(rgba.data.cast("B"), webrtc.VideoFrameCopyToOptions(rect=rect, format="RGBA"))
            picture = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2YUV_I420), np.uint8)
        return i420.rotate(picture, native.rotation)

    def close(self) -> None:
        self._native.close()


class _Track:
    """Reads one incoming track into the events."""

    def __init__(self, track: webrtc.MediaStreamTrack, out: _VideoOut | _AudioOut | None, events: PeerEvents) -> None:
        self._out = out
        self._processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track))
        pump: Any = _pump_video if track.kind == "video" else _pump_audio
        self._task = asyncio.create_task(pump(self._processor, out, events), name=f"{track.kind.value}-in")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._out is not None:
            await self._out.close()


async def _pump_video(processor: Any, out: VideoOut | None, events: PeerEvents) -> None:
    async for frame in processor.readable:
        events.on_video_frame(_Frame(frame), out)


async def _pump_audio(processor: Any, out: AudioOut | None, events: PeerEvents) -> None:
    options = webrtc.AudioDataCopyToOptions(plane_index=0, format="s16")
    async for data in processor.readable:
        with data:
            samples = bytearray(data.allocation_size(options))
            data.copy_to(samples, options)
            frame = AudioFrame(bytes(samples), int(data.sample_rate), data.number_of_channels)
        events.on_audio_frame(frame, out)


class _Out:
    """Writes to a generated track; a write after its end closes what was to be written."""

    def __init__(self, track: webrtc.MediaStreamTrack, writable: Any) -> None:
        self.track = track
        self._writer = writable.get_writer()
        self._open = True

    def _write(self, item: Any) -> None:
        if not self._open:
            item.close()
            return

        def done(future: asyncio.Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                self._open = False
                item.close()

        self._writer.write(item).add_done_callback(done)

    async def close(self) -> None:
        self._open = False
        with contextlib.suppress(Exception):
            await self._writer.close()


class _VideoOut(_Out):
    def __init__(self) -> None:
        self._generator = webrtc.VideoTrackGenerator()
        super().__init__(self._generator.track, self._generator.writable)

    def send(self, picture: I420) -> None:
        rows, width = picture.shape
        init = webrtc.VideoFrameBufferInit(
            format="I420", coded_width=width, coded_height=rows * 2 // 3, timestamp=time.monotonic_ns() // 1000
        )
        self._write(webrtc.VideoFrame(np.ascontiguousarray(picture).data.cast("B"), init))


class _AudioOut(_Out):
    def __init__(self) -> None:
        generator = webrtc.MediaStreamTrackGenerator("audio")
        super().__init__(generator, generator.writable)

    def send(self, frame: AudioFrame) -> None:
        count = len(frame.samples) // (2 * frame.channels)
        self._write(
            webrtc.AudioData(
                webrtc.AudioDataInit(
                    format="s16",
                    sample_rate=frame.sample_rate,
                    number_of_frames=count,
                    number_of_channels=frame.channels,
                    timestamp=time.monotonic_ns() // 1000,
                    data=frame.samples,
                )
            )
        )


class _DataChannel:
    def __init__(self, native: webrtc.RTCDataChannel) -> None:
        self._native = native

    @property
    def label(self) -> str:
        return self._native.label

    @property
    def buffered_amount(self) -> int:
        return self._native.buffered_amount

    def send(self, data: str) -> None:
        # The channel may close between a check and the call, on another thread.
        with contextlib.suppress(webrtc.RTCException):
            self._native.send(data)
