"""The interface to what replicas share of sessions that the ledger may not have yet."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Journaled(Struct, frozen=True):
    """A session whose offer went to a node, and which has ended.

    `began` and `ended` are Unix seconds, by the engine's clock; `project`: "" if it is not known.
    """

    id: str
    node: str
    project: str
    began: float
    ended: float
    reason: str


class Journal(Protocol):
    """The sessions of a pool from their begin until the ledger has their end, whoever dies in between.

    `Store.begin` and `Store.hold` enter them; all by which a session loses what it has ends them: its release, the end
    of its node, or that nobody took it over in time. Every call raises EngineAwayError, and may be repeated.
    """

    async def served(self, node: str, sessions: Sequence[str]) -> None:
        """A node says that it serves these: those that have but a reservation there have begun.

        Those whose reservation went with a replica that died are in the journal from now on. Other ones are left alone.
        """
        ...

    async def journal(self, age: float = 1.0, limit: int = 1_000) -> Sequence[Journaled]:
        """Return sessions that began and have ended, `age` seconds ago or earlier, the oldest first.

        They are kept until they are confirmed, 200,000 of them. Behind a loss of the engine's data there are none
        before all had time to say what goes on. One that goes on after all, on another node, is not among them any
        more.
        """
        ...

    async def confirm(self, sessions: Sequence[str]) -> None:
        """The ledger has these sessions with their ends: the journal may forget them."""
        ...
