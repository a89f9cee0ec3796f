"""The offering side of a connection on aiortc."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import aiortc

from rtcbridge.media import aiortc_latency, sdp
from rtcbridge.media.aiortc_engine import AiortcPeer
from rtcbridge.media.aiortc_tracks import Channel, OutAudio, OutVideo
from rtcbridge.media.port import EngineConfig, EngineError, PeerEvents

_Out = TypeVar("_Out", OutVideo, OutAudio)


class AiortcOfferer(AiortcPeer):
    """See `rtcbridge.media.port.Offerer`."""

    def __init__(
        self,
        pc: aiortc.RTCPeerConnection,
        events: PeerEvents,
        config: EngineConfig,
        ice_options: dict[str, Any],
    ) -> None:
        super().__init__(pc, events, config, ice_options)
        self._media: list[tuple[aiortc.RTCRtpTransceiver, OutVideo | OutAudio]] = []
        self._restarting = False

    def add_video(self) -> OutVideo:
        """Make a section for pictures both ways."""
        return self._section(OutVideo())

    def add_audio(self) -> OutAudio:
        """Make a section for sound both ways."""
        return self._section(OutAudio())

    def _section(self, out: _Out) -> _Out:
        transceiver = self._pc.addTransceiver(out, "sendrecv")
        aiortc_latency.send_playout_delay(transceiver.sender)
        self._media.append((transceiver, out))
        return out

    def create_data_channel(self, label: str) -> Channel:
        """Make a channel; `on_data_channel` says when it is open."""
        native = self._pc.createDataChannel(label)
        channel = self._watch_channel(native)

        def on_open() -> None:
            if not self._closed:
                self._events.on_data_channel(channel)

        native.on("open", on_open)
        return channel

    async def offer(self, restart: bool = False) -> str:
        """Make an offer and return its SDP. Raises EngineError."""
        if self._ice is None:
            self._ice = self._restartable()
        if restart and self._ice is None:
            raise EngineError("the offer cannot be made: this engine cannot restart ICE")
        try:
            if restart and self._ice is not None:
                await self._ice.prepare()
            await self._pc.setLocalDescription(await self._pc.createOffer())
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise EngineError(f"the offer cannot be made: {error or type(error).__name__}") from None
        self._restarting = restart
        asyncio.get_running_loop().call_soon(self._end_of_candidates)
        return sdp.with_start_bitrate(self._pc.localDescription.sdp, self._config.start_bitrate)

    async def gather(self) -> None:
        """Nothing: the offer has all candidates."""

    async def accept(self, answer: str) -> None:
        """Apply the answer to the last offer. Raises EngineError."""
        if self._pc.signalingState != "have-local-offer":
            return
        sections = sdp.media_sections(answer)
        # All media shares one transport, and aiortc would give it the candidates of the last section alone.
        answer, candidates, all_there = sdp.split_candidates(answer)
        try:
            description = aiortc.RTCSessionDescription(sdp=answer, type="answer")
            await self._pc.setRemoteDescription(description)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # its SDP parser raises whatever its input trips, IndexError and all
            raise EngineError(f"the answer cannot be applied: {error or type(error).__name__}") from None
        if self._restarting and self._ice is not None and sections:
            self._ice.go_over(sections[0].ice_ufrag, sections[0].ice_pwd)
        self._restarting = False
        self._sections = sections
        for transceiver, out in self._media:
            if transceiver.mid is not None and transceiver.mid not in self._tracks and transceiver.receiver.track:
                self._read(transceiver.mid, transceiver, out)
        for candidate in candidates:
            await self.add_ice_candidate({"candidate": candidate, "sdpMLineIndex": 0})
        if all_there:
            await self.add_ice_candidate(None)
