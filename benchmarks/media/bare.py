"""The yardstick: the engine's library alone, echoing what it is sent. `python -m benchmarks.media.bare ENGINE`.

No bridge, no credential, no session, no model and no worker: a WebSocket takes an offer and candidates, gives an
answer and candidates, and every picture goes back as it came, uncopied. The library has the settings that the
product gives it (playout delay, bitrates), so that what differs is the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

with contextlib.suppress(ImportError):  # one of the two is enough
    import webrtc
with contextlib.suppress(ImportError):
    import aiortc
    from aiortc.codecs import vpx
    from aiortc.sdp import candidate_from_sdp

from rtcbridge.media.port import EngineConfig
from rtcbridge.media.sdp import with_start_bitrate

CONFIG = EngineConfig()
Echo = Callable[[ServerConnection], Awaitable[None]]


class _Wrtc:
    """One connection on libwebrtc."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._pc = webrtc.RTCPeerConnection(webrtc.RTCConfiguration(ice_servers=[]))
        self._pc.on("icecandidate", self._on_candidate)
        self._sending: asyncio.Queue[str] = asyncio.Queue()
        self._generators: list[webrtc.VideoTrackGenerator] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        try:
            async for text in self._socket:
                message = json.loads(text)
                if message["type"] == "offer":
                    answer = await self._answer(with_start_bitrate(message["sdp"], CONFIG.start_bitrate))
                    await self._socket.send(json.dumps({"type": "answer", "sdp": answer}))
                    self._tasks.append(asyncio.create_task(self._send()))  # candidates follow the answer
                elif message["candidate"]["candidate"]:
                    await self._add(message["candidate"])
        finally:
            self._pc.close()
            for task in self._tasks:
                task.cancel()

    async def _answer(self, offer: str) -> str:
        await self._pc.set_remote_description(webrtc.RTCSessionDescriptionInit(type="offer", sdp=offer))
        for transceiver in self._pc.get_transceivers():
            generator = webrtc.VideoTrackGenerator()
            transceiver.direction = "sendrecv"
            await transceiver.sender.replace_track(generator.track)
            self._generators.append(generator)
            self._tasks.append(asyncio.create_task(self._pump(transceiver.receiver.track, generator)))
        await self._pc.set_local_description()
        for sender in self._pc.get_senders():
            parameters = sender.get_parameters()
            for encoding in parameters.encodings:
                encoding.max_bitrate = CONFIG.max_bitrate * 1000
            await sender.set_parameters(parameters)
        assert self._pc.local_description is not None
        return with_start_bitrate(self._pc.local_description.sdp, CONFIG.start_bitrate)

    async def _pump(self, track: webrtc.MediaStreamTrack, generator: webrtc.VideoTrackGenerator) -> None:
        processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track))
        writer = generator.writable.get_writer()
        async for frame in processor.readable:
            await writer.write(frame)

    async def _add(self, candidate: dict[str, Any]) -> None:
        init = webrtc.RTCIceCandidateInit(
            candidate=candidate["candidate"],
            sdp_mid=candidate["sdpMid"],
            sdp_m_line_index=candidate["sdpMLineIndex"],
        )
        await self._pc.add_ice_candidate(init)

    def _on_candidate(self, event: webrtc.RTCPeerConnectionIceEvent) -> None:
        if event.candidate is not None:
            candidate = dict(event.candidate.to_json())
            self._sending.put_nowait(json.dumps({"type": "candidate", "candidate": candidate}))

    async def _send(self) -> None:
        while True:
            await self._socket.send(await self._sending.get())


async def _echo_wrtc(socket: ServerConnection) -> None:
    await _Wrtc(socket).serve()


async def _echo_aiortc(socket: ServerConnection) -> None:
    """One connection on aiortc as it is shipped; all its candidates are in its answer."""
    pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    try:
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "offer":
                description = aiortc.RTCSessionDescription(sdp=message["sdp"], type="offer")
                await pc.setRemoteDescription(description)
                for transceiver in pc.getTransceivers():
                    pc.addTrack(transceiver.receiver.track)
                await pc.setLocalDescription(await pc.createAnswer())
                answer = with_start_bitrate(pc.localDescription.sdp, CONFIG.start_bitrate)
                await socket.send(json.dumps({"type": "answer", "sdp": answer}))
            elif message["candidate"]["candidate"]:
                line = message["candidate"]["candidate"]
                candidate = candidate_from_sdp(line.removeprefix("candidate:"))
                candidate.sdpMid = message["candidate"]["sdpMid"]
                await pc.addIceCandidate(candidate)
    finally:
        await pc.close()


def _prepare(engine: str) -> Echo:
    if engine == "wrtc":
        trials = ("WebRTC-ForceSendPlayoutDelay", "WebRTC-ForcePlayoutDelay")
        webrtc.field_trials.update(dict.fromkeys(trials, "min_ms:0,max_ms:0"))
        return _echo_wrtc
    vpx.DEFAULT_BITRATE, vpx.MAX_BITRATE = CONFIG.start_bitrate * 1000, CONFIG.max_bitrate * 1000
    return _echo_aiortc


async def _main(engine: str) -> None:
    async with serve(_prepare(engine), "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
