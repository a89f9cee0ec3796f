"""Exactly once and in order, over sockets that drop: what one side has said and what it has heard.

Both sides count: the n-th message of the other side behind its `auth_success` or `CREDENTIAL` has the number n, which
travels with no message. Each keeps what it has sent until the other says, in an `ack` or when it resumes, how many it
has taken. On a new socket each tells the other that number, and what is behind it is sent again: it was lost with the
old socket. What came before it is never sent again, so nothing is taken twice.
"""

from msgspec import Struct, field

ACK_EVERY = 16
"""So many messages of the other side are taken between two `ack`s."""


class ReplayError(Exception):
    """What the other side says that it has taken cannot be followed. The text says why."""


class GapError(ReplayError):
    """What the other side has missed is not kept any more."""


class Mailbox(Struct):
    """One side's end. All of it is plain data, so that it can be moved to another process.

    Above `max_messages` or `max_bytes` the oldest of what is kept is let go: from then on, a side that has not taken it
    cannot resume. `sent` and `taken` are numbers of the last message of this side and of the other.
    """

    max_messages: int
    max_bytes: int
    sent: int = 0
    taken: int = 0
    size: int = 0  # bytes of what is kept
    kept: list[bytes] = field(default_factory=list)

    def put(self, message: bytes) -> None:
        """Number a message, to be sent now or after the next resume, and keep it."""
        self.sent += 1
        self.kept.append(message)
        self.size += len(message)
        while len(self.kept) > self.max_messages or self.size > self.max_bytes:
            self.size -= len(self.kept.pop(0))

    def take(self) -> bool:
        """Count a message of the other side; return whether it is time for an `ack`."""
        self.taken += 1
        return self.taken % ACK_EVERY == 0

    def acknowledge(self, received: int) -> None:
        """Let go of what the other side has taken. Raises ReplayError: it was not even sent."""
        if not 0 <= received <= self.sent:
            raise ReplayError(f"received: {received} is not a number from 0 to {self.sent}")
        count = len(self.kept) - (self.sent - received)
        if count > 0:
            self.size -= sum(map(len, self.kept[:count]))
            del self.kept[:count]

    def missed(self, received: int) -> list[bytes]:
        """Return what the other side has not taken, to be sent again.

        Raises:
            GapError: some of it is not kept any more.
            ReplayError: `received` is more than was sent.
        """
        self.acknowledge(received)
        if self.sent - received > len(self.kept):
            raise GapError(f"{self.sent - received} messages were missed, and {len(self.kept)} are kept")
        return list(self.kept)
