"""A node's socket at a replica of several: it is never sent more sessions than the node has slots."""

import asyncio

from rtcbridge.core import messages
from rtcbridge.gateway.shared.slots import PATIENCE, SlotLink
from rtcbridge.gateway.timers import TimerWheel

A, B, C = "a" * 32, "b" * 32, "c" * 32


class Wire:
    """Stands for the node's socket."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.some = asyncio.Event()

    def send(self, *parts: bytes) -> None:
        self.sent.append(b"".join(parts))
        self.some.set()

    def send_between(self, head: bytes, body: bytes, tail: bytes) -> None:
        self.send(head, body, tail)


def make(slots: int, *serving: str) -> tuple[SlotLink, Wire]:
    wheel = TimerWheel(asyncio.get_running_loop())
    link, wire = SlotLink("pool", "node", 1 << 20, slots, serving, wheel, lambda session: None), Wire()
    link.socket = wire  # type: ignore[assignment]
    return link, wire


def offer(session: str) -> bytes:
    return messages.node_offer(session, b'"sdp"')


def candidate(session: str, text: bytes = b"{}") -> tuple[bytes, bytes, bytes]:
    return messages.node_candidate_prefix(session), text, b"}"


def end(session: str) -> bytes:
    return messages.encode(messages.SessionEnd(session, "client left"))


async def test_an_offer_waits_for_the_end_of_the_session_before() -> None:
    link, wire = make(1, A)
    link.send(offer(B))
    link.send_between(*candidate(B))
    link.send_between(*candidate(A))
    assert wire.sent == [b"".join(candidate(A))]
    link.send(end(A))
    assert wire.sent[1:] == [end(A), offer(B), b"".join(candidate(B))]
    link.send_between(*candidate(B, b"null"))
    assert wire.sent[4:] == [b"".join(candidate(B, b"null"))]


async def test_an_offer_waits_for_the_nodes_word_too() -> None:
    link, wire = make(1)
    for session in (A, B, C):
        link.send(offer(session))
    link.ended(A)
    link.ended(A)  # said twice, it frees one slot
    assert wire.sent == [offer(A), offer(B)]


async def test_an_offer_that_is_taken_back_never_goes_out() -> None:
    link, wire = make(1, A)
    link.send(offer(B))
    link.send(end(B))
    link.send(end(A))
    assert wire.sent == [end(A)]
    assert not link.serving


async def test_a_second_offer_of_a_session_needs_no_slot() -> None:
    link, wire = make(1, A)
    link.send(offer(A))
    link.send(offer(B))
    link.send(offer(B))
    link.send(end(A))
    assert wire.sent == [offer(A), end(A), offer(B), offer(B)]


async def test_the_node_has_the_last_word_in_the_end() -> None:
    link, wire = make(1, A)
    link.send(offer(B))
    assert not wire.sent
    async with asyncio.timeout(20 * PATIENCE):
        await wire.some.wait()
    assert wire.sent == [offer(B)]
