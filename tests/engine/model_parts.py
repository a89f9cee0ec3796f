"""What a small cluster consists of, for the model check."""

from dataclasses import dataclass
from typing import Any

LEASE, GRACE, HALF = 10, 1_000_000, 6
P = "rtcbridge:{p}:"
FAULTS = ("crash", "freeze", "wipe", "lose", "reboot", "zombie", "drop", "move")


@dataclass(frozen=True)
class Size:
    """What there is, and how often each fault may happen."""

    sessions: int = 2
    nodes: int = 1
    capacity: int = 1
    crash: int = 0
    freeze: int = 0
    wipe: int = 0
    lose: int = 0
    reboot: int = 0
    zombie: int = 0
    drop: int = 0
    move: int = 0
    limit: int = 0

    @property
    def share(self) -> tuple[str, str]:
        """All sessions are of one project, if that has a limit."""
        return ("p" if self.limit else "", str(self.limit))


@dataclass
class Session:
    """`new`, `asking` (the answer was lost), `waiting`, `held`, `live`, `ending` (its release may be lost), `gone`.

    `epoch` and `at` are those of the node, as its replica was told: `at` is the replica with the node's socket.
    """

    state: str = "new"
    node: int = -1
    epoch: int = 0
    at: str = ""


@dataclass
class Node:
    """What really runs on it; `epoch` is that of its socket, `boot` counts these, `socket`: its replica, or -1."""

    epoch: int = 0
    boot: int = 0
    running: frozenset[int] = frozenset()
    socket: int = 0


@dataclass
class Replica:
    """`books`: node, socket ("" once that has gone) and epoch; `orphans`: those that it was told of.

    `missing`: sessions whose node the engine does not know yet, since it has lost its data.
    """

    alive: bool = True
    epoch: str = ""
    me: str = ""
    generation: int = 0
    books: tuple[tuple[int, str, int], ...] = ()
    orphans: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()

    def note(self, n: int, *book: Any) -> None:
        """Write down a node, or forget it."""
        rest = [each for each in self.books if each[0] != n]
        self.books = tuple(sorted([*rest, (n, *book)] if book else rest))
