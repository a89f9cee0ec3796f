"""Runs the model in a thread of its own, so that it stalls neither the connection nor another session.

The frame policy is latest-wins: each session has a mailbox with one place, and a frame that the model did not
get to is replaced by the next. So a slow model lowers the frame rate and never adds latency. Sessions take
turns, first come first served, and have one place each: no session gets more than its share of the model.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from rtcbridge.node import pictures
from rtcbridge.node.model import Model, ModelError, ModelSpec
from rtcbridge.node.params import Params, defaults

if TYPE_CHECKING:
    from rtcbridge.media.port import I420, VideoFrame

log = structlog.get_logger()

_MAX_MESSAGE = 300  # characters of a model's error that a client is told


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one frame.

    Attributes:
        picture: what the client is shown: the model's picture, or the one that came where the model failed.
        error: why the model failed, in one line, or "".
        arrival: when the frame came in, seconds of `time.monotonic`.
        model_seconds: how long the model ran, conversions included.
        context: what was given with the frame.
    """

    picture: I420
    error: str
    arrival: float
    model_seconds: float
    context: Any


class Mailbox:
    """One session's place at the worker. `put` and `close` are called on the loop that made it."""

    def __init__(self, worker: Worker, deliver: Callable[[Result], None]) -> None:
        self._worker = worker
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self.params: Params = defaults(worker.spec.params)
        self.received = 0
        self.dropped = 0
        self.delivered = 0
        self.model_seconds = 0.0
        # The worker's, under its lock or in its thread:
        self.frame: VideoFrame | None = None
        self.context: Any = None
        self.state: Any = None
        self.opened = False
        self.closed = False

    def put(self, frame: VideoFrame, context: Any = None) -> None:
        """Take a frame for the model, in place of one that still waits. The mailbox closes it."""
        self.received += 1
        self._worker.put(self, frame, context)

    def close(self) -> None:
        """Forget the frame that waits, and deliver nothing more. The session's state is closed in its turn."""
        self._worker.remove(self)

    def post(self, result: Result) -> None:
        """Hand over a result. Called in the worker's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, result)
        except RuntimeError:
            return  # the loop is closed: the node is ending

    def _take(self, result: Result) -> None:
        if not self.closed:
            self.delivered += 1
            self.model_seconds += result.model_seconds
            self._deliver(result)


class Worker:
    """The node's one model, and its thread.

    Attributes:
        spec: the model's declaration.
        phase: what the model is at: `setup`, `warm-up`, or `ready` when frames may come.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._model = Model(spec)
        self._condition = threading.Condition()
        self._turns: deque[Mailbox] = deque()  # those with a frame, in the order in which it is their turn
        self._chores: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._busy_since: float | None = None
        self._busy_total = 0.0
        self._load_mark = (time.monotonic(), 0.0)
        self._ready: asyncio.Future[None] | None = None
        self.phase = "setup"
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Set the model up in its thread and run one frame through it. It takes as long as these do.

        Raises:
            ModelError: `setup` or that frame failed; the text is one line, the log has the traceback.
        """
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        # A daemon: a model that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(loop,), name="model", daemon=True)
        self._thread.start()
        await self._ready

    def open(self, deliver: Callable[[Result], None]) -> Mailbox:
        """Return a new session's mailbox; `deliver` is called on the running loop with each result."""
        return Mailbox(self, deliver)

    def put(self, mailbox: Mailbox, frame: VideoFrame, context: Any) -> None:
        """See `Mailbox.put`."""
        with self._condition:
            if mailbox.closed or self._stopping:
                discarded: VideoFrame | None = frame
            else:
                discarded, mailbox.frame = mailbox.frame, frame
                mailbox.context = context
                if discarded is None:
                    self._turns.append(mailbox)
                    self._condition.notify()
                else:
                    mailbox.dropped += 1
        if discarded is not None:
            discarded.close()

    def remove(self, mailbox: Mailbox) -> None:
        """See `Mailbox.close`."""
        with self._condition:
            if mailbox.closed:
                return
            mailbox.closed = True
            old, mailbox.frame = mailbox.frame, None
            if mailbox in self._turns:
                self._turns.remove(mailbox)
            self._chores.append(lambda: self._close_session(mailbox))
            self._condition.notify()
        if old is not None:
            old.close()

    def busy_for(self) -> float:
        """Return for how many seconds the model has been at the frame that it has; 0 when it has none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def load(self) -> float:
        """Return the share of the time since the last call that the model was busy, 0 to 1."""
        now = time.monotonic()
        busy = self._busy_total + self.busy_for()
        (then, before), self._load_mark = self._load_mark, (now, busy)
        return min(1.0, max(0.0, (busy - before) / (now - then))) if now > then else 0.0

    def stop(self) -> None:
        """End the thread after the frame that it is at; does not wait for it."""
        with self._condition:
            self._stopping = True
            waiting = [mailbox.frame for mailbox in self._turns]
            for mailbox in self._turns:
                mailbox.frame = None
            self._turns.clear()
            self._condition.notify()
        for frame in waiting:
            if frame is not None:
                frame.close()

    # --- in the thread ---

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        pictures.limit_threads()
        error = self._prepare()
        try:
            loop.call_soon_threadsafe(self._settle, error)
        except RuntimeError:
            return
        while error is None and (job := self._next()) is not None:
            job()

    def _settle(self, error: ModelError | None) -> None:
        if self._ready is None or self._ready.done():
            return
        if error is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(error)

    def _prepare(self) -> ModelError | None:
        """Set up and warm up; return what went wrong, if anything."""
        name = self.spec.name
        try:
            log.info("model_setup", model=name)
            self._model.setup()
            self.phase = "warm-up"
            log.info("model_warm_up", model=name, size="{}x{}".format(*self.spec.size))
            self._warm_up()
            self.phase = "ready"
        except ModelError as error:
            return error
        except BaseException as error:  # asyncio's own CancelledError too: it would end this thread unseen
            log.error("model_setup_failed", model=name, phase=self.phase, exc_info=True)
            what = "cannot be set up" if self.phase == "setup" else "fails on its first frame"
            return ModelError(f"model {name} {what}: {_one_line(error)}")
        return None

    def _warm_up(self) -> None:
        """Pay for what the first frame costs (kernels, allocations) before a client waits for it."""
        columns, rows = self.spec.size
        grey = np.full((rows * 3 // 2, columns), 128, np.uint8)
        state = self._model.open_session()
        try:
            self._apply(grey, defaults(self.spec.params), state)
        finally:
            self._model.close_session(state)

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            while not (self._turns or self._chores or self._stopping):
                self._condition.wait()
            if self._chores:
                return self._chores.popleft()
            if self._stopping:
                return None
            mailbox = self._turns.popleft()
            frame, mailbox.frame = mailbox.frame, None
            context, mailbox.context = mailbox.context, None
            assert frame is not None
            return lambda: self._process(mailbox, frame, context)

    def _process(self, mailbox: Mailbox, frame: VideoFrame, context: Any) -> None:
        picture = None
        try:
            picture = frame.i420()
        except Exception:
            log.warning("frame_lost", exc_info=True)
        finally:
            frame.close()
        if picture is None:
            return
        self._busy_since = start = time.monotonic()
        result, error = picture, ""
        try:
            if not mailbox.opened:
                mailbox.state = self._model.open_session()
                mailbox.opened = True
            result = self._apply(picture, mailbox.params, mailbox.state)
        except BaseException as reason:
            error = _one_line(reason)
            _log_failure(self.spec.name, error)
        spent = time.monotonic() - start
        self._busy_total += spent
        self._busy_since = None
        mailbox.post(Result(result, error, frame.arrival, spent, context))

    def _apply(self, picture: I420, params: Params, state: Any) -> I420:
        frame = pictures.from_i420(picture, self.spec.format)
        result = pictures.to_i420(self._model.process(frame, params, state), self.spec.format)
        # A model in I420 may return memory that it writes to again; what it was given it does not see again.
        return result.copy() if self.spec.format == "i420" and result is not picture else result

    def _close_session(self, mailbox: Mailbox) -> None:
        state, mailbox.state = mailbox.state, None
        try:
            self._model.close_session(state)
        except BaseException:
            log.warning("session_close_failed", model=self.spec.name, exc_info=True)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:_MAX_MESSAGE]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_logged: dict[str, float] = {}
_LOG_EVERY = 60.0  # seconds between tracebacks of one error


def _log_failure(model: str, error: str) -> None:
    """Log the traceback of the exception being handled, each distinct error once a minute."""
    now = time.monotonic()
    if now - _logged.get(error, -_LOG_EVERY) < _LOG_EVERY:
        return
    if len(_logged) >= 100:
        _logged.clear()
    _logged[error] = now
    log.error("model_failed", model=model, error=error, exc_info=True)
