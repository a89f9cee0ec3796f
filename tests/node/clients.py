"""Clients for the tests: one on each WebRTC library, behind one small interface."""

import asyncio
import contextlib
import fractions
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import aiortc
import av
import numpy as np
import webrtc
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp

from rtcbridge.media import IceServer

WIDTH, HEIGHT = 320, 240
TIMEOUT = 20.0
FPS = 30
TONE_LEVEL = 8000


def grey(level: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """An I420 picture of one grey."""
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    picture[:height] = level
    return picture


def luma(picture: np.ndarray) -> float:
    return float(picture[: picture.shape[0] * 2 // 3].mean())


def tone(count: int, offset: int) -> bytes:
    """`count` samples of a 440 Hz tone at 48 kHz, mono."""
    at = np.arange(offset, offset + count) / 48_000
    return (np.sin(2 * np.pi * 440 * at) * TONE_LEVEL).astype(np.int16).tobytes()


class Client:
    """What both clients share. `show` is the picture that is sent; `seen` has the pictures that came back."""

    def __init__(self) -> None:
        self.show = grey(60)
        self.candidates: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.messages: asyncio.Queue[str] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.gone = asyncio.Event()
        self.seen: deque[np.ndarray] = deque(maxlen=2)
        self.count = 0
        self.loudest = 0
        self.changed = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def _picture(self, picture: np.ndarray) -> None:
        self.seen.append(picture)
        self.count += 1
        self.changed.set()

    def _sound(self, samples: np.ndarray) -> None:
        self.loudest = max(self.loudest, int(np.abs(samples.astype(np.int32)).max(initial=0)))
        self.changed.set()

    def _state(self) -> None:
        self.changed.set()

    async def until(self, condition: Any) -> None:
        """Wait until `condition()` is true, looking whenever something has come in."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self.changed.clear()
                if condition():
                    return
                await self.changed.wait()

    async def until_luma(self, low: float, high: float) -> None:
        await self.until(lambda: bool(self.seen) and low <= luma(self.seen[-1]) <= high)

    async def until_more(self, pictures: int) -> None:
        goal = self.count + pictures
        await self.until(lambda: self.count >= goal)

    async def _cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class WrtcClient(Client):
    def __init__(self, audio: bool = False, channel: str = "control", ice: Sequence[IceServer] = ()) -> None:
        super().__init__()
        self.pc = webrtc.RTCPeerConnection()
        if ice:
            self.use(ice)
        self._generator = webrtc.VideoTrackGenerator()
        self.transceivers = [self.pc.add_transceiver(self._generator.track)]
        self._more: list[Any] = []
        self._audio = webrtc.MediaStreamTrackGenerator("audio") if audio else None
        if self._audio is not None:
            self.transceivers.append(self.pc.add_transceiver(self._audio))
        self.channel = self.pc.create_data_channel(channel)
        self.channel.on("open", lambda _event: self.opened.set())
        self.channel.on("message", lambda event: self.messages.put_nowait(event.data))
        self.channel.on("close", lambda _event: self.gone.set())
        self.pc.on("icecandidate", self._on_candidate)
        self.pc.on("connectionstatechange", lambda _event: self._state())

    def use(self, ice: Sequence[IceServer]) -> None:
        """Relay through these servers only, from the next gathering on."""
        servers = [webrtc.RTCIceServer(list(each.urls), each.username, each.credential) for each in ice]
        self.pc.set_configuration(webrtc.RTCConfiguration(ice_servers=servers, ice_transport_policy="relay"))

    def _on_candidate(self, event: Any) -> None:
        self.candidates.put_nowait(event.candidate.to_json() if event.candidate else None)

    @property
    def state(self) -> str:
        return self.pc.connection_state.value

    def pair(self) -> tuple[str, str]:
        """The ICE user names of the pair of candidates in use."""
        transport = self.pc.get_senders()[0].transport
        assert transport is not None
        pair = transport.ice_transport.get_selected_candidate_pair()
        return (pair.local.username_fragment, pair.remote.username_fragment) if pair else ("", "")

    def add_video(self) -> None:
        """Add a track whose pictures have half the size."""
        generator = webrtc.VideoTrackGenerator()
        self.transceivers.append(self.pc.add_transceiver(generator.track))
        self._more.append(generator)
        self.tasks.append(asyncio.create_task(self._send(generator, grey(60, WIDTH // 2, HEIGHT // 2))))

    async def offer(self, restart: bool = False) -> str:
        offer = await self.pc.create_offer(webrtc.RTCOfferOptions(ice_restart=restart))
        await self.pc.set_local_description(offer)
        return self.pc.local_description.sdp

    async def accept(self, sdp: str) -> None:
        await self.pc.set_remote_description(webrtc.RTCSessionDescriptionInit(type="answer", sdp=sdp))
        if not self.tasks:
            self.tasks = [asyncio.create_task(self._send(self._generator)), asyncio.create_task(self._read())]
            if self._audio is not None:
                self.tasks += [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]

    async def add(self, candidate: Mapping[str, Any] | None) -> None:
        init = webrtc.RTCIceCandidateInit.from_json(dict(candidate)) if candidate else None
        await self.pc.add_ice_candidate(init)

    async def _send(self, generator: Any, always: np.ndarray | None = None) -> None:
        writer = generator.writable.get_writer()
        while True:
            picture = self.show if always is None else always
            rows, width = picture.shape
            init = webrtc.VideoFrameBufferInit(
                format="I420", coded_width=width, coded_height=rows * 2 // 3, timestamp=time.monotonic_ns() // 1000
            )
            await writer.write(webrtc.VideoFrame(picture.data.cast("B"), init))
            await asyncio.sleep(1 / FPS)

    async def _read(self) -> None:
        track = self.transceivers[0].receiver.track
        processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track))
        async for frame in processor.readable:
            with frame:
                picture = np.empty((frame.coded_height * 3 // 2, frame.coded_width), np.uint8)
                await frame.copy_to(picture.data.cast("B"))
            self._picture(picture)

    async def _speak(self) -> None:
        writer, offset = self._audio.writable.get_writer(), 0
        start = time.monotonic()
        while True:
            init = webrtc.AudioDataInit(
                format="s16", sample_rate=48_000, number_of_frames=480, number_of_channels=1, timestamp=0,
                data=tone(480, offset),
            )  # fmt: skip
            await writer.write(webrtc.AudioData(init))
            offset += 480
            await asyncio.sleep(max(0, start + offset / 48_000 - time.monotonic()))

    async def _listen(self) -> None:
        track = self.transceivers[1].receiver.track
        processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track))
        options = webrtc.AudioDataCopyToOptions(plane_index=0, format="s16")
        async for data in processor.readable:
            with data:
                samples = bytearray(data.allocation_size(options))
                data.copy_to(samples, options)
            self._sound(np.frombuffer(samples, np.int16))

    def say(self, text: str | bytes) -> None:
        self.channel.send(text)

    async def close(self) -> None:
        self.pc.remove_all_listeners()
        self.pc.close()
        await self._cancel()
        for generator in (self._generator, *self._more):
            with contextlib.suppress(Exception):
                await generator.writable.close()


class _Source(aiortc.MediaStreamTrack):
    def __init__(self, kind: str, client: Client, always: np.ndarray | None = None) -> None:
        super().__init__()
        self.kind = kind
        self._always = always
        self._client = client
        self._start = time.monotonic()
        self._n = 0

    async def recv(self) -> Any:
        period = 1 / FPS if self.kind == "video" else 0.02
        await asyncio.sleep(max(0, self._start + self._n * period - time.monotonic()))
        if self.kind == "video":
            picture = self._client.show if self._always is None else self._always
            frame: Any = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = self._n * 90_000 // FPS, fractions.Fraction(1, 90_000)
        else:
            samples = np.frombuffer(tone(960, self._n * 960), np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 48_000
            frame.pts, frame.time_base = self._n * 960, fractions.Fraction(1, 48_000)
        self._n += 1
        return frame


class AiortcClient(Client):
    def __init__(self, audio: bool = False, channel: str = "control", ice: Sequence[IceServer] = ()) -> None:
        super().__init__()
        servers = [aiortc.RTCIceServer(list(each.urls), each.username, each.credential) for each in ice]
        policy = aiortc.RTCIceTransportPolicy.RELAY if ice else aiortc.RTCIceTransportPolicy.ALL
        self.pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))
        self.transceivers = [self.pc.addTransceiver(_Source("video", self))]
        if audio:
            self.transceivers.append(self.pc.addTransceiver(_Source("audio", self)))
        self.channel = self.pc.createDataChannel(channel)
        self.channel.on("open", self.opened.set)
        self.channel.on("message", self.messages.put_nowait)
        self.channel.on("close", self.gone.set)
        self.pc.on("connectionstatechange", self._state)

    @property
    def state(self) -> str:
        return self.pc.connectionState

    def add_video(self) -> None:
        """Add a track whose pictures have half the size."""
        small = grey(60, WIDTH // 2, HEIGHT // 2)
        self.transceivers.append(self.pc.addTransceiver(_Source("video", self, small)))

    async def offer(self, restart: bool = False) -> str:
        assert not restart, "aiortc cannot restart ICE"
        await self.pc.setLocalDescription(await self.pc.createOffer())
        self.candidates.put_nowait(None)
        return self.pc.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.pc.setRemoteDescription(aiortc.RTCSessionDescription(sdp=sdp, type="answer"))
        if not self.tasks:
            self.tasks = [asyncio.create_task(self._read(t.receiver.track)) for t in self.transceivers]

    async def add(self, candidate: Mapping[str, Any] | None) -> None:
        if not candidate or not candidate["candidate"]:
            await self.pc.addIceCandidate(None)
            return
        parsed = candidate_from_sdp(candidate["candidate"].removeprefix("candidate:"))
        parsed.sdpMid, parsed.sdpMLineIndex = candidate["sdpMid"], candidate["sdpMLineIndex"]
        await self.pc.addIceCandidate(parsed)

    async def _read(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self._picture(frame.to_ndarray(format="yuv420p"))
                else:
                    self._sound(frame.to_ndarray())

    def say(self, text: str | bytes) -> None:
        self.channel.send(text)

    async def close(self) -> None:
        await self.pc.close()
        await self._cancel()


CLIENTS: dict[str, Any] = {"wrtc": WrtcClient, "aiortc": AiortcClient}
