"""The bridge's own sockets without a network: what it sends lies in `got`, what it is sent goes straight in."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.clients import ClientSocket
from rtcbridge.gateway.links import Socket
from rtcbridge.gateway.nodes import NodeSocket
from rtcbridge.gateway.reconciler import Reconciler
from rtcbridge.gateway.websocket import End, Limits

Post = Callable[[Callable[[], None]], object]
_LIMITS = Limits()


class _InMemory(Socket):
    """In place of frames and transport only; all else is the real class.

    Attributes:
        got: What the bridge sent and nobody has read.
        code: The code with which the bridge closed it; 0 while it has not.
        is_up: Whether both sides can send.
    """

    __slots__ = ()
    got: deque[bytes]
    post: Post
    code: int
    is_up: bool

    def up(self, post: Post) -> None:
        """The handshake is done. `post` makes a call from the loop, soon."""
        self.got, self.post, self.code, self.is_up = deque(), post, 0, True

    def expect(self, seconds: float) -> None:
        """Deadlines of the first message have tests of their own."""

    @property
    def is_open(self) -> bool:
        return self.is_up

    def send(self, *parts: bytes) -> None:
        if self.is_up:
            self.got.append(b"".join(parts))

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        self.send(head, body, tail)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self.is_up:
            self.is_up, self.code = False, code
            self.post(lambda: self.ended(End(code, "us", reason)))

    # --- the other end ---

    def say(self, message: Mapping[str, Any]) -> None:
        """A message arrives from the peer."""
        if self.is_up:
            self.received(json.dumps(message).encode())

    def quit(self, goodbye: bool) -> None:
        """The peer ends it, with a Close frame or without."""
        if self.is_up:
            self.is_up = False
            self.ended(End(1000, "peer") if goodbye else End(1006, "lost"))

    def read(self) -> list[dict[str, Any]]:
        """Take what was sent. What lay there unread when the peer quit is lost."""
        messages = [json.loads(frame) for frame in self.got]
        self.got.clear()
        return messages


class ClientWire(_InMemory, ClientSocket):
    """The bridge's end of a client's connection."""

    __slots__ = ("code", "got", "is_up", "post")

    def __init__(self, bridge: Bridge, post: Post) -> None:
        ClientSocket.__init__(self, bridge, _LIMITS)
        self.up(post)


class NodeWire(_InMemory, NodeSocket):
    """The bridge's end of a node's connection."""

    __slots__ = ("code", "got", "is_up", "post")

    def __init__(self, bridge: Bridge, reconciler: Reconciler, post: Post) -> None:
        NodeSocket.__init__(self, bridge, reconciler, _LIMITS)
        self.up(post)
