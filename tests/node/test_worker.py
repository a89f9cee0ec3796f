"""The worker: latest wins, sessions take turns, and nothing but the model's own session waits for the model."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import rtcbridge
from node.clients import TIMEOUT, grey, luma
from rtcbridge.node.model import ModelError, spec_of
from rtcbridge.node.worker import Mailbox, Result, Worker


class Frame:
    """A grey picture; counts how often it was closed."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.width, self.height = 32, 16
        self.arrival = time.monotonic()
        self.closed = 0

    def i420(self) -> np.ndarray:
        assert not self.closed
        return grey(self.level, self.width, self.height)

    def close(self) -> None:
        self.closed += 1


class Session:
    """A mailbox and what it delivered."""

    def __init__(self, worker: Worker) -> None:
        self.results: list[Result] = []
        self.changed = asyncio.Event()
        self.mailbox: Mailbox = worker.open(self._deliver)

    def _deliver(self, result: Result) -> None:
        self.results.append(result)
        self.changed.set()

    @property
    def levels(self) -> list[int]:
        return [round(luma(result.picture)) for result in self.results]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT):
            while len(self.results) < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def started(target: Callable[..., Any]) -> AsyncIterator[Worker]:
    spec = spec_of(target)
    assert spec is not None
    worker = Worker(spec)
    await worker.start()
    yield worker
    worker.stop()
    assert worker._thread is not None
    await asyncio.to_thread(worker._thread.join, TIMEOUT)
    assert not worker._thread.is_alive()


class Gate:
    """A model that waits at a gate, so that a test says when it goes on. The warm-up passes."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.warm = False

        @rtcbridge.model(format="i420")
        def gated(frame: np.ndarray) -> np.ndarray:
            if self.warm:
                self.entered.release()
                assert self.gate.acquire(timeout=TIMEOUT)
            self.warm = True
            return frame

        self.model = gated

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=TIMEOUT)


async def test_the_latest_frame_wins() -> None:
    gate = Gate()
    async with started(gate.model) as worker:
        session = Session(worker)
        frames = [Frame(level) for level in range(20, 60, 4)]
        session.mailbox.put(frames[0])
        await gate.wait_entered()
        for frame in frames[1:]:
            session.mailbox.put(frame)
        gate.gate.release(2)
        await session.until(2)
        assert session.levels == [20, 56]
        assert session.mailbox.received == 10
        assert session.mailbox.dropped == 8
        assert session.mailbox.delivered == 2
        assert [frame.closed for frame in frames] == [1] * 10


async def test_a_slow_model_never_makes_frames_old() -> None:
    """However long the model takes, what it works on next came in after it began with the last."""
    gate = Gate()
    async with started(gate.model) as worker:
        session = Session(worker)
        began: list[float] = []
        for n in range(5):
            session.mailbox.put(Frame(30 + n))
            if n == 0:
                await gate.wait_entered()
            for _ in range(10):
                session.mailbox.put(Frame(30 + n))
            began.append(time.monotonic())
            gate.gate.release()
            await gate.wait_entered()
        gate.gate.release()
        await session.until(6)
        for begin, result in zip(began[:-1], session.results[2:], strict=False):
            assert result.arrival >= begin


async def test_sessions_take_turns() -> None:
    gate = Gate()
    async with started(gate.model) as worker:
        greedy, modest, third = Session(worker), Session(worker), Session(worker)
        greedy.mailbox.put(Frame(20))
        await gate.wait_entered()
        order: list[str] = []
        for session, name in ((greedy, "greedy"), (modest, "modest"), (third, "third")):
            deliver = session.mailbox._deliver
            session.mailbox._deliver = lambda result, n=name, d=deliver: (order.append(n), d(result))[1]
        for level in range(10):
            greedy.mailbox.put(Frame(30 + level))
        modest.mailbox.put(Frame(100))
        third.mailbox.put(Frame(150))
        for _ in range(3):
            gate.gate.release()
            await gate.wait_entered()
            greedy.mailbox.put(Frame(60))
        gate.gate.release(2)
        await greedy.until(3)
        assert order == ["greedy", "greedy", "modest", "third", "greedy"]
        assert (greedy.levels, modest.levels, third.levels) == ([20, 39, 60], [100], [150])


async def test_a_model_that_raises_gives_the_raw_picture_and_the_reason() -> None:
    @rtcbridge.model
    def broken(frame: np.ndarray) -> np.ndarray | None:
        if frame.mean() < 100:
            raise ValueError("too\n dark")
        return None if frame.mean() > 200 else 255 - frame

    async with started(broken) as worker:
        session = Session(worker)
        for n, level in enumerate((60, 128, 230), 1):
            session.mailbox.put(Frame(level))
            await session.until(n)
        assert [r.error for r in session.results[:2]] == ["ValueError: too dark", ""]
        assert session.results[2].error.startswith("OutputError: the model returned None; expected a uint8")
        assert session.levels[0] == 60
        assert session.levels[2] == 230
        assert 120 <= session.levels[1] <= 132


async def test_a_frame_that_cannot_be_read_is_passed_over() -> None:
    class Torn(Frame):
        gone = threading.Event()

        def i420(self) -> np.ndarray:
            raise RuntimeError("torn")

        def close(self) -> None:
            super().close()
            self.gone.set()

    gate = Gate()
    async with started(gate.model) as worker:
        session = Session(worker)
        gate.gate.release(9)
        session.mailbox.put(Torn(1))
        assert await asyncio.to_thread(Torn.gone.wait, TIMEOUT)
        session.mailbox.put(Frame(40))
        await session.until(1)
        assert session.levels == [40]


async def test_a_closed_session_gets_nothing_more_and_its_state_is_closed() -> None:
    events: list[str] = []
    closed = threading.Event()

    class State:
        def close(self) -> None:
            events.append("close")
            closed.set()

    @rtcbridge.model(format="i420")
    class Stateful:
        def setup(self) -> None:
            events.append("setup")

        def session(self) -> State:
            events.append("session")
            return State()

        def process(self, frame: np.ndarray, params: Any, state: State) -> np.ndarray:
            assert isinstance(state, State)
            return frame

    async with started(Stateful) as worker:
        assert events == ["setup", "session", "close"]  # the warm-up has a session of its own
        session, never_used = Session(worker), Session(worker)
        session.mailbox.put(Frame(50))
        await session.until(1)
        closed.clear()
        never_used.mailbox.close()
        session.mailbox.close()
        session.mailbox.close()
        late = Frame(60)
        session.mailbox.put(late)
        assert late.closed == 1
        assert await asyncio.to_thread(closed.wait, TIMEOUT)
        assert events == ["setup", "session", "close", "session", "close"]
        assert len(session.results) == 1


async def test_closing_while_the_model_is_at_the_frame_discards_the_result() -> None:
    gate = Gate()
    async with started(gate.model) as worker:
        gone, other = Session(worker), Session(worker)
        gone.mailbox.put(Frame(20))
        await gate.wait_entered()
        assert worker.busy_for() > 0
        waiting = Frame(30)
        gone.mailbox.put(waiting)
        other.mailbox.put(Frame(90))
        gone.mailbox.close()
        assert waiting.closed == 1
        gate.gate.release(2)
        await other.until(1)
        assert (gone.results, other.levels) == ([], [90])
        assert worker.busy_for() == 0


async def test_load_is_the_share_of_time_that_the_model_was_busy() -> None:
    gate = Gate()
    async with started(gate.model) as worker:
        session = Session(worker)
        worker.load()
        await asyncio.sleep(0.02)
        assert worker.load() == 0
        session.mailbox.put(Frame(20))
        await gate.wait_entered()
        worker.load()
        await asyncio.sleep(0.02)
        assert worker.load() == pytest.approx(1, abs=0.01)
        gate.gate.release()
        await session.until(1)


async def test_stop_closes_what_waits() -> None:
    gate = Gate()
    async with started(gate.model) as worker:
        session = Session(worker)
        session.mailbox.put(Frame(20))
        await gate.wait_entered()
        waiting, late = Frame(30), Frame(40)
        session.mailbox.put(waiting)
        worker.stop()
        session.mailbox.put(late)
        assert (waiting.closed, late.closed) == (1, 1)
        gate.gate.release()


@pytest.mark.parametrize("where", ["setup", "first frame", "output"])
async def test_a_model_that_cannot_be_set_up_is_one_line(where: str) -> None:
    @rtcbridge.model
    class Failing:
        def setup(self) -> None:
            if where == "setup":
                raise RuntimeError("no\nweights")

        def process(self, frame: np.ndarray) -> Any:
            if where == "first frame":
                raise KeyError("layer")
            return frame.astype(np.float32)

    spec = spec_of(Failing)
    assert spec is not None
    with pytest.raises(ModelError) as caught:
        await Worker(spec).start()
    assert str(caught.value).startswith(
        {
            "setup": "model failing cannot be set up: RuntimeError: no weights",
            "first frame": "model failing fails on its first frame: KeyError: 'layer'",
            "output": "model failing fails on its first frame: OutputError: the model returned an array of float32",
        }[where]
    )
