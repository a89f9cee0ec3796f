"""A session over an engine that the test plays: order, bounds, sound in step, and how sessions end."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from node.clients import TIMEOUT, grey, luma
from rtcbridge.media import AudioFrame, EngineError, IceServer
from rtcbridge.node import peer as module
from rtcbridge.node.loader import load_model
from rtcbridge.node.peer import SessionPeer
from rtcbridge.node.worker import Worker


class Played:
    """An engine and its one peer."""

    name = "played"

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.changed = asyncio.Event()
        self.answers: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.connection_state = "new"
        self.closed = False
        self.hang = False

    def create_peer(self, events: Any, ice_servers: Sequence[IceServer] = (), policy: str = "all") -> "Played":
        return self

    def _note(self, call: Any) -> None:
        self.calls.append(call)
        self.changed.set()

    async def answer(self, offer: str) -> str:
        self._note(offer)
        result = await self.answers.get()
        if isinstance(result, Exception):
            raise result
        return result

    async def add_ice_candidate(self, candidate: Mapping[str, Any] | None) -> None:
        self._note(candidate)
        if candidate is not None and candidate.get("candidate") == "bad":
            raise EngineError("the candidate cannot be added")

    async def get_stats(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        self.closed = True
        if self.hang:
            await asyncio.Event().wait()


class Signaling:
    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.changed = asyncio.Event()

    def _note(self, *message: Any) -> None:
        self.sent.append(message)
        self.changed.set()

    def answer(self, session: str, sdp: str) -> None:
        self._note("answer", sdp)

    def candidate(self, session: str, candidate: Mapping[str, Any] | None) -> None:
        self._note("candidate", candidate)

    def state(self, session: str, state: str) -> None:
        self._note("state", state)

    def refused(self, session: str, message: str) -> None:
        self._note("refused", message)


class Frame:
    def __init__(self, level: int, age: float = 0.0) -> None:
        self.picture = grey(level, 32, 16)
        self.width, self.height = 32, 16
        self.arrival = time.monotonic() - age
        self.closed = False

    def i420(self) -> np.ndarray:
        return self.picture

    def close(self) -> None:
        self.closed = True


class Out:
    """A track that goes back, of pictures or of sound."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.at: list[float] = []
        self.changed = asyncio.Event()

    def send(self, item: Any) -> None:
        self.sent.append(item)
        self.at.append(time.monotonic())
        self.changed.set()


async def until(thing: Any, condition: Any) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            thing.changed.clear()
            await thing.changed.wait()


class Bench:
    def __init__(self, worker: Worker) -> None:
        self.engine = Played()
        self.signaling = Signaling()
        engine: Any = self.engine
        self.peer = SessionPeer("s1", engine, worker, self.signaling)

    async def answered(self) -> None:
        self.peer.offer("offer 1")
        self.engine.answers.put_nowait("answer 1")
        await until(self.signaling, lambda: self.signaling.sent)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    worker = Worker(load_model("passthrough"))
    await worker.start()
    bench = Bench(worker)
    yield bench
    await bench.peer.close()
    worker.stop()


async def test_candidates_of_both_sides_wait_for_the_answer(bench: Bench) -> None:
    engine, signaling, peer = bench.engine, bench.signaling, bench.peer
    peer.offer("offer 1")
    peer.candidate({"candidate": "theirs"})
    await until(engine, lambda: engine.calls == ["offer 1"])
    peer.on_ice_candidate({"candidate": "ours"})
    assert signaling.sent == []
    engine.answers.put_nowait("answer 1")
    await until(engine, lambda: engine.calls == ["offer 1", {"candidate": "theirs"}])
    assert signaling.sent == [("answer", "answer 1"), ("candidate", {"candidate": "ours"})]
    peer.on_ice_candidate(None)
    assert signaling.sent[-1] == ("candidate", None)
    # And so it is for a later offer.
    peer.offer("offer 2")
    await until(engine, lambda: engine.calls[-1] == "offer 2")
    peer.on_ice_candidate({"candidate": "ours again"})
    assert signaling.sent[-1] == ("candidate", None)
    engine.answers.put_nowait("answer 2")
    await until(signaling, lambda: len(signaling.sent) == 5)
    assert signaling.sent[3:] == [("answer", "answer 2"), ("candidate", {"candidate": "ours again"})]


async def test_a_bad_candidate_is_passed_over(bench: Bench) -> None:
    await bench.answered()
    bench.peer.candidate({"candidate": "bad"})
    bench.peer.candidate(None)
    await until(bench.engine, lambda: bench.engine.calls[1:] == [{"candidate": "bad"}, None])
    assert bench.signaling.sent == [("answer", "answer 1")]


@pytest.mark.parametrize(
    ("error", "told"),
    [(EngineError("the offer cannot be applied: x"), "the offer cannot be applied: x"),
     (RuntimeError("secrets of the engine"), "internal error of the node")],
)  # fmt: skip
async def test_an_offer_that_fails_is_refused_once(bench: Bench, error: Exception, told: str) -> None:
    bench.peer.offer("offer 1")
    bench.engine.answers.put_nowait(error)
    await until(bench.signaling, lambda: bench.signaling.sent)
    bench.peer.on_connection_state("failed")
    bench.peer.on_ice_candidate(None)
    assert bench.signaling.sent == [("refused", told)]


async def test_what_waits_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.peer.offer("offer 1")
    await until(bench.engine, lambda: bench.engine.calls)
    for n in range(1000):
        bench.peer.candidate({"candidate": str(n)})
        bench.peer.on_ice_candidate({"candidate": str(n)})
    assert bench.peer._inbox.qsize() == 256
    bench.engine.answers.put_nowait("answer 1")
    await until(bench.engine, lambda: len(bench.engine.calls) == 257)
    assert len(bench.signaling.sent) == 257
    assert bench.signaling.sent[0] == ("answer", "answer 1")


async def test_states_are_reported_and_the_last_ends_the_session(bench: Bench) -> None:
    await bench.answered()
    peer = bench.peer
    seen = []
    for state in ("connecting", "connected", "disconnected", "connected", "failed", "closed"):
        peer.on_connection_state(state)  # type: ignore[arg-type]
        seen.append(peer.media_up)
    assert seen == [False, True, False, True, False, False]
    assert [m[1] for m in bench.signaling.sent[1:]] == ["connected", "disconnected", "connected", "failed"]
    frame = Frame(60)
    peer.on_video_frame(frame, None)
    assert frame.closed


async def test_a_session_that_never_connects_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT_TIMEOUT", 0.01)
    await bench.answered()
    await until(bench.signaling, lambda: bench.signaling.sent[-1] == ("state", "failed"))


async def test_a_picture_goes_back_on_the_track_that_it_came_for(bench: Bench) -> None:
    await bench.answered()
    one, two = Out(), Out()
    bench.peer.on_video_frame(Frame(60), one)
    await until(one, lambda: one.sent)
    bench.peer.on_video_frame(Frame(120), two)
    await until(two, lambda: two.sent)
    bench.peer.on_video_frame(Frame(180), None)
    assert [round(luma(p)) for p in (*one.sent, *two.sent)] == [60, 120]


async def test_sound_waits_as_long_as_the_pictures_took(bench: Bench) -> None:
    await bench.answered()
    sound, pictures = Out(), Out()
    first, second = AudioFrame(b"\0\0", 48_000, 1), AudioFrame(b"\1\0", 48_000, 1)
    bench.peer.on_audio_frame(first, sound)
    assert sound.sent == [first]
    bench.peer.on_video_frame(Frame(60, age=0.2), pictures)
    await until(pictures, lambda: pictures.sent)
    put = time.monotonic()
    bench.peer.on_audio_frame(second, sound)
    assert sound.sent == [first]
    await until(sound, lambda: len(sound.sent) == 2)
    assert sound.at[1] - put >= 0.19
    bench.peer.on_audio_frame(first, None)


async def test_parameters_that_are_wrong_do_not_stop_the_offer() -> None:
    worker = Worker(load_model("neon"))
    await worker.start()
    bench = Bench(worker)
    bench.peer.offer("offer 1", {"strength": 5})
    bench.engine.answers.put_nowait("answer 1")
    await until(bench.signaling, lambda: bench.signaling.sent == [("answer", "answer 1")])
    assert bench.peer._mailbox.params.strength == 1.0
    bench.peer.offer("offer 2", {"strength": 0.5})
    assert bench.peer._mailbox.params.strength == 0.5
    await bench.peer.close()
    worker.stop()


async def test_an_engine_that_does_not_close_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT", 0.01)
    bench.engine.hang = True
    await asyncio.wait_for(bench.peer.close(), TIMEOUT)
    assert bench.engine.closed
