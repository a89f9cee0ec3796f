"""What is true, counted outside of the bridges in memory that all processes share.

A node counts by its own truth: its sessions at this moment, whatever a bridge, the engine or the store believes. Each
row has one writer, so that no lock is needed, and all survive the death of who wrote them.
"""

from collections import Counter
from enum import IntEnum
from mmap import mmap
from pathlib import Path
from typing import ClassVar

_WORDS = 64  # of eight bytes, in a row


class Of(IntEnum):
    """What is counted of one node (the first nine), of a process of nodes or of clients."""

    CAPACITY = 0
    NOW = 1  # sessions that it serves
    PEAK = 2  # the most that it ever served
    OFFERS = 3  # of new sessions
    OFFERED_OVER = 4  # those of them that came while it had no free slot
    ACCEPTED_OVER = 5  # those of them that it took all the same
    ENDS = 6
    UP = 7  # 1 while a bridge has registered it
    REFUSED = 8  # that it refused for a reason of its own
    ASKED = 16  # session_start, or an offer without it
    RESERVED = 17  # a slot was given
    LEFT = 18  # gone with a reservation, before any offer
    ANSWERED = 19
    FINISHED = 20  # came to the end that one of the two ends wanted
    CUT = 21  # the socket ended in a session that had got a slot and no answer yet
    LIVE_CUT = 22  # … that had its answer
    TURNED_AWAY = 27  # … that had been given nothing
    LOST = 23  # "The node was lost."
    ERRORS = 24  # any other
    STUCK = 25  # no word for as long as any outage may take
    REFUSED_DIAL = 26
    TO_NODE = 32  # candidates that were sent, or have come, towards nodes
    TO_CLIENT = 33  # the same towards clients
    GAPS = 34  # a number was left out
    TWICE = 35  # a number came again, or a smaller one
    FOREIGN = 36  # what belongs to another session


class Oracle:
    """The rows of a file. One row is that of the whole run: `phase` tells clients to go on, or to come to their end."""

    RUNNING, QUIET = 0, 1
    SHARED: ClassVar[int] = 0

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("q")

    @classmethod
    def make(cls, path: Path, rows: int) -> "Oracle":
        """Make the file, for so many rows beside that of the run."""
        path.write_bytes(bytes((rows + 1) * _WORDS * 8))
        return cls(path)

    def row(self, number: int) -> memoryview:
        """A row, from 1; a word of it is counted up in place."""
        return self._words[number * _WORDS : (number + 1) * _WORDS]

    @property
    def phase(self) -> int:
        return self._words[self.SHARED]

    @phase.setter
    def phase(self, value: int) -> None:
        self._words[self.SHARED] = value

    def total(self, rows: range) -> Counter[Of]:
        """The sum of rows, by what is counted."""
        return Counter({each: sum(self.row(row)[each] for row in rows) for each in Of})
