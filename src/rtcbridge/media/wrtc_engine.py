"""The engine on libwebrtc (PyPI `wrtc`, module `webrtc`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import structlog
import webrtc

from rtcbridge.media import sdp
from rtcbridge.media.port import (
    ConnectionState,
    EngineConfig,
    EngineError,
    IcePolicy,
    IceServer,
    PeerEvents,
)
from rtcbridge.media.wrtc_tracks import Channel, InTrack, OutAudio, OutVideo

if TYPE_CHECKING:
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

    def create_peer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> WrtcPeer:
        """Make a peer. Raises EngineError on an ICE server that is not valid."""
        ice = _Ice(ice_transport_policy, "balanced")
        return WrtcPeer(ice.connection(ice_servers), events, self._config, ice)

    def create_offerer(
        self, events: PeerEvents, ice_servers: Sequence[IceServer] = (), ice_transport_policy: IcePolicy = "all"
    ) -> WrtcOfferer:
        """Make the offering side. Raises EngineError on an ICE server that is not valid."""
        from rtcbridge.media.wrtc_offerer import WrtcOfferer

        ice = _Ice(ice_transport_policy, "max-bundle")
        return WrtcOfferer(ice.connection(ice_servers), events, self._config, ice)


@dataclass
class _Ice:
    """What a connection's configuration has beside its servers."""

    policy: IcePolicy
    bundle: Literal["balanced", "max-bundle"]

    def connection(self, ice_servers: Sequence[IceServer]) -> webrtc.RTCPeerConnection:
        try:
            return webrtc.RTCPeerConnection(self.configuration(ice_servers))
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"ice_servers: {error}") from None

    def configuration(self, ice_servers: Sequence[IceServer]) -> webrtc.RTCConfiguration:
        servers = [webrtc.RTCIceServer(list(s.urls), s.username, s.credential) for s in ice_servers]
        return webrtc.RTCConfiguration(ice_servers=servers, bundle_policy=self.bundle, ice_transport_policy=self.policy)


class WrtcPeer:
    """One RTCPeerConnection of libwebrtc."""

    def __init__(self, pc: webrtc.RTCPeerConnection, events: PeerEvents, config: EngineConfig, ice: _Ice) -> None:
        self._pc = pc
        self._ice = ice
        self._events = events
        self._config = config
        self._tracks: dict[str, InTrack] = {}
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
            out: OutVideo | OutAudio | None = None
            if back is not None:
                out = OutVideo() if kind == "video" else OutAudio()
                back.direction = "sendrecv" if back is transceiver else "sendonly"
                await back.sender.replace_track(out.track)
            self._tracks[mid] = InTrack(transceiver.receiver.track, out, self._events)

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

    def set_ice_servers(self, ice_servers: Sequence[IceServer], ice_transport_policy: IcePolicy | None = None) -> None:
        """See `Connection.set_ice_servers`. Raises EngineError."""
        ice = replace(self._ice, policy=ice_transport_policy or self._ice.policy)
        try:
            self._pc.set_configuration(ice.configuration(ice_servers))
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"ice_servers: {error}") from None
        self._ice = ice

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

    def _watch_channel(self, native: webrtc.RTCDataChannel) -> Channel:
        channel = Channel(native)

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
