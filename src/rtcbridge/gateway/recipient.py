"""Whom a session speaks to, as the bridge sees it."""

from typing import TYPE_CHECKING, Protocol

from rtcbridge.core.errors import Error
from rtcbridge.core.messages import NodeUpdated, Status, UpdateId

if TYPE_CHECKING:
    from rtcbridge.gateway.bridge import Entry


class Client(Protocol):
    """Whom a session speaks to: a socket, or what stays of a client of the extension between two sockets."""

    entry: "Entry | None"  # its session, or the last one that it had

    @property
    def away(self) -> bool:
        """Whether it has no socket now, and may come back."""

    def send(self, *parts: bytes) -> None:
        """Send one message, the parts joined."""

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        """`send` of three parts, for what is relayed."""

    def inform(self, status: Status) -> None:
        """Say where its session stands."""

    def refuse(self, error: Error, text: str = "", id: UpdateId | None = None) -> None:
        """Say that something cannot be, in other words than the error's own if there are any; `id`: of an update."""

    def over(self, reason: str) -> None:
        """Say that its session has ended, if it is one that is told."""

    def updated(self, message: NodeUpdated) -> None:
        """Pass on what the node says to an update."""

    def new_id(self, now: float) -> str:
        """The id of its next session; `now` in Unix seconds."""
