"""The entry: where the bridge is, and with which credential."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rtcbridge.client.errors import ClientError
from rtcbridge.client.peer import Ice
from rtcbridge.client.session import Session, SessionOptions
from rtcbridge.client.signaling import Address, Credential
from rtcbridge.client.sources import Given, source_of
from rtcbridge.media import EngineUnavailableError, IceServer, create_engine

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


class Client:
    """A bridge and a credential: makes sessions.

        client = Client("wss://bridge.example.org", "sk_…")
        async with client.connect("clip.mp4", params={"style": "cartoon"}) as session:
            async for frame in session:
                print(frame.time, frame.image.shape)

    Args:
        url: ws://, wss://, http:// or https://, with or without the path /client.
        key: a project's secret key (`sk_…`), a client's token, or a function, plain or asynchronous, that returns one.
        tls: for wss:// and https://; None for the system's trust.
        ice_servers: STUN and TURN servers, in place of those that the bridge names.
        relay_only: reach nodes through TURN servers alone.
        engine: the WebRTC library: `auto`, `wrtc` or `aiortc`.

    Raises:
        ValueError: `url` is not valid.
    """

    def __init__(
        self,
        url: str,
        key: Credential,
        *,
        tls: ssl.SSLContext | None = None,
        ice_servers: Sequence[IceServer] = (),
        relay_only: bool = False,
        engine: str = "auto",
    ) -> None:
        self.url = client_url(url)
        self._key = key
        self._tls = tls
        self._ice = Ice(tuple(ice_servers), "relay" if relay_only else "all")
        self._engine = engine

    def connect(
        self,
        source: Given,
        *,
        model: str | None = None,
        params: Mapping[str, Any] | None = None,
        wait: float | None = None,
        sync: bool | None = None,
        rejoin: bool = True,
        on_state: Callable[[Session], None] = lambda session: None,
        on_error: Callable[[ClientError], None] = lambda error: None,
    ) -> Session:
        """Make a session, to be entered with `async with`: that waits until media is up.

        Args:
            source: a file's name or an address, a camera's number, arrays or a generator of them, a function that
                returns one at each call, a container of PyAV, or a `Source`.
            model: the name of the model that the node must run; any, where it is left out.
            params: values of the model's parameters, in force before the first picture.
            wait: seconds to wait in the line of a pool that is full; None: as long as it takes; 0: not at all.
            sync: measure the latency before the first picture, about a second, so that each frame's `time` and
                `index` are those of the picture that it was made of. Left out: for all but live sources.
            rejoin: come back when the node is lost, or the socket or the connection breaks.
            on_state: called when the state, the place in line, or the model have changed.
            on_error: called with each error that does not end the session.

        Raises:
            ClientError: the source is none, or the WebRTC library is not installed.
        """
        made = source_of(source)
        try:
            engine = create_engine(self._engine)
        except EngineUnavailableError as error:
            raise ClientError("ice_failed", str(error), retryable=False) from None
        return Session(
            SessionOptions(
                address=Address(self.url, self._key, self._tls, rejoin),
                source=made,
                engine=engine,
                model=model,
                params=dict(params or {}),
                ice=self._ice,
                wait=wait,
                sync=not made.live if sync is None else sync,
                rejoin=rejoin,
                on_state=on_state,
                on_error=on_error,
            )
        )


def client_url(text: str) -> str:
    """The address of the bridge's /client. Raises ValueError with the reason."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"expected ws://HOST[:PORT] or wss://HOST[:PORT], not {text!r}")
    path = parts.path.rstrip("/")
    if not path.endswith("/client"):
        path += "/client"
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))
