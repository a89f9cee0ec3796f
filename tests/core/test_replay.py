"""Exactly once and in order: a mailbox by itself, and two of them over a link that is cut at any byte."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtcbridge.core.replay import ACK_EVERY, GapError, Mailbox, ReplayError


def filled(count: int, max_messages: int = 100, max_bytes: int = 1000) -> Mailbox:
    box = Mailbox(max_messages, max_bytes)
    for number in range(1, count + 1):
        box.put(b"%d" % number)
    return box


def test_what_was_not_taken_is_kept() -> None:
    box = filled(5)
    assert box.missed(3) == [b"4", b"5"]
    assert box.missed(5) == []
    assert box.size == 0


def test_an_acknowledgement_of_old_changes_nothing() -> None:
    box = filled(5)
    box.acknowledge(4)
    box.acknowledge(2)
    assert box.kept == [b"5"]


@pytest.mark.parametrize("received", [-1, 6])
def test_what_was_not_sent_cannot_be_acknowledged(received: int) -> None:
    box = filled(5)
    with pytest.raises(ReplayError, match="from 0 to 5"):
        box.acknowledge(received)
    assert len(box.kept) == 5


@pytest.mark.parametrize("box", [filled(5, max_messages=2), filled(5, max_bytes=2)])
def test_above_a_bound_the_oldest_go_and_who_needs_them_cannot_resume(box: Mailbox) -> None:
    assert (box.kept, box.size) == ([b"4", b"5"], 2)
    with pytest.raises(GapError):
        box.missed(2)
    assert box.missed(3) == [b"4", b"5"]


def test_a_message_above_the_bound_is_sent_and_not_kept() -> None:
    box = Mailbox(10, 4)
    box.put(b"too long")
    assert (box.sent, box.kept, box.size) == (1, [], 0)


def test_it_is_time_for_an_acknowledgement_now_and_then() -> None:
    box = filled(0)
    assert [box.take() for _ in range(2 * ACK_EVERY)].count(True) == 2


def test_a_mailbox_can_go_on_in_another_process() -> None:
    box = filled(5)
    box.take()
    box.acknowledge(2)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(box), type=Mailbox) == box


class Link(RuleBasedStateMachine):
    """Two ends with sockets between them that break. Bytes are on their way, each message one line."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = [Mailbox(10_000, 1_000_000), Mailbox(10_000, 1_000_000)]
        self.taken: list[list[bytes]] = [[], []]
        self.wires = [b"", b""]  # towards each end
        self.up = True
        self.said = [0, 0]

    @rule(end=st.sampled_from([0, 1]), length=st.integers(0, 5))
    def say(self, end: int, length: int) -> None:
        """An end sends a message; without a socket it is only kept."""
        self.said[end] += 1
        message = b"%d" % self.said[end] + b"x" * length
        self.boxes[end].put(message)
        if self.up:
            self.wires[1 - end] += message + b"\n"

    @rule(end=st.sampled_from([0, 1]), size=st.integers(1, 40))
    def arrive(self, end: int, size: int) -> None:
        """The next bytes come to an end: whole lines are taken."""
        self._arrive(end, size)

    def _arrive(self, end: int, size: int) -> None:
        while b"\n" in self.wires[end][:size]:
            message, _, self.wires[end] = self.wires[end].partition(b"\n")
            size -= len(message) + 1
            if message.startswith(b"ack "):
                self.boxes[end].acknowledge(int(message[4:]))
                continue
            self.taken[end].append(message)
            if self.boxes[end].take() and self.up:
                self.wires[1 - end] += b"ack %d\n" % self.boxes[end].taken

    @rule(bytes_before=st.tuples(st.integers(0, 60), st.integers(0, 60)))
    def cut(self, bytes_before: tuple[int, int]) -> None:
        """The socket breaks: of what was on its way each end still gets so many bytes."""
        self.up = False
        for end, size in enumerate(bytes_before):
            self._arrive(end, size)
        self.wires = [b"", b""]

    @rule()
    def resume(self) -> None:
        """Each end says how many it has taken, on a new socket, and the other sends the rest."""
        self.up = True
        counts = [box.taken for box in self.boxes]
        self.wires = [
            b"".join(message + b"\n" for message in self.boxes[1 - end].missed(counts[end])) for end in (0, 1)
        ]

    @invariant()
    def once_and_in_order(self) -> None:
        for end in (0, 1):
            numbers = [int(message.rstrip(b"x")) for message in self.taken[end]]
            assert numbers == list(range(1, len(numbers) + 1))
            box = self.boxes[end]
            assert box.size == sum(map(len, box.kept))

    def teardown(self) -> None:
        """At last everything has come."""
        self.resume()
        for _ in range(3):
            for end in (0, 1):
                self._arrive(end, 1 << 20)
        assert [len(taken) for taken in self.taken] == [self.said[1], self.said[0]]


TestLink = Link.TestCase
TestLink.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
