"""The control channel: what a client says to the model of its session, and what it is told (JSON text).

A message that is not understood is answered with an error and changes nothing; nothing closes the channel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from rtcbridge.node.params import ParamError, Params, update

if TYPE_CHECKING:
    from rtcbridge.media.port import DataChannel
    from rtcbridge.node.model import ModelSpec

log = structlog.get_logger()

LABEL = "control"
"""Label of the data channel that the client creates."""

_MAX_MESSAGE = 16 * 1024  # bytes
_MAX_BUFFERED = 256 * 1024  # bytes; a client that reads no slower than this misses messages
_MAX_ID = 2**53
_ERROR_EVERY = 1.0  # seconds between two errors of the model that a client is told
_MAX_ERRORS = 50  # distinct errors of the model that a client is told of in one session


class Control:
    """The node's end of one session's control channel.

    Args:
        spec: the model.
        get: returns the values in force.
        put: puts values in force.
    """

    def __init__(self, spec: ModelSpec, get: Callable[[], Params], put: Callable[[Params], None]) -> None:
        self._spec = spec
        self._get = get
        self._put = put
        self._channel: DataChannel | None = None
        self._told: set[str] = set()
        self._last_error = -_ERROR_EVERY

    def open(self, channel: DataChannel) -> None:
        """Take the channel that the client opened and say what the model is. A newer one replaces it."""
        self._channel = channel
        self._told.clear()
        self._send({"type": "model", **self._spec.describe(), "values": dict(self._get())})

    def closed(self, channel: DataChannel) -> None:
        """The channel is gone."""
        if self._channel is channel:
            self._channel = None

    def receive(self, channel: DataChannel, data: str | bytes) -> None:
        """Answer one message."""
        if self._channel is not channel:
            return
        size = len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "replace"))
        if size > _MAX_MESSAGE:
            self._error(f"the message is over {_MAX_MESSAGE} bytes")
            return
        try:
            message = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self._error("the message is not JSON")
            return
        if not isinstance(message, dict):
            self._error("the message is not an object")
            return
        self._dispatch(message)

    def _dispatch(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if number is not None and not _is_id(number):
            self._error("id: expected a number or a short text")
            return
        match message.get("type"):
            case "update":
                self._update(message.get("params"), number)
            case "ping":
                self._reply({"type": "pong"}, number)
            case unknown:
                self._error(f"type: expected update or ping, not {str(unknown)[:50]!r}", number)

    def change(self, changes: Any) -> Params:
        """Put changed values in force, all or none, and return all that are. Raises ParamError."""
        values = update(self._spec.params, self._get(), changes)
        self._put(values)
        return values

    def _update(self, changes: Any, number: int | str | None) -> None:
        try:
            values = self.change(changes)
        except ParamError as error:
            self._error(str(error), number)
            return
        self._reply({"type": "updated", "values": dict(values)}, number)

    def stats(self, fps_in: float, fps_out: float, model_ms: float, dropped: int) -> None:
        """Tell the client how it goes: frames a second, mean time of the model, frames dropped so far."""
        rounded = {"fps_in": round(fps_in, 1), "fps_out": round(fps_out, 1), "model_ms": round(model_ms, 1)}
        self._send({"type": "stats", **rounded, "dropped": dropped})

    def model_failed(self, error: str) -> None:
        """Tell the client of an error of the model: each distinct one once, and at most one a second."""
        now = time.monotonic()
        if error in self._told or len(self._told) >= _MAX_ERRORS or now - self._last_error < _ERROR_EVERY:
            return
        self._last_error = now
        if self._channel is not None:
            self._told.add(error)
            self._error(error)

    def _error(self, text: str, number: int | str | None = None) -> None:
        self._reply({"type": "error", "message": text}, number)

    def _reply(self, message: dict[str, Any], number: int | str | None) -> None:
        self._send(message if number is None else message | {"id": number})

    def _send(self, message: dict[str, Any]) -> None:
        if self._channel is None or self._channel.buffered_amount > _MAX_BUFFERED:
            return
        self._channel.send(msgspec.json.encode(message).decode())


def _is_id(value: object) -> bool:
    """Whether a message may be numbered so; it is repeated in the reply."""
    if isinstance(value, str):
        return len(value) <= 100
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_ID
