"""What every engine must do, each with a real peer of each library at the other end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from node.clients import CLIENTS, HEIGHT, TIMEOUT, WIDTH, Client, grey
from rtcbridge.media import EngineConfig, EngineError, EngineUnavailableError, IceServer, create_engine
from rtcbridge.media.port import AudioFrame, AudioOut, DataChannel, IcePolicy, VideoFrame, VideoOut


class Node:
    """The events of a peer: sends pictures back inverted, sound as it is, and messages with a prefix."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.candidates: list[Mapping[str, Any] | None] = []
        self.frames: list[tuple[int, int]] = []
        self.sounds = 0
        self.labels: list[str] = []
        self.without_way_back = 0
        self.closed_channels: list[str] = []
        self.changed = asyncio.Event()

    def on_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        self.candidates.append(candidate)
        self.changed.set()

    def on_connection_state(self, state: str) -> None:
        self.states.append(state)
        self.changed.set()

    def on_video_frame(self, frame: VideoFrame, out: VideoOut | None) -> None:
        picture = frame.i420()
        assert picture.dtype == np.uint8
        assert picture.shape == (frame.height * 3 // 2, frame.width)
        assert frame.arrival > 0
        frame.close()
        frame.close()
        self.frames.append((frame.width, frame.height))
        if out is None:
            self.without_way_back += 1
        else:
            out.send(255 - picture)
        self.changed.set()

    def on_audio_frame(self, frame: AudioFrame, out: AudioOut | None) -> None:
        assert len(frame.samples) % (2 * frame.channels) == 0
        self.sounds += 1
        assert out is not None
        out.send(frame)
        self.changed.set()

    def on_data_channel(self, channel: DataChannel) -> None:
        self.labels.append(channel.label)
        channel.send("hello")

    def on_message(self, channel: DataChannel, data: str | bytes) -> None:
        assert channel.buffered_amount >= 0
        channel.send(f"echo {data!r}")

    def on_channel_closed(self, channel: DataChannel) -> None:
        self.closed_channels.append(channel.label)
        self.changed.set()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Call:
    """A client and a peer of the engine, brought together as a bridge does."""

    def __init__(self, engine: str, client: Client, ice: Sequence[IceServer] = (), policy: IcePolicy = "all") -> None:
        self.node = Node()
        self.client = client
        self.peer = create_engine(engine).create_peer(self.node, ice, policy)
        self.answers: list[str] = []
        self._passed = 0

    async def negotiate(self, restart: bool = False) -> None:
        """Offer, answer, and then candidates both ways, one by one."""
        answer = await self.peer.answer(await self.client.offer(restart=restart))
        self.answers.append(answer)
        await self.client.accept(answer)
        await self.trickle()

    async def trickle(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            while (candidate := await self.client.candidates.get()) is not None:
                await self.peer.add_ice_candidate(candidate)
        await self.peer.add_ice_candidate(None)
        await self.node.until(lambda: None in self.node.candidates[self._passed :])
        passed, self._passed = self.node.candidates[self._passed :], len(self.node.candidates)
        for candidate in passed:
            await self.client.add(candidate)

    async def connected(self) -> None:
        await self.negotiate()
        await self.node.until(lambda: self.node.states[-1:] == ["connected"])

    async def close(self) -> None:
        await self.client.close()
        await self.peer.close()


@pytest.fixture(params=["wrtc", "aiortc"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["wrtc", "aiortc"], ids=["from-wrtc", "from-aiortc"])
async def call(request: pytest.FixtureRequest, engine: str) -> AsyncIterator[Call]:
    call = Call(engine, CLIENTS[request.param](audio=True))
    yield call
    await call.close()


@pytest.fixture
async def wrtc_call(engine: str) -> AsyncIterator[Call]:
    call = Call(engine, CLIENTS["wrtc"]())
    yield call
    await call.close()


async def test_video_sound_and_messages_come_back(call: Call) -> None:
    client, node = call.client, call.node
    client.show = grey(60)
    await call.connected()
    assert node.states == ["connecting", "connected"]
    assert call.peer.connection_state == "connected"
    await client.until_luma(175, 210)
    assert set(node.frames) == {(WIDTH, HEIGHT)}
    client.show = grey(180)
    await client.until_luma(55, 95)
    async with asyncio.timeout(TIMEOUT):
        assert await client.messages.get() == "hello"
        client.say("é")
        assert await client.messages.get() == "echo 'é'"
        client.say(b"\x00\x01")
        assert await client.messages.get() == "echo b'\\x00\\x01'"
    assert node.labels == ["control"]
    await client.until(lambda: client.loudest > 3000)
    stats = await call.peer.get_stats()
    assert stats["packets_received"] > 0
    assert stats["bytes_sent"] > 0


async def test_the_answer_asks_for_no_delay_and_a_good_start(wrtc_call: Call) -> None:
    await wrtc_call.negotiate()
    (answer,) = wrtc_call.answers
    assert "playout-delay" in answer
    assert f"x-google-start-bitrate={EngineConfig().start_bitrate}" in answer
    rtx = {line.split(":")[1].split()[0] for line in answer.splitlines() if line.endswith("rtx/90000")}
    started = {line.split(":")[1].split()[0] for line in answer.splitlines() if "x-google-start" in line}
    assert started
    assert not rtx & started


async def test_candidates_trickle_and_end(wrtc_call: Call) -> None:
    """One engine sends its candidates behind its answer, the other within it; both say when that was all."""
    await wrtc_call.negotiate()
    sent = [c for c in wrtc_call.node.candidates if c is not None and c["candidate"]]
    assert sent or "a=candidate:" in wrtc_call.answers[0]
    for candidate in sent:
        assert candidate["candidate"].startswith("candidate:")
        assert candidate["sdpMid"] is not None or candidate["sdpMLineIndex"] is not None
    assert wrtc_call.node.candidates[-1] is None
    await wrtc_call.peer.add_ice_candidate({"candidate": "", "sdpMid": "0", "sdpMLineIndex": 0})
    await wrtc_call.peer.add_ice_candidate({"candidate": None})


@pytest.mark.parametrize(
    "candidate",
    [
        {"candidate": "candidate:not one", "sdpMid": "0", "sdpMLineIndex": 0},
        {"candidate": "candidate:1 1 udp 1 127.0.0.1 5000 typ host", "sdpMid": "nowhere"},
        {"candidate": "candidate:1 1 udp 1 127.0.0.1 5000 typ host"},
    ],
)
async def test_a_bad_candidate_is_one_error(wrtc_call: Call, candidate: dict[str, Any]) -> None:
    await wrtc_call.negotiate()
    with pytest.raises(EngineError, match="candidate"):
        await wrtc_call.peer.add_ice_candidate(candidate)
    await wrtc_call.node.until(lambda: wrtc_call.node.states[-1:] == ["connected"])


@pytest.mark.parametrize("offer", ["", "v=0", "nonsense\r\n" * 3, "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"])
async def test_a_bad_offer_is_one_error(engine: str, offer: str) -> None:
    peer = create_engine(engine).create_peer(Node())
    with pytest.raises(EngineError, match="offer"):
        await peer.answer(offer)
    await peer.close()


async def test_a_bad_later_offer_leaves_the_media(wrtc_call: Call) -> None:
    await wrtc_call.connected()
    with pytest.raises(EngineError, match="offer"):
        await wrtc_call.peer.answer("v=0")
    await wrtc_call.client.until_more(5)


async def test_an_offer_that_fails_halfway_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """libwebrtc alone can: JSEP's rollback, RFC 9429 section 4.1.10.2."""
    from rtcbridge.media import wrtc_engine

    call = Call("wrtc", CLIENTS["aiortc"]())
    await call.connected()
    peer: Any = call.peer

    async def fail(_peer: Any, _offer: str) -> None:
        raise ValueError("halfway")

    call.client.add_video()
    with monkeypatch.context() as patched:
        patched.setattr(wrtc_engine.WrtcPeer, "_attach_tracks", fail)
        with pytest.raises(EngineError, match="the offer cannot be applied: halfway"):
            await call.peer.answer(await call.client.offer())
    assert peer._pc.signaling_state == "stable"
    await call.client.until_more(5)
    await call.close()


async def test_a_later_offer_adds_a_track(call: Call) -> None:
    await call.connected()
    await call.client.until_luma(175, 210)
    call.client.add_video()
    answer = await call.peer.answer(await call.client.offer())
    await call.client.accept(answer)
    assert answer.count("m=video") == 2
    await call.node.until(lambda: (WIDTH // 2, HEIGHT // 2) in call.node.frames)
    await call.client.until_more(5)
    assert call.node.states == ["connecting", "connected"]


async def test_ice_restarts_and_the_media_goes_on(wrtc_call: Call) -> None:
    call = wrtc_call
    await call.connected()
    for round_ in range(1, 3):
        pair = call.client.pair()
        await call.negotiate(restart=True)
        ufrags = [next(line for line in a.splitlines() if "ice-ufrag" in line) for a in call.answers]
        assert len(set(ufrags)) == round_ + 1
        # The client has gone over to a pair of new candidates; what it sees from here came over that.
        async with asyncio.timeout(TIMEOUT):
            while call.client.pair() == pair:
                await call.client.until_more(1)
        call.client.show = grey(60 + 90 * round_)
        await call.client.until_luma(255 - 60 - 90 * round_ - 20, 255 - 60 - 90 * round_ + 20)
    call.client.say("still")
    async with asyncio.timeout(TIMEOUT):
        while await call.client.messages.get() != "echo 'still'":
            pass
    assert "failed" not in call.node.states


async def test_an_ice_restart_that_leads_nowhere_leaves_the_media(engine: str) -> None:
    """The candidates of the new path never come: the old one goes on."""
    call = Call(engine, CLIENTS["wrtc"]())
    await call.connected()
    await call.client.offer(restart=True)
    offer = await call.client.offer(restart=True)
    answer = await call.peer.answer("\r\n".join(s for s in offer.splitlines() if "a=candidate" not in s) + "\r\n")
    assert "a=ice-ufrag" in answer
    await call.client.until_more(5)
    await call.close()


async def test_pictures_go_back_on_a_section_of_their_own(engine: str) -> None:
    """A client that sends on one section and receives on another gets its pictures on the other."""
    import webrtc

    pc = webrtc.RTCPeerConnection()
    generator = webrtc.VideoTrackGenerator()
    sending = pc.add_transceiver(generator.track, webrtc.RTCRtpTransceiverInit(direction="sendonly"))
    receiving = pc.add_transceiver("video", webrtc.RTCRtpTransceiverInit(direction="recvonly"))
    node = Node()
    peer = create_engine(engine).create_peer(node)
    await pc.set_local_description()
    answer = await peer.answer(pc.local_description.sdp)
    await pc.set_remote_description(webrtc.RTCSessionDescriptionInit(type="answer", sdp=answer))
    assert sending.current_direction == "sendonly"
    assert receiving.current_direction == "recvonly"
    pc.close()
    await peer.close()
    await generator.writable.close()


async def test_the_client_closing_is_reported(engine: str) -> None:
    """At once, by the end of DTLS. The client is the other library: two libwebrtc in one process miss it at times."""
    call = Call(engine, CLIENTS["aiortc" if engine == "wrtc" else "wrtc"]())
    await call.connected()
    await call.client.close()
    await call.node.until(lambda: call.node.states[-1] not in ("connecting", "connected"))
    assert call.node.states == ["connecting", "connected", "closed"]
    assert call.peer.connection_state == "closed"
    await call.peer.close()


async def test_close_frees_everything(engine: str) -> None:
    call = Call(engine, CLIENTS["wrtc"](audio=True))
    await call.connected()
    await call.client.until_luma(175, 210)
    before = len(call.node.states)
    await call.peer.close()
    await call.peer.close()
    assert call.peer.connection_state == "closed"
    assert await call.peer.get_stats() == {}
    pending = [task.get_name() for task in asyncio.all_tasks() if task.get_name().endswith("-in")]
    assert pending == []
    await call.client.close()
    assert len(call.node.states) == before
    peer = weakref.ref(call.peer)
    del call
    for _ in range(5):
        await asyncio.sleep(0)
        gc.collect()
    assert peer() is None


async def test_ice_servers_are_checked(engine: str) -> None:
    made = create_engine(engine)
    with pytest.raises(EngineError, match="ice_servers"):
        made.create_peer(Node(), [IceServer(("http://example.org",))])
    peer = made.create_peer(Node(), [IceServer(("turn:127.0.0.1:3478?transport=udp",), "user", "secret")])
    peer.set_ice_servers([IceServer(("turn:127.0.0.1:3479?transport=udp",), "user2", "secret")])
    with pytest.raises(EngineError, match="ice_servers"):
        peer.set_ice_servers([IceServer(("http://example.org",))])
    await peer.close()
    assert "secret" not in repr(IceServer(("turn:x",), "user", "secret"))


async def test_new_ice_servers_in_mid_session_interrupt_nothing(call: Call) -> None:
    await call.connected()
    call.peer.set_ice_servers([IceServer(("stun:127.0.0.1:3478",))])
    await call.client.accept(await call.peer.answer(await call.client.offer()))
    await call.client.until_more(10)
    assert call.node.states == ["connecting", "connected"]


def test_engines_by_name() -> None:
    assert create_engine("auto").name == "wrtc"
    assert create_engine("aiortc").name == "aiortc"
    with pytest.raises(EngineUnavailableError, match="expected auto, wrtc or aiortc"):
        create_engine("gstreamer")
