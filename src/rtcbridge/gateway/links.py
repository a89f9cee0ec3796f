"""The way to a node: its socket while it is there, and what is held for it while it is not."""

from typing import Any, Protocol

from rtcbridge.core.errors import CloseCode
from rtcbridge.gateway.websocket import WebSocket


class Socket(WebSocket):
    """A connection that has shown a credential. `key` is the id of the key; empty for a node's own token."""

    __slots__ = ("key",)

    key: str


class Way(Protocol):
    """Takes a session's messages to its node, in order."""

    def send(self, *parts: bytes) -> object:
        """Send one message, the parts joined."""
        ...

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> object:
        """`send` of three parts, for what is relayed."""
        ...


class Link:
    """What is sent to a node goes out on its newest socket, or is held, in order, until it returns.

    Args:
        node: The node's id.
        max_held: Bytes that are held at most; above it `overflown` is set and the node is to be given up.

    Attributes:
        epoch: Of the node's socket, where several bridges share the pool.
        updates: Whether the node takes updates over its socket; the same.
        load: From 0 to 1, by the node's last heartbeat.
        stats: Whatever else that heartbeat said.
    """

    __slots__ = ("_held", "_size", "epoch", "load", "max_held", "node", "overflown", "socket", "stats", "updates")

    def __init__(self, node: str, max_held: int) -> None:
        self.node = node
        self.max_held = max_held
        self.socket: Socket | None = None
        self.overflown = False
        self.epoch = 0
        self.updates = True
        self.load: float | None = None
        self.stats: dict[str, Any] | None = None
        self._held: list[bytes] = []
        self._size = 0

    def send(self, *parts: bytes) -> None:
        """Send one message, the parts joined, now or when the node is back."""
        if self.socket is not None:
            self.socket.send(*parts)
            return
        message = b"".join(parts)
        self._size += len(message)
        if self._size > self.max_held:
            self.overflown = True
            self._held.clear()
        elif not self.overflown:
            self._held.append(message)

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """`send` of three parts, for what is relayed."""
        if self.socket is not None:
            self.socket.send_between(head, body, tail)
        else:
            self.send(head, body, tail)

    def attach(self, socket: Socket) -> None:
        """Let a newer socket replace the older, if there is one."""
        self.cut(CloseCode.POLICY, "replaced by a newer connection")
        self.socket = socket

    def flush(self) -> None:
        """Send what was held."""
        held, self._held, self._size, self.overflown = self._held, [], 0, False
        for message in held:
            self.send(message)

    def forget(self) -> None:
        """Drop what was held."""
        self._held, self._size, self.overflown = [], 0, False

    def detach(self, socket: WebSocket) -> bool:
        """A socket has ended; return whether it was the present one."""
        if self.socket is not socket:
            return False
        self.socket = None
        return True

    def cut(self, code: CloseCode, reason: str) -> None:
        """Close the present socket, if there is one."""
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.close(code, reason)
