"""The model's parameters and figures, over the data channel `control` (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from rtcbridge.client.errors import ClientError

if TYPE_CHECKING:
    from rtcbridge.media.port import DataChannel

LABEL = "control"
_MAX_MESSAGE = 16 * 1024  # bytes
_UPDATE_TIMEOUT = 15.0  # seconds for an acknowledgement, also over a connection that comes back meanwhile


@dataclass(frozen=True, slots=True)
class Model:
    """What a model says of itself: `params` are the declarations of its parameters, as on the wire."""

    name: str
    title: str
    params: tuple[Mapping[str, Any], ...] = ()


@dataclass(slots=True)
class _Request:
    params: dict[str, Any]
    done: asyncio.Future[dict[str, Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Control:
    """The client's end. It outlives a channel: what was not acknowledged is asked for again on the next one.

    Args:
        params: the first values; a new node gets these first, with all that was acknowledged since.
        on_model: told of the model, whenever a node has said what it is.
        on_error: told of an error that answers nothing, such as one of the model.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        on_model: Callable[[Model], None],
        on_error: Callable[[ClientError], None],
    ) -> None:
        self.model: Model | None = None
        self.values: dict[str, Any] = {}
        self.stats: dict[str, float] = {}
        self._base = dict(params)
        self._requests: dict[int, _Request] = {}
        self._channel: DataChannel | None = None
        self._on_model = on_model
        self._on_error = on_error
        self._number = 0
        self._ready = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the node has said what its model is and has the first parameters. Raises ClientError: refused."""
        await self._ready.wait()
        first = self._requests.get(0)
        if first is not None:
            await asyncio.shield(first.done)

    async def update(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Change parameters; return all values then in force. Raises ClientError."""
        request = _Request(dict(params))
        self._number += 1
        number = self._number
        if len(_frame(number, request.params)) > _MAX_MESSAGE:
            raise ClientError("rejected", "The parameters are longer than 16 KiB.")
        self._requests[number] = request
        self._send(number)
        try:
            async with asyncio.timeout(_UPDATE_TIMEOUT):
                return await request.done
        except TimeoutError:
            raise ClientError("timeout", "The node has not acknowledged the parameters.") from None
        finally:
            self._requests.pop(number, None)

    def open(self, channel: DataChannel) -> None:
        """Use a channel from now on."""
        self._channel = channel
        waiting = [number for number in self._requests if number != 0]
        if self._base:
            self._requests[0] = _Request(dict(self._base))
            self._send(0)
        for number in waiting:
            self._send(number)

    def detach(self) -> None:
        """Stop using the channel; what is not acknowledged waits for the next."""
        self._channel = None
        self._ready.clear()

    def close(self, error: ClientError) -> None:
        """Fail what is not acknowledged."""
        self.detach()
        for request in self._requests.values():
            if not request.done.done():
                request.done.set_exception(error)
                request.done.exception()  # seen: nobody may be waiting

    def receive(self, data: str | bytes) -> None:
        """Take a message of the node."""
        try:
            message = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError):
            return
        if not isinstance(message, dict):
            return
        match message.get("type"):
            case "model":
                self.values = dict(message.get("values", {}))
                self.model = Model(message["name"], message.get("title", ""), tuple(message.get("params", ())))
                self._ready.set()
                self._on_model(self.model)
            case "stats":
                self.stats = {name: value for name, value in message.items() if name != "type"}
            case "updated":
                self._updated(message)
            case "error":
                self._failed(message)

    def _updated(self, message: dict[str, Any]) -> None:
        self.values = dict(message.get("values", {}))
        request = self._requests.get(message.get("id", -1))
        if request is not None and not request.done.done():
            self._base |= request.params
            request.done.set_result(self.values)

    def _failed(self, message: dict[str, Any]) -> None:
        number, text = message.get("id", -1), str(message.get("message", ""))
        request = self._requests.get(number)
        if request is not None and not request.done.done():
            request.done.set_exception(ClientError("rejected", text))
            request.done.exception()
        if request is None:
            self._on_error(ClientError("model_error", text))

    def _send(self, number: int) -> None:
        if self._channel is not None:
            self._channel.send(_frame(number, self._requests[number].params).decode())


def _frame(number: int, params: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "update", "id": number, "params": params})
