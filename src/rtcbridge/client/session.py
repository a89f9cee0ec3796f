"""One session: its place in line, its way to a node, its pictures there and back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from rtcbridge.client.control import Control, Model
from rtcbridge.client.errors import ClientError
from rtcbridge.client.flow import Flow
from rtcbridge.client.link import Link
from rtcbridge.client.peer import Ice
from rtcbridge.client.states import Place, State

if TYPE_CHECKING:
    from rtcbridge.client.frames import Frame
    from rtcbridge.client.signaling import Address
    from rtcbridge.client.sources import Source
    from rtcbridge.media.port import Engine

_REJOIN_DELAYS = (0.3, 1, 2, 4, 8)  # seconds, between the attempts to come back
_MODEL_TIMEOUT = 10.0  # seconds, once media is up
_STEADY = 10.0  # seconds live, after which the attempts count from zero again


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session is made with; see `Client.connect`."""

    address: Address
    source: Source
    engine: Engine
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    ice: Ice = field(default_factory=Ice)
    wait: float | None = None
    sync: bool = False
    rejoin: bool = True
    on_state: Callable[[Session], None] = lambda session: None
    on_error: Callable[[ClientError], None] = lambda error: None


class Session:
    """One claim on a node: the source's pictures go there, and the frames come back. Made by `Client.connect`.

        async with client.connect("clip.mp4") as session:
            async for frame in session:
                ...

    Entering waits until media is up. Leaving ends the session.
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._state = State.CONNECTING
        self._place: Place | None = None
        self._error: ClientError | None = None
        self._flow = Flow(options.source, options.sync)
        self._control = Control(options.params, self._on_model, options.on_error)
        self._link: Link | None = None
        self._live = asyncio.Event()
        self._run_task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def state(self) -> State:
        """Where it is; `on_state` is called on each change of it, and of `place`."""
        return self._state

    @property
    def place(self) -> Place | None:
        """The place in line, as far as the bridge tells it."""
        return self._place

    @property
    def error(self) -> ClientError | None:
        """Why it ended; None while it has not, and after `close`."""
        return self._error

    @property
    def model(self) -> Model | None:
        """What the node says of its model."""
        return self._control.model

    @property
    def values(self) -> Mapping[str, Any]:
        """All values of the model's parameters now in force."""
        return dict(self._control.values)

    @property
    def stats(self) -> Mapping[str, float]:
        """What the node measures, once a second: `fps_in`, `fps_out`, `model_ms`, `dropped`."""
        return dict(self._control.stats)

    @property
    def latency(self) -> float | None:
        """Seconds from sending a picture to its return; None where it was not measured."""
        return self._flow.latency

    @property
    def dropped(self) -> int:
        """Frames that came back and were replaced by newer ones before anybody asked for them."""
        return self._flow.frames.dropped

    @property
    def sent(self) -> int:
        """Pictures sent so far."""
        return self._flow.sent

    async def update(self, params: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        """Change parameters of the model; return all values then in force, as the node acknowledged them.

        Raises:
            ClientError: `rejected`: the model says why, and nothing has changed; or the session has ended.
        """
        if self._state is State.ENDED:
            raise self._error or ClientError("closed")
        return await self._control.update({**(params or {}), **more})

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        """The next frame. It is the end when the source has ended and all is back, or the session was closed.

        Raises:
            ClientError: why the session ended.
        """
        frame = await self._flow.frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin, and return when media is up. Raises ClientError."""
        try:
            await self._flow.open()
            self._run_task = asyncio.create_task(self._run(), name="session")
            live = asyncio.create_task(self._live.wait(), name="session-live")
            await asyncio.wait([live, self._run_task], return_when=asyncio.FIRST_COMPLETED)
            live.cancel()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the session and release everything. A second call does nothing."""
        self._closing = True
        if self._run_task is not None:
            self._run_task.cancel()
            await asyncio.gather(self._run_task, return_exceptions=True)
        await self._flow.close()
        self._end(None)

    # --- attempts, one after another ---

    async def _run(self) -> None:
        try:
            await self._attempts()
        except Exception as error:  # a mistake of ours: nobody may wait for ever because of it
            failed = ClientError("internal", f"The client failed: {type(error).__name__}: {error}")
            failed.__cause__ = error
            self._end(failed)

    async def _attempts(self) -> None:
        attempts, live_since = 0, 0.0
        while True:
            begun = time.monotonic()
            try:
                await self._attempt()
                return None
            except ClientError as error:
                live_since = self._link.live_since if self._link is not None else 0.0
                if live_since and time.monotonic() - max(live_since, begun) > _STEADY:
                    attempts = 0
                if not self._may_rejoin(error) or attempts >= len(_REJOIN_DELAYS):
                    return self._end(error)
                self._options.on_error(error)
            self._set(State.RECONNECTING, None)
            await asyncio.sleep(_REJOIN_DELAYS[attempts] * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            attempts += 1

    def _may_rejoin(self, error: ClientError) -> bool:
        return error.retryable and self._options.rejoin and self._live.is_set() and not self._closing

    async def _attempt(self) -> None:
        """Dial, wait, connect, and stay: until something breaks, which is raised as ClientError."""
        options = self._options
        link = Link(options.address, options.engine, options.ice, options.wait, self)
        self._link = link
        try:
            await link.run()
        finally:
            self._flow.down()
            self._control.detach()
            await link.close()

    # --- from the link ---

    @property
    def control(self) -> Control:
        """The control channel's end."""
        return self._control

    def on_progress(self, state: State, place: Place | None) -> None:
        """The link goes on. What is being brought back says so until it waits in a line, or is live."""
        hidden = state in (State.CONNECTING, State.AUTHENTICATING)
        if not (self._state is State.RECONNECTING and hidden):
            self._set(state, place)

    async def on_live(self, link: Link) -> None:
        """Media is up: set the parameters, and let the pictures flow."""
        await self._agree()
        model = self._control.model
        if self._options.model is not None and model is not None and model.name != self._options.model:
            text = f"The node runs the model {model.name!r}, not {self._options.model!r}."
            raise ClientError("wrong_model", text)
        self._set(State.LIVE, None)
        self._live.set()
        await self._flow.up(link.send_picture)

    async def _agree(self) -> None:
        """Wait for the node to say what its model is, and to take the parameters; a node may have no such channel."""
        try:
            async with asyncio.timeout(_MODEL_TIMEOUT):
                await self._control.ready()
        except TimeoutError:
            if self._options.params or self._options.model is not None:
                raise ClientError("timeout", "The node does not say what its model is.") from None

    def on_interrupted(self) -> None:
        """Media is gone for now."""
        self._flow.down()

    def on_picture(self, picture: Any, now: float) -> None:
        """A picture came back."""
        self._flow.returned(picture, now)

    def on_error(self, error: ClientError) -> None:
        """An error that ends nothing."""
        self._options.on_error(error)

    def _on_model(self, model: Model) -> None:
        self._options.on_state(self)

    def _set(self, state: State, place: Place | None) -> None:
        if (state, place) != (self._state, self._place):
            self._state, self._place = state, place
            self._options.on_state(self)

    def _end(self, error: ClientError | None) -> None:
        if self._state is State.ENDED:
            return
        self._error = error
        self._control.close(error or ClientError("closed"))
        self._flow.frames.end(error)
        self._set(State.ENDED, None)
