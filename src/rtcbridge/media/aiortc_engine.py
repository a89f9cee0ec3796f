"""The engine on aiortc, for platforms that `wrtc` has no wheel for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import aiortc
import numpy as np
from aioice.ice import TransportPolicy
from aiortc.codecs import vpx
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcicetransport import connection_kwargs
from aiortc.sdp import candidate_from_sdp
from av import AudioFrame as AvAudioFrame
from av import VideoFrame as AvVideoFrame

from rtcbridge.media import aiortc_latency, sdp
from rtcbridge.media.aiortc_ice import RestartableConnection, make_restartable
from rtcbridge.media.aiortc_tracks import Channel, InFrame, OutAudio, OutVideo
from rtcbridge.media.port import (
    AudioFrame,
    AudioOut,
    ConnectionState,
    EngineConfig,
    EngineError,
    IcePolicy,
    IceServer,
    PeerEvents,
    VideoOut,
)

if TYPE_CHECKING:
    from rtcbridge.media.aiortc_offerer import AiortcOfferer


class AiortcEngine:
    """Makes peers on aiortc."""

    name = "aiortc"
    gathers_late = False

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        # aiortc has these as constants of its encoder, at rates for a small picture.
        vpx.DEFAULT_BITRATE = config.start_bitrate * 1000
        vpx.MAX_BITRATE = config.max_bitrate * 1000
        aiortc_latency.offer_playout_delay()

    def create_peer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> AiortcPeer:
        """Make a peer. Raises EngineError on an ICE server that is not valid."""
        options = _ice(ice_servers, ice_transport_policy)
        pc = _connection(ice_servers, ice_transport_policy, aiortc.RTCBundlePolicy.BALANCED)
        return AiortcPeer(pc, events, self._config, options)

    def create_offerer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> AiortcOfferer:
        """Make the offering side. Raises EngineError on an ICE server that is not valid."""
        from rtcbridge.media.aiortc_offerer import AiortcOfferer

        options = _ice(ice_servers, ice_transport_policy)
        pc = _connection(ice_servers, ice_transport_policy, aiortc.RTCBundlePolicy.MAX_BUNDLE)
        return AiortcOfferer(pc, events, self._config, options)


def _connection(
    ice_servers: Sequence[IceServer], policy: IcePolicy, bundle: aiortc.RTCBundlePolicy
) -> aiortc.RTCPeerConnection:
    return aiortc.RTCPeerConnection(
        aiortc.RTCConfiguration(
            iceServers=_servers(ice_servers),
            iceTransportPolicy=aiortc.RTCIceTransportPolicy(policy),
            bundlePolicy=bundle,
        )
    )


def _servers(ice_servers: Sequence[IceServer]) -> list[aiortc.RTCIceServer]:
    """An empty list and not None, which would mean a public STUN server."""
    return [aiortc.RTCIceServer(list(s.urls), s.username, s.credential) for s in ice_servers]


def _ice(ice_servers: Sequence[IceServer], policy: IcePolicy) -> dict[str, Any]:
    """What an ICE agent is made with. aiortc reads the list with the first track: read it before, for errors."""
    try:
        options = connection_kwargs(_servers(ice_servers))
    except ValueError as error:
        raise EngineError(f"ice_servers: {error}") from None
    return {**options, "transport_policy": TransportPolicy.RELAY if policy == "relay" else TransportPolicy.ALL}


class AiortcPeer:
    """One RTCPeerConnection of aiortc. All its candidates are in its description."""

    def __init__(
        self,
        pc: aiortc.RTCPeerConnection,
        events: PeerEvents,
        config: EngineConfig,
        ice_options: dict[str, Any],
    ) -> None:
        self._pc = pc
        self._ice_options = ice_options
        self._ice: RestartableConnection | None = None
        self._events = events
        self._config = config
        self._tracks: dict[str, asyncio.Task[None]] = {}
        self._resolving: set[asyncio.Task[None]] = set()
        self._sections: list[sdp.MediaSection] = []
        self._closed = False
        self._state: ConnectionState = "new"
        pc.on("connectionstatechange", self._on_connection_state)
        pc.on("datachannel", self._on_data_channel)

    @property
    def connection_state(self) -> ConnectionState:
        """The state as last reported; aiortc has no `disconnected`."""
        return self._state

    async def answer(self, offer: str) -> str:
        """Apply an offer and return the answer's SDP. Raises EngineError."""
        sections = sdp.media_sections(offer)
        if not sections:
            raise EngineError("the offer cannot be applied: it has no media section")
        restart = bool(self._sections) and self._sections[0].ice_ufrag != sections[0].ice_ufrag
        if restart and self._ice is None:
            raise EngineError("the offer cannot be applied: this engine cannot restart ICE")
        try:
            if restart and self._ice is not None:
                await self._ice.prepare()
            description = aiortc.RTCSessionDescription(sdp=sdp.without_empty_end(offer), type="offer")
            await self._pc.setRemoteDescription(description)
            self._attach_tracks(sections)
            self._ice = self._ice or self._restartable()
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        except asyncio.CancelledError:
            raise
        except Exception as error:  # its SDP parser raises whatever its input trips, IndexError and all
            if restart and self._ice is not None:
                await self._ice.cancel()
            raise EngineError(f"the offer cannot be applied: {error or type(error).__name__}") from None
        if restart and self._ice is not None:
            self._ice.go_over(sections[0].ice_ufrag, sections[0].ice_pwd)
        self._sections = sections
        asyncio.get_running_loop().call_soon(self._end_of_candidates)
        return sdp.with_start_bitrate(self._pc.localDescription.sdp, self._config.start_bitrate)

    def _restartable(self) -> RestartableConnection | None:
        """Prepare for ICE restarts, where all media shares one transport, as browsers have it (BUNDLE)."""
        dtls = {t.receiver.transport for t in self._pc.getTransceivers()}
        if self._pc.sctp is not None:
            dtls.add(self._pc.sctp.transport)
        return make_restartable(dtls.pop().transport, self._ice_options) if len(dtls) == 1 else None

    def _end_of_candidates(self) -> None:
        if not self._closed:
            self._events.on_ice_candidate(None)

    def _attach_tracks(self, sections: Sequence[sdp.MediaSection]) -> None:
        """Give each incoming track a way back: on its own section, or else on one that only receives."""
        by_mid = {t.mid: t for t in self._pc.getTransceivers()}
        media = [(s, by_mid[s.mid]) for s in sections if s.mid in by_mid]
        spare = [(s, t) for s, t in media if s.direction == "recvonly" and t.sender.track is None]
        for section, transceiver in media:
            if section.mid in self._tracks or section.direction not in ("sendrecv", "sendonly"):
                continue
            back: aiortc.RTCRtpTransceiver | None = transceiver
            if section.direction == "sendonly":
                found = next((pair for pair in spare if pair[0].kind == section.kind), None)
                back = found[1] if found else None
                if found:
                    spare.remove(found)
            out: OutVideo | OutAudio | None = None
            if back is not None:
                out = OutVideo() if section.kind == "video" else OutAudio()
                back.direction = "sendrecv" if back is transceiver else "sendonly"
                back.sender.replaceTrack(out)
                aiortc_latency.send_playout_delay(back.sender)
            self._read(section.mid, transceiver, out)

    def _read(self, mid: str, transceiver: aiortc.RTCRtpTransceiver, out: VideoOut | AudioOut | None) -> None:
        """Read one incoming track into the events."""
        aiortc_latency.use_marker_bit(transceiver.receiver)
        pump = self._pump_video if transceiver.kind == "video" else self._pump_audio
        track = pump(transceiver.receiver.track, cast(Any, out))
        self._tracks[mid] = asyncio.create_task(track, name=f"{transceiver.kind}-in")

    async def _pump_video(self, track: aiortc.MediaStreamTrack, out: VideoOut | None) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, AvVideoFrame):
                    self._events.on_video_frame(InFrame(frame), out)

    async def _pump_audio(self, track: aiortc.MediaStreamTrack, out: AudioOut | None) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if isinstance(frame, AvAudioFrame):
                    samples = frame.to_ndarray().astype(np.int16, copy=False).tobytes()
                    channels = len(frame.layout.channels)
                    self._events.on_audio_frame(AudioFrame(samples, frame.sample_rate, channels), out)

    async def add_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        """Add a candidate of the client, None or empty: the end. Raises EngineError."""
        text = (candidate or {}).get("candidate") or ""
        if candidate is None or not text:
            await self._pc.addIceCandidate(None)
            return
        mid, index = candidate.get("sdpMid"), candidate.get("sdpMLineIndex")
        if not any(mid == s.mid or index == i for i, s in enumerate(self._sections)):
            raise EngineError("the candidate cannot be added: it belongs to no media section")
        try:
            parsed = candidate_from_sdp(text.removeprefix("candidate:"))
        except (AssertionError, ValueError, IndexError, KeyError):
            raise EngineError("the candidate cannot be added: it cannot be parsed") from None
        parsed.sdpMid, parsed.sdpMLineIndex = mid, index
        if parsed.ip.endswith(".local"):
            # A multicast DNS query takes up to seconds; the candidates behind it must not wait for it.
            task = asyncio.create_task(self._add(parsed), name="mdns-candidate")
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)
        else:
            await self._add(parsed)

    async def _add(self, candidate: aiortc.RTCIceCandidate) -> None:
        with contextlib.suppress(ValueError, OSError):  # what cannot be used is not an error of the connection
            await self._pc.addIceCandidate(candidate)

    def set_ice_servers(self, ice_servers: Sequence[IceServer], ice_transport_policy: IcePolicy | None = None) -> None:
        """See `Connection.set_ice_servers`. Raises EngineError."""
        relay = self._ice_options["transport_policy"] is TransportPolicy.RELAY
        options = _ice(ice_servers, ice_transport_policy or ("relay" if relay else "all"))
        self._ice_options.clear()
        self._ice_options.update(options)  # what restarts ICE has the same dictionary

    async def get_stats(self) -> dict[str, Any]:
        """Return counters of the connection, see `Peer.get_stats`."""
        if self._closed:
            return {}
        totals: dict[str, Any] = {}
        for entry in (await self._pc.getStats()).values():
            for source, target in _STATS.get(entry.type, {}).items():
                value = getattr(entry, source, None)
                if value is not None:
                    totals[target] = totals.get(target, 0) + value
        return totals

    async def close(self) -> None:
        """Close for good; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._state = "closed"
        tasks = [*self._tracks.values(), *self._resolving]
        self._tracks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pc.close()

    def _on_connection_state(self) -> None:
        if not self._closed:
            self._state = cast(ConnectionState, self._pc.connectionState)
            self._events.on_connection_state(self._state)

    def _on_data_channel(self, native: aiortc.RTCDataChannel) -> None:
        channel = self._watch_channel(native)
        if not self._closed:
            self._events.on_data_channel(channel)

    def _watch_channel(self, native: aiortc.RTCDataChannel) -> Channel:
        channel = Channel(native)

        def on_message(data: str | bytes) -> None:
            if not self._closed:
                self._events.on_message(channel, data)

        def on_close() -> None:
            if not self._closed:
                self._events.on_channel_closed(channel)

        native.on("message", on_message)
        native.on("close", on_close)
        return channel


_STATS = {
    "inbound-rtp": {"packetsReceived": "packets_received", "packetsLost": "packets_lost"},
    "outbound-rtp": {"bytesSent": "bytes_sent", "packetsSent": "packets_sent"},
    "remote-inbound-rtp": {"roundTripTime": "round_trip_time"},
    "transport": {"bytesReceived": "bytes_received"},
}
