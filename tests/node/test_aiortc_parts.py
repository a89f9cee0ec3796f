"""What is put into aiortc: the marker-bit jitter buffer, the playout delay, and the connection that restarts."""

import asyncio
from collections import deque
from typing import Any

import aiortc
import pytest
from aioice.ice import ConnectionClosed
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap, RtpPacket

from node.clients import TIMEOUT
from rtcbridge.media import aiortc_ice, aiortc_latency
from rtcbridge.media.aiortc_ice import RestartableConnection
from rtcbridge.media.aiortc_latency import _MarkerBuffer, _PlayoutDelayMap
from rtcbridge.media.sdp import PLAYOUT_DELAY


def packet(number: int, timestamp: int, data: bytes, marker: int = 0) -> RtpPacket:
    made = RtpPacket(sequence_number=number % 65536, timestamp=timestamp, marker=marker)
    made._data = data  # type: ignore[attr-defined]
    return made


def feed(buffer: _MarkerBuffer, *packets: RtpPacket) -> list[tuple[int, bytes]]:
    frames = [buffer.add(p)[1] for p in packets]
    return [(frame.timestamp, frame.data) for frame in frames if frame is not None]


@pytest.fixture
def buffer() -> _MarkerBuffer:
    return _MarkerBuffer(capacity=16, is_video=True)


def test_a_picture_is_whole_at_its_marker(buffer: _MarkerBuffer) -> None:
    assert feed(buffer, packet(65535, 10, b"a"), packet(0, 10, b"b")) == []
    assert feed(buffer, packet(1, 10, b"c", 1)) == [(10, b"abc")]
    assert feed(buffer, packet(2, 20, b"d", 1)) == [(20, b"d")]


def test_a_picture_waits_for_what_is_missing(buffer: _MarkerBuffer) -> None:
    assert feed(buffer, packet(1, 10, b"a"), packet(3, 10, b"c", 1), packet(4, 20, b"d", 1)) == []
    assert feed(buffer, packet(2, 10, b"b")) == [(10, b"abc")]
    assert feed(buffer, packet(5, 30, b"e", 1)) == [(20, b"d")]


def test_a_picture_without_a_marker_is_whole_when_the_next_begins(buffer: _MarkerBuffer) -> None:
    assert feed(buffer, packet(1, 10, b"a"), packet(2, 10, b"b"), packet(3, 20, b"c")) == [(10, b"ab")]
    assert feed(buffer, packet(4, 20, b"d", 1)) == [(20, b"cd")]


def test_padding_behind_a_picture_is_none(buffer: _MarkerBuffer) -> None:
    assert feed(buffer, packet(1, 10, b"a", 1), packet(2, 10, b""), packet(3, 10, b"")) == [(10, b"a")]
    assert feed(buffer, packet(4, 20, b"b", 1)) == [(20, b"b")]


@pytest.mark.parametrize("values", [HeaderExtensions(), HeaderExtensions(mid="0", abs_send_time=5)])
def test_the_playout_delay_is_written_behind_the_others(values: HeaderExtensions) -> None:
    parameters = RTCRtpParameters(
        headerExtensions=[
            RTCRtpHeaderExtensionParameters(id=1, uri="urn:ietf:params:rtp-hdrext:sdes:mid"),
            RTCRtpHeaderExtensionParameters(id=6, uri=PLAYOUT_DELAY),
        ]
    )
    plain, ours = HeaderExtensionsMap(), _PlayoutDelayMap()
    assert ours.set(values) == plain.set(values)
    plain.configure(parameters)
    ours.configure(parameters)
    packed = RtpPacket(payload_type=96)
    packed.extensions = values
    raw = packed.serialize(ours)
    assert b"\x62\x00\x00\x00" in raw
    assert RtpPacket.parse(raw, plain).extensions.mid == values.mid


async def test_the_parts_of_aiortc_are_where_they_are_looked_for() -> None:
    """Fails when an upgrade of aiortc moves what is reached into; the engine then works as shipped."""
    aiortc_latency.offer_playout_delay()
    aiortc_latency._told.clear()
    pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    transceiver = pc.addTransceiver("video")
    transceiver.receiver._track = aiortc.VideoStreamTrack()
    sender, receiver = transceiver.sender, transceiver.receiver
    for _ in range(2):
        aiortc_latency.send_playout_delay(sender)
        aiortc_latency.use_marker_bit(receiver)
    assert type(sender._RTCRtpSender__rtp_header_extensions_map) is _PlayoutDelayMap
    assert type(receiver._RTCRtpReceiver__jitter_buffer) is _MarkerBuffer
    transport = receiver.transport.transport
    first = aiortc_ice.make_restartable(transport, {})
    assert first is not None
    assert aiortc_ice.make_restartable(transport, {}) is first
    assert aiortc_latency._told == set()
    await pc.close()


def test_where_aiortc_has_changed_it_is_left_alone() -> None:
    class Sender:
        kind = "video"

    aiortc_latency._told.clear()
    aiortc_latency.send_playout_delay(Sender())
    assert vars(Sender()) == {}
    assert aiortc_latency._told == {"_RTCRtpSender__rtp_header_extensions_map"}
    assert aiortc_ice.make_restartable(Sender(), {}) is None


class Path:
    """An aioice.Connection of which the test says what happens."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: deque[bytes] = deque()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.goes = asyncio.Event()
        self.fails = False
        self.dead = False
        self.gathered = False
        self.remote_username = self.remote_password = None
        self.local_username = "user"
        self.ice_controlling = False

    async def gather_candidates(self) -> None:
        self.gathered = True

    async def connect(self) -> None:
        await self.goes.wait()
        if self.fails:
            raise ConnectionError("ICE negotiation failed")

    async def recv(self) -> bytes:
        data = await self.inbox.get()
        if data is None:
            raise ConnectionError("Connection lost")
        return data

    async def send(self, data: bytes) -> None:
        if self.dead:
            raise ConnectionError("Cannot send data, not connected")
        self.sent.append(data)

    async def get_event(self) -> Any:
        return await self.events.get()

    async def close(self) -> None:
        self.dead = True
        self.inbox.put_nowait(None)
        self.events.put_nowait(ConnectionClosed())


class Gatherer:
    _remote_candidates_end = True


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made = [Path()]

    def make(ice_controlling: bool, **options: Any) -> Path:
        assert not ice_controlling
        assert options == {"stun_server": ("h", 1)}
        made.append(Path())
        return made[-1]

    monkeypatch.setattr(aiortc_ice, "Connection", make)
    return made


@pytest.fixture
def restartable(paths: list[Path]) -> RestartableConnection:
    first: Any = paths[0]
    return RestartableConnection(first, {"stun_server": ("h", 1)}, Gatherer())


async def test_a_restart_makes_before_it_breaks(restartable: RestartableConnection, paths: list[Path]) -> None:
    restartable.remote_username = "first"
    assert paths[0].remote_username == "first"
    reading = asyncio.create_task(restartable.recv())
    watching = asyncio.create_task(restartable.get_event())
    await restartable.prepare()
    assert paths[1].gathered
    assert not restartable._gatherer._remote_candidates_end
    paths[1].local_username = "second"
    assert restartable.local_username == "second"
    restartable.go_over("name", "secret")
    assert (paths[1].remote_username, paths[1].remote_password) == ("name", "secret")
    await restartable.send(b"old path")
    paths[1].goes.set()
    assert restartable._restart is not None
    await asyncio.wait_for(asyncio.wait([restartable._restart]), TIMEOUT)
    paths[1].inbox.put_nowait(b"new path")
    assert await asyncio.wait_for(reading, TIMEOUT) == b"new path"
    await restartable.send(b"new path")
    assert (list(paths[0].sent), list(paths[1].sent)) == ([b"old path"], [b"new path"])
    assert not watching.done()  # the old path's end is no event
    await restartable.close()
    assert isinstance(await asyncio.wait_for(watching, TIMEOUT), ConnectionClosed)
    with pytest.raises(ConnectionError):
        await restartable.recv()


async def test_a_path_that_dies_while_it_is_replaced_is_no_end(
    restartable: RestartableConnection, paths: list[Path]
) -> None:
    reading = asyncio.create_task(restartable.recv())
    watching = asyncio.create_task(restartable.get_event())
    await restartable.prepare()
    restartable.go_over("name", "secret")
    await paths[0].close()
    await restartable.send(b"lost")
    paths[1].goes.set()
    paths[1].inbox.put_nowait(b"new path")
    assert await asyncio.wait_for(reading, TIMEOUT) == b"new path"
    assert not watching.done()
    watching.cancel()
    await restartable.close()


async def test_a_restart_that_fails_leaves_the_path_and_its_end(
    restartable: RestartableConnection, paths: list[Path]
) -> None:
    await restartable.prepare()
    restartable.go_over("name", "secret")
    paths[1].fails = True
    paths[1].goes.set()
    assert restartable._restart is not None
    await asyncio.wait_for(asyncio.wait([restartable._restart]), TIMEOUT)
    assert paths[1].dead
    await restartable.send(b"still")
    assert list(paths[0].sent) == [b"still"]
    await paths[0].close()
    assert isinstance(await restartable.get_event(), ConnectionClosed)
    with pytest.raises(ConnectionError):
        await restartable.send(b"too late")
    await restartable.close()


async def test_a_second_restart_replaces_the_first(restartable: RestartableConnection, paths: list[Path]) -> None:
    await restartable.prepare()
    restartable.go_over("one", "secret")
    await restartable.prepare()
    assert paths[1].dead
    restartable.go_over("two", "secret")
    assert paths[2].remote_username == "two"
    await restartable.close()
    assert paths[0].dead
    assert paths[2].dead
