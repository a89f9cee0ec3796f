"""A client whose socket is gone for a while: its place in line, its slot, and how it goes on when it is back."""

from typing import Any

import pytest

from core.tiny import Limits, Peer, TinyBridge
from rtcbridge.core.node import NodeEvent
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import PoolSpec, SessionSpec

SPEC = SessionSpec(claim_timeout=30, resume_grace=60)
LIMITS = Limits(heartbeat=1000, auth_timeout=1e9)
OFFER = {"type": "offer", "sdp": "o"}


class Scene:
    """A static pool with a node of one slot, and clients."""

    def __init__(self, spec: SessionSpec = SPEC, slots: int = 1) -> None:
        self.bridge = TinyBridge([PoolSpec(name="p", elastic=False)], {"key": "p"}, {"nk": "p"}, spec, LIMITS)
        self.node = self.bridge.connect(is_node=True)
        payload = {"credential": "nk", "node": "n", "pool": "p", "capacity": slots}
        self.bridge.send(self.node, {"type": "REGISTER", "payload": payload})
        self.node.take()

    def socket(self) -> Peer:
        peer = self.bridge.connect(is_node=False)
        self.bridge.send(peer, {"type": "CREDENTIAL", "payload": {"credential": "key"}})
        peer.take()
        return peer

    def client(self, *messages: dict[str, Any]) -> Peer:
        peer = self.socket()
        for message in ({"type": "session_start"}, *messages):
            self.bridge.send(peer, message)
        return peer

    def away(self, peer: Peer) -> Session:
        session = peer.session
        assert session is not None
        self.bridge.lose_for_a_while(peer)
        return session

    def back(self, session: Session) -> Peer:
        peer = self.socket()
        self.bridge.come_back(session, peer)
        return peer

    @property
    def line(self) -> list[str]:
        return list(self.bridge.pools["p"].line)


def said(peer: Peer) -> list[str]:
    return [str(message.get("status", message.get("message", message["type"]))) for message in peer.take()]


def test_the_place_is_kept_and_told_again() -> None:
    scene = Scene()
    holder, second, third = scene.client(), scene.client(), scene.client()
    session = scene.away(second)
    assert session.state is State.AWAY
    assert scene.line == [session.id, third.session.id if third.session else ""]
    scene.bridge.advance(5)
    again = scene.back(session)
    assert said(again) == ["full"]
    scene.bridge.quit(holder)
    assert said(again) == ["waiting"]
    assert said(third) == ["full"]


def test_away_for_a_short_time_it_gets_its_slot_and_has_it_when_it_is_back() -> None:
    scene = Scene()
    holder, second, third = scene.client(), scene.client(), scene.client()
    session = scene.away(second)
    scene.bridge.quit(holder)
    assert said(third) == ["full"]
    again = scene.back(session)
    assert said(again) == ["waiting"]
    scene.bridge.send(again, OFFER)
    assert session.state is State.OFFERED


def test_its_slot_is_kept_for_the_claims_time_and_then_it_is_passed_by() -> None:
    scene = Scene()
    first, second, third = scene.client(), scene.client(), scene.client()
    session = scene.away(first)
    scene.bridge.advance(29.9)
    assert said(second) == ["full"]
    scene.bridge.advance(0.2)
    assert session.state is State.SUSPENDED
    assert said(second) == ["waiting"]
    assert scene.line[0] == session.id  # before all others, when it is back
    scene.bridge.quit(second)
    assert said(third) == ["full", "waiting"]
    again = scene.back(session)
    assert said(again) == ["full"]
    scene.bridge.quit(third)
    assert said(again) == ["waiting"]


def test_nobody_waits_beside_a_free_slot_for_one_that_is_away() -> None:
    scene = Scene()
    holder, second, third = scene.client(), scene.client(), scene.client()
    scene.bridge.send(holder, OFFER)  # so that its reservation does not run out
    session = scene.away(second)
    scene.bridge.advance(31)
    scene.bridge.quit(holder)
    assert said(third)[-1] == "waiting"
    assert scene.line == [session.id]


def test_the_grace_ends_it() -> None:
    scene = Scene()
    scene.client()
    session = scene.away(scene.client())
    scene.bridge.advance(59.9)
    assert session.id in scene.bridge.sessions
    scene.bridge.advance(0.2)
    assert session.state is State.ENDED
    assert session.id not in scene.bridge.sessions
    assert session.id not in scene.line


def test_a_grace_shorter_than_the_claims_time() -> None:
    scene = Scene(SessionSpec(claim_timeout=30, resume_grace=10))
    session, other = scene.away(scene.client()), scene.client()
    scene.bridge.advance(10.1)
    assert session.state is State.ENDED
    assert said(other)[-1] == "waiting"


def test_the_grace_counts_from_the_last_time_that_it_went() -> None:
    scene = Scene()
    scene.client()
    session = scene.away(scene.client())
    scene.bridge.advance(50)
    session = scene.away(scene.back(session))
    scene.bridge.advance(50)
    assert session.state is State.SUSPENDED


@pytest.mark.parametrize("seconds", [5, 40])
def test_an_offer_that_is_held_is_forwarded_when_it_is_back(seconds: float) -> None:
    bridge = TinyBridge([PoolSpec(name="p", max_nodes=1)], {"key": "p"}, {}, SPEC, LIMITS)
    peer = bridge.connect(is_node=False)
    bridge.send(peer, {"type": "CREDENTIAL", "payload": {"credential": "key"}})
    for message in ({"type": "session_start"}, OFFER, {"type": "candidate", "candidate": {"candidate": "c"}}):
        bridge.send(peer, message)
    assert said(peer) == ["auth_success", "pending", "server_provisioning"]
    session = peer.session
    assert session is not None
    bridge.lose_for_a_while(peer)
    bridge.advance(seconds)
    (operation,) = bridge.operations
    node = bridge.connect(is_node=True)
    payload = {"credential": f"token-{operation.node.id}", "node": operation.node.id, "pool": "p"}
    bridge.send(node, {"type": "REGISTER", "payload": payload})
    assert [message["type"] for message in node.take()] == ["registered"]  # nothing while its client is away
    again = bridge.connect(is_node=False)
    bridge.come_back(session, again)
    assert said(again) == ["waiting"]
    assert [message["type"] for message in node.take()] == ["offer", "candidate"]


def test_a_node_that_is_lost_while_its_client_is_away_costs_no_place() -> None:
    scene = Scene()
    first, second = scene.client(), scene.client()
    session = scene.away(first)
    scene.bridge.tell(scene.bridge.nodes["n"], NodeEvent.SILENT)
    scene.bridge.settle()
    assert session.state is State.AWAY
    assert scene.line == [session.id, second.session.id if second.session else ""]
    assert said(scene.back(session)) == ["full"]


def test_what_is_set_up_while_its_client_is_away_is_there_when_it_is_back() -> None:
    scene = Scene()
    client = scene.client(OFFER)
    (offer,) = scene.node.take()
    session = scene.away(client)
    assert session.state is State.OFFERED
    for message in ({"type": "answer", "sdp": "a"}, {"type": "session_state", "state": "connected"}):
        scene.bridge.send(scene.node, {**message, "session": offer["session"]})
    assert session.state is State.DETACHED
    scene.bridge.advance(50)
    scene.bridge.send(scene.node, {"type": "heartbeat", "connected": [session.id]})
    scene.bridge.advance(50)  # longer than the grace, but media is up
    scene.back(session)
    assert session.state is State.LIVE


def test_a_set_up_that_nobody_comes_back_for_ends() -> None:
    bridge = TinyBridge([PoolSpec(name="p", max_nodes=1)], {"key": "p"}, {}, SPEC, LIMITS)
    peer = bridge.connect(is_node=False)
    bridge.send(peer, {"type": "CREDENTIAL", "payload": {"credential": "key"}})
    bridge.send(peer, OFFER)  # held, without a place that is kept
    session = peer.session
    assert session is not None
    assert session.state is State.CLAIMING
    bridge.lose_for_a_while(peer)
    bridge.advance(59.9)
    assert session.state is State.CLAIMING
    bridge.advance(0.2)
    assert session.state is State.ENDED
    assert session.id not in bridge.pools["p"].line


def test_a_set_up_whose_client_is_back_in_time_goes_on() -> None:
    bridge = TinyBridge([PoolSpec(name="p", max_nodes=1)], {"key": "p"}, {}, SPEC, LIMITS)
    peer = bridge.connect(is_node=False)
    bridge.send(peer, {"type": "CREDENTIAL", "payload": {"credential": "key"}})
    bridge.send(peer, OFFER)
    session = peer.session
    assert session is not None
    bridge.lose_for_a_while(peer)
    bridge.advance(30)
    bridge.come_back(session, bridge.connect(is_node=False))
    bridge.advance(120)
    assert session.state is State.CLAIMING


def test_a_live_session_is_taken_up_again() -> None:
    scene = Scene()
    client = scene.client(OFFER)
    (offer,) = scene.node.take()
    for message in ({"type": "answer", "sdp": "a"}, {"type": "session_state", "state": "connected"}):
        scene.bridge.send(scene.node, {**message, "session": offer["session"]})
    session = scene.away(client)
    assert session.state is State.DETACHED
    again = scene.back(session)
    assert session.state is State.LIVE
    scene.bridge.send(scene.node, {"type": "candidate", "session": session.id, "candidate": {"candidate": "c"}})
    assert said(again) == ["candidate"]
