"""The client without `async`, for notebooks and scripts: an event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rtcbridge.client import client as asynchronous
from rtcbridge.client import session as asynchronous_session

if TYPE_CHECKING:
    from rtcbridge.client.control import Model
    from rtcbridge.client.errors import ClientError
    from rtcbridge.client.frames import Frame
    from rtcbridge.client.signaling import Credential
    from rtcbridge.client.sources import Given
    from rtcbridge.client.states import Place, State

T = TypeVar("T")


class Client:
    """As `rtcbridge.client.Client`, and with the same arguments.

    client = Client("wss://bridge.example.org", "sk_…")
    with client.connect("clip.mp4", params={"style": "cartoon"}) as session:
        for frame in session:
            print(frame.time, frame.image.shape)
    """

    def __init__(self, url: str, key: Credential, **options: Any) -> None:
        self._client = asynchronous.Client(url, key, **options)

    def connect(self, source: Given, **options: Any) -> Session:
        """Make a session, to be entered with `with`; the options are those of `rtcbridge.client.Client.connect`."""
        return Session(self._client, source, options)


def connect(url: str, key: Credential, source: Given, **options: Any) -> Session:
    """Make a session in one step: `with connect(url, key, source) as session`."""
    return Client(url, key).connect(source, **options)


class Session:
    """As `rtcbridge.client.Session`: each call waits until it is done. To be used from any one thread at a time."""

    def __init__(self, client: asynchronous.Client, source: Given, options: Mapping[str, Any]) -> None:
        self._session = client.connect(source, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin, and return when media is up. Raises ClientError."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rtcbridge-client", daemon=True)
        self._thread.start()
        try:
            self._call(self._session.start())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame. Raises ClientError: why the session ended."""
        frame = self._call(self._next())
        if frame is None:
            raise StopIteration
        return frame

    async def _next(self) -> Frame | None:
        # A StopAsyncIteration cannot leave a coroutine.
        return await anext(self._session, None)

    def update(self, params: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        """Change parameters of the model; return all values then in force. Raises ClientError."""
        return self._call(self._session.update(params, **more))

    def close(self) -> None:
        """End the session and the thread. A second call does nothing."""
        loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_finish(self._session), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    @property
    def state(self) -> State:
        """Where it is."""
        return self._session.state

    @property
    def place(self) -> Place | None:
        """The place in line."""
        return self._session.place

    @property
    def error(self) -> ClientError | None:
        """Why it ended."""
        return self._session.error

    @property
    def model(self) -> Model | None:
        """What the node says of its model."""
        return self._session.model

    @property
    def values(self) -> Mapping[str, Any]:
        """All values of the model's parameters now in force."""
        return self._session.values

    @property
    def stats(self) -> Mapping[str, float]:
        """What the node measures, once a second."""
        return self._session.stats

    @property
    def latency(self) -> float | None:
        """Seconds from sending a picture to its return."""
        return self._session.latency

    @property
    def dropped(self) -> int:
        """Frames that came back and were replaced by newer ones before anybody asked for them."""
        return self._session.dropped

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the session is not open: use it with `with`")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a KeyboardInterrupt in a notebook ends the wait, not the session
            raise


async def _finish(session: asynchronous_session.Session) -> None:
    await session.close()
    await asyncio.get_running_loop().shutdown_default_executor()
