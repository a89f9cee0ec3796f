"""The offering side of every engine, with the answering side of each at the other end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from node.clients import TIMEOUT, grey, luma, tone
from node.test_engine_contract import Node
from rtcbridge.media import EngineError, IceServer, create_engine
from rtcbridge.media.port import AudioFrame, AudioOut, DataChannel, VideoFrame, VideoOut


class Caller(Node):
    """The events of the offering side: keeps what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.luma = -1.0
        self.heard = 0
        self.said: list[str | bytes] = []

    def on_video_frame(self, frame: VideoFrame, out: VideoOut | None) -> None:
        self.luma = luma(frame.i420())
        self.frames.append((frame.width, frame.height))
        frame.close()
        self.changed.set()

    def on_audio_frame(self, frame: AudioFrame, out: AudioOut | None) -> None:
        self.heard = max(self.heard, max(frame.samples, default=0))
        self.sounds += 1
        self.changed.set()

    def on_data_channel(self, channel: DataChannel) -> None:
        self.labels.append(channel.label)
        self.changed.set()

    def on_message(self, channel: DataChannel, data: str | bytes) -> None:
        self.said.append(data)
        self.changed.set()


class Pair:
    """Two peers of engines, and what travels between them."""

    def __init__(self, offering: str, answering: str) -> None:
        self.caller, self.node = Caller(), Node()
        self.offerer = create_engine(offering).create_offerer(self.caller)
        self.peer = create_engine(answering).create_peer(self.node)
        self.video, self.audio = self.offerer.add_video(), self.offerer.add_audio()
        self.channel = self.offerer.create_data_channel("control")
        self.show = 60
        self.offers: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def negotiate(self, restart: bool = False) -> None:
        self.offers.append(await self.offerer.offer(restart))
        answer = await self.peer.answer(self.offers[-1])
        await self.offerer.gather()
        await self.offerer.accept(answer)
        await self.offerer.accept(answer)  # a second time it changes nothing
        await asyncio.gather(self._trickle(self.caller, self.peer), self._trickle(self.node, self.offerer))

    async def _trickle(self, events: Node, to: Any) -> None:
        await events.until(lambda: None in events.candidates)
        found: list[Mapping[str, Any] | None] = list(events.candidates)
        events.candidates.clear()
        for candidate in found:
            await to.add_ice_candidate(candidate)

    async def connected(self) -> None:
        await self.negotiate()
        self._tasks = [asyncio.create_task(self._pictures()), asyncio.create_task(self._sound())]
        for side in (self.caller, self.node):
            await side.until(lambda side=side: side.states[-1:] == ["connected"])

    async def _pictures(self) -> None:
        while True:
            self.video.send(grey(self.show))
            await asyncio.sleep(1 / 30)

    async def _sound(self) -> None:
        at = 0
        while True:
            self.audio.send(AudioFrame(tone(480, at), 48_000, 1))
            at += 480
            await asyncio.sleep(0.01)

    async def sees(self, level: int) -> None:
        await self.caller.until(lambda: abs(self.caller.luma - level) < 15)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.offerer.close()
        await self.peer.close()


@pytest.fixture(params=["wrtc", "aiortc"])
def offering(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["wrtc", "aiortc"], ids=["to-wrtc", "to-aiortc"])
async def pair(request: pytest.FixtureRequest, offering: str) -> AsyncIterator[Pair]:
    pair = Pair(offering, request.param)
    yield pair
    await pair.close()


async def test_video_sound_and_messages_come_back(pair: Pair) -> None:
    await pair.connected()
    assert pair.offerer.connection_state == "connected"
    await pair.sees(195)
    pair.show = 180
    await pair.sees(75)
    assert pair.caller.frames[-1] == (320, 240)
    await pair.caller.until(lambda: "hello" in pair.caller.said)
    assert pair.caller.labels == ["control"]
    pair.channel.send("é")
    await pair.caller.until(lambda: "echo 'é'" in pair.caller.said)
    await pair.caller.until(lambda: pair.caller.heard > 0)
    assert (await pair.offerer.get_stats())["packets_received"] > 0


async def test_ice_restarts_and_the_media_goes_on(pair: Pair) -> None:
    await pair.connected()
    await pair.sees(195)
    await pair.negotiate(restart=True)
    names = [next(line for line in offer.splitlines() if "ice-ufrag" in line) for offer in pair.offers]
    assert len(set(names)) == 2
    count = len(pair.caller.frames)
    await pair.caller.until(lambda: len(pair.caller.frames) > count + 15)
    pair.show = 120
    await pair.sees(135)
    assert "failed" not in pair.caller.states


async def test_the_offer_asks_for_a_good_start_on_one_transport(offering: str) -> None:
    offerer = create_engine(offering).create_offerer(Caller())
    offerer.add_video()
    offerer.create_data_channel("control")
    offer = await offerer.offer()
    await offerer.gather()
    assert "x-google-start-bitrate" in offer
    assert "playout-delay" in offer
    assert "a=group:BUNDLE 0 1" in offer
    with pytest.raises(EngineError, match="the answer cannot be applied"):
        await offerer.accept("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n")
    await offerer.close()
    await offerer.close()
    assert offerer.connection_state == "closed"


async def test_the_other_side_closing_is_reported(offering: str) -> None:
    """By the other library: two libwebrtc in one process miss the end of DTLS at times."""
    pair = Pair(offering, "aiortc" if offering == "wrtc" else "wrtc")
    await pair.connected()
    async with asyncio.timeout(TIMEOUT):
        await pair.peer.close()
    await pair.caller.until(lambda: pair.caller.states[-1] not in ("connecting", "connected"))
    await pair.close()


async def test_ice_servers_are_checked(offering: str) -> None:
    with pytest.raises(EngineError, match="ice_servers"):
        create_engine(offering).create_offerer(Caller(), [IceServer(("http://example.org",))])


async def test_only_relays_are_used_where_it_is_so_told(offering: str) -> None:
    caller = Caller()
    offerer = create_engine(offering).create_offerer(caller, ice_transport_policy="relay")
    offerer.add_video()
    offer = await offerer.offer()
    await offerer.gather()
    await caller.until(lambda: None in caller.candidates)
    assert "a=candidate" not in offer
    assert [each for each in caller.candidates if each is not None and each["candidate"]] == []
    with pytest.raises(EngineError, match="ice_servers"):
        offerer.set_ice_servers([IceServer(("http://example.org",))])
    await offerer.close()
