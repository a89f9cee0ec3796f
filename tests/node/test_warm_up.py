"""A node registers when its model has been through a frame, and ends with one line when it cannot."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

import rtcbridge
from node.bridge import Bridge
from node.clients import TIMEOUT
from node.test_agent import running
from node.test_cli import ended, start
from rtcbridge.node import agent
from rtcbridge.node.model import ModelError, spec_of
from rtcbridge.node.worker import Worker


class Slow:
    """A model whose first call waits at a gate; `events` has what happened, in order."""

    def __init__(self, **declaration: Any) -> None:
        self.events: list[Any] = []
        self.entered = threading.Event()
        self.gate = threading.Event()

        @rtcbridge.model(**declaration)
        class Model:
            def setup(_) -> None:  # noqa: N805
                self.events.append("set up")

            def process(_, frame: np.ndarray) -> np.ndarray:  # noqa: N805
                self.events.append(frame.shape)
                self.entered.set()
                assert self.gate.wait(TIMEOUT)
                self.events.append("done")
                return frame

        self.model = Model

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, TIMEOUT)


@pytest.mark.parametrize(
    ("declaration", "shape"),
    [
        ({}, (480, 640, 3)),
        ({"size": (96, 64)}, (64, 96, 3)),
        ({"size": [96, 64], "format": "i420"}, (96, 96)),
    ],
)
async def test_it_registers_when_the_first_frame_has_come_out(declaration: Any, shape: Any) -> None:
    slow = Slow(**declaration)

    def accept(_payload: Any) -> bool:
        slow.events.append("registered")
        return True

    async with Bridge(accept) as bridge, running(bridge, slow.model):
        await slow.reached()
        assert slow.events == ["set up", shape]
        assert bridge.registers.empty()
        slow.gate.set()
        await bridge.registered()
    assert slow.events == ["set up", shape, "done", "registered"]


async def test_what_it_is_at_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_REMIND_EVERY", 0.01)
    slow = Slow(name="slow", size=(96, 64))
    with capture_logs() as logs:
        async with Bridge() as bridge, running(bridge, slow.model):
            await slow.reached()

            def reminded() -> bool:
                return any(each["event"] == "model_not_ready_yet" and each["phase"] == "warm-up" for each in logs)

            async with asyncio.timeout(TIMEOUT):
                while not reminded():  # noqa: ASYNC110 - a log gives no notice
                    await asyncio.sleep(0.01)
            slow.gate.set()
            await bridge.registered()
    said = [each for each in logs if each["event"].startswith("model_")]
    order = [each["event"] for each in said if each["event"] != "model_not_ready_yet"]
    assert order == ["model_setup", "model_warm_up", "model_ready"]
    assert {each["model"] for each in said} == {"slow"}
    assert next(each for each in said if each["event"] == "model_warm_up")["size"] == "96x64"


async def test_it_can_be_stopped_before_its_model_is_ready() -> None:
    slow = Slow()
    async with Bridge() as bridge:
        async with running(bridge, slow.model) as (_, task):
            await slow.reached()
        assert await task == 0
        slow.gate.set()
        assert bridge.registers.empty()


@pytest.mark.parametrize("error", [asyncio.CancelledError("stopped"), SystemExit(3), KeyboardInterrupt()])
async def test_whatever_a_model_raises_ends_the_wait(error: BaseException) -> None:
    @rtcbridge.model
    class Odd:
        def setup(self) -> None:
            raise error

        def process(self, frame: np.ndarray) -> np.ndarray:
            return frame

    spec = spec_of(Odd)
    assert spec is not None
    with pytest.raises(ModelError, match=f"^model odd cannot be set up: {type(error).__name__}"):
        await asyncio.wait_for(Worker(spec).start(), TIMEOUT)


async def test_what_a_model_raises_for_a_client_s_frame_does_not_end_its_thread() -> None:
    from node.test_worker import Frame, Session, started

    calls = []

    @rtcbridge.model
    def odd(frame: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise asyncio.CancelledError
        return frame

    async with started(odd) as worker:
        session = Session(worker)
        for number in (1, 2):
            session.mailbox.put(Frame(60))
            await session.until(number)
        assert [result.error for result in session.results] == ["CancelledError", ""]


FAILING = """
import threading, time
import rtcbridge

@rtcbridge.model
class Failing:
    def setup(self):
        threading.Thread(target=time.sleep, args=(600,)).start()  # what the interpreter would wait for

    def process(self, frame):
        raise RuntimeError("CUDA error:\\nno kernel image")
"""


async def test_a_node_whose_model_fails_ends_at_once_whatever_the_model_has_left(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(FAILING)
    async with Bridge() as bridge:
        process = await start(f"{app}:Failing", "--bridge", bridge.url, "--key", "nk_x")
        status, err = await ended(process)
        assert bridge.registers.empty()
    assert status == 2
    assert err.splitlines()[-1] == (
        "rtcbridge node: model failing fails on its first frame: RuntimeError: CUDA error: no kernel image"
    )


def decorate(size: Any) -> Callable[..., Any]:
    return rtcbridge.model(name="odd", size=size)(lambda frame: frame)


@pytest.mark.parametrize("size", [(640,), (641, 480), (640, 0), (640, 8194), (640.0, 480), "640x480", None, (True, 2)])
def test_a_size_that_no_picture_has(size: Any) -> None:
    with pytest.raises(ModelError, match=r"^model odd: size: expected width and height, two even numbers of pixels"):
        decorate(size)
