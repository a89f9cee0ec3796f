"""The offering side of a connection on libwebrtc."""

from __future__ import annotations

import contextlib

import webrtc

from rtcbridge.media import sdp
from rtcbridge.media.port import EngineConfig, EngineError, PeerEvents
from rtcbridge.media.wrtc_engine import WrtcPeer, _Ice
from rtcbridge.media.wrtc_tracks import Channel, InTrack, OutAudio, OutVideo


class WrtcOfferer(WrtcPeer):
    """See `rtcbridge.media.port.Offerer`. It keeps the size of the pictures and gives up their rate first."""

    def __init__(self, pc: webrtc.RTCPeerConnection, events: PeerEvents, config: EngineConfig, ice: _Ice) -> None:
        super().__init__(pc, events, config, ice)
        self._sections: list[tuple[webrtc.RTCRtpTransceiver, OutVideo | OutAudio]] = []
        self._offer: webrtc.RTCSessionDescriptionInit | None = None  # made, and not yet in force

    def add_video(self) -> OutVideo:
        """Make a section for pictures both ways."""
        out = OutVideo()
        self._sections.append((self._pc.add_transceiver(out.track), out))
        return out

    def add_audio(self) -> OutAudio:
        """Make a section for sound both ways."""
        out = OutAudio()
        self._sections.append((self._pc.add_transceiver(out.track), out))
        return out

    def create_data_channel(self, label: str) -> Channel:
        """Make a channel; `on_data_channel` says when it is open."""
        return self._watch_channel(self._pc.create_data_channel(label))

    async def offer(self, restart: bool = False) -> str:
        """Make an offer and return its SDP; `gather` puts it in force. Raises EngineError."""
        try:
            self._offer = await self._pc.create_offer(webrtc.RTCOfferOptions(ice_restart=restart))
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"the offer cannot be made: {error}") from None
        return sdp.with_start_bitrate(self._offer.sdp, self._config.start_bitrate)

    async def gather(self) -> None:
        """Put the last offer in force and begin to gather candidates. Raises EngineError."""
        offer, self._offer = self._offer, None
        if offer is None:
            return
        try:
            await self._pc.set_local_description(offer)
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"the offer cannot be made: {error}") from None

    async def accept(self, answer: str) -> None:
        """Apply the answer to the last offer. Raises EngineError."""
        if self._pc.signaling_state != "have-local-offer":
            return
        description = webrtc.RTCSessionDescriptionInit(
            type="answer", sdp=sdp.with_start_bitrate(answer, self._config.start_bitrate)
        )
        try:
            await self._pc.set_remote_description(description)
        except (webrtc.RTCException, ValueError, TypeError) as error:
            raise EngineError(f"the answer cannot be applied: {error}") from None
        for transceiver, out in self._sections:
            if transceiver.mid is not None and transceiver.mid not in self._tracks:
                self._tracks[transceiver.mid] = InTrack(transceiver.receiver.track, out, self._events)
        self._watch_dtls()
        await self._limit_bitrate()
        await self._keep_size()

    async def _keep_size(self) -> None:
        for transceiver, out in self._sections:
            if isinstance(out, OutVideo):
                parameters = transceiver.sender.get_parameters()
                parameters.degradation_preference = webrtc.RTCDegradationPreference.maintain_resolution
                with contextlib.suppress(webrtc.RTCException):
                    await transceiver.sender.set_parameters(parameters)

    async def close(self) -> None:
        """Close for good; a second call does nothing."""
        sections, self._sections = self._sections, []
        await super().close()
        for _, out in sections:
            await out.close()
