"""One attempt of a session: a socket to the bridge, a media connection to a node, and what they say, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtcbridge.client.errors import ClientError, from_message
from rtcbridge.client.peer import Ice, Peer
from rtcbridge.client.signaling import Address, Message, Signaling
from rtcbridge.client.states import Place, State
from rtcbridge.media.port import EngineError, IcePolicy, IceServer

if TYPE_CHECKING:
    from rtcbridge.client.session import Session
    from rtcbridge.media.port import I420, ConnectionState, DataChannel, Engine

_AUTH_TIMEOUT = 10.0  # seconds for the credential to be accepted
_ANSWER_TIMEOUT = 25.0  # seconds for the answer once a node waits; the bridge gives two nodes 10 s each
_MEDIA_TIMEOUT = 30.0  # seconds for media, once the answer is there
_FAREWELL = 1.0  # seconds for the bridge to say why, once the node has closed the connection
_ENDING = frozenset({"start_failed", "no_answer", "node_refused", "no_media", "session_too_long", "session_ended"})


class Link:
    """Its callbacks only decide what is next; whatever ends the attempt ends `run`, with a ClientError.

    Args:
        address: the bridge.
        engine: makes the media connection.
        ice: what to gather candidates with, if the bridge names nothing.
        wait: seconds to wait in the line of a pool that is full; None: as long as it takes.
        session: who is told.
    """

    def __init__(
        self,
        address: Address,
        engine: Engine,
        ice: Ice,
        wait: float | None,
        session: Session,
    ) -> None:
        self.live_since = 0.0
        self._address = address
        self._engine = engine
        self._own_ice = ice
        self._ice: Ice | None = None  # known once the bridge has had the chance to name servers
        self._wait = wait
        self._session = session
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._signaling: Signaling | None = None
        self._peer: Peer | None = None
        self._old: list[Peer] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._wait_timer: asyncio.TimerHandle | None = None
        self._flowing: asyncio.Task[None] | None = None
        self._policy = "all"
        self._status = ""
        self._offer = ""  # the newest, "" until it is made
        self._opened = False  # the first socket
        self._offered = False
        self._refused = False  # the offer, since no slot is free
        self._answered = False
        self._away = False  # the socket dropped, and is being replaced
        self._lost: ClientError | None = None  # the socket is gone for good, while media goes on
        self._restarting = False
        self._leaving = False

    async def run(self) -> None:
        """Go on until something breaks. Raises ClientError."""
        self._advance(State.CONNECTING)
        if self._engine.gathers_late:
            self._join()
        self._signaling = Signaling(self._address, self)
        await self._over

    async def close(self) -> None:
        """End the socket and the connection."""
        for timer in (self._deadline, self._wait_timer):
            if timer is not None:
                timer.cancel()
        if self._flowing is not None:
            self._flowing.cancel()
            await asyncio.gather(self._flowing, return_exceptions=True)
        if self._signaling is not None:
            await self._signaling.close()
        for peer in [*self._old, self._peer]:
            if peer is not None:
                await peer.close()
        if not self._over.done():
            self._over.cancel()

    def send_picture(self, picture: I420) -> None:
        """Send a picture over the present connection."""
        if self._peer is not None:
            self._peer.send(picture)

    def _fail(self, error: ClientError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    def _within(self, seconds: float, error: ClientError) -> None:
        """One deadline at a time: that of the step that we are in."""
        self._no_deadline()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._fail, error)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _advance(self, state: State, place: Place | None = None) -> None:
        self._session.on_progress(state, place)

    # --- offers ---

    def _join(self) -> None:
        """A new media connection, whose offer is sent as soon as both it and the socket are there."""
        self._offer, self._offered, self._refused, self._answered = "", False, False, False
        self._restarting = self._leaving = False
        try:
            self._peer = Peer(self._engine, self._ice, self)
        except EngineError as error:
            self._fail(ClientError("ice_failed", str(error), retryable=False))

    def _leave(self) -> None:
        if self._peer is not None:
            self._old.append(self._peer)
            self._peer = None
        self._session.control.detach()

    def _send_offer(self) -> None:
        if self._signaling is None or not self._offer or self._offered or not self._opened:
            return
        if self._refused and self._status != "waiting":
            return
        self._offered, self._refused = True, False
        self._signaling.send({"type": "offer", "sdp": self._offer})
        if self._status == "waiting":
            self._negotiate()

    def _negotiate(self) -> None:
        self._advance(State.NEGOTIATING)
        self._within(_ANSWER_TIMEOUT, ClientError("no_answer"))

    # --- from the socket (signaling.Listener) ---

    def on_open(self) -> None:
        """The credential is on its way: the demand and the offer go in the same flight."""
        self._advance(State.AUTHENTICATING)
        self._within(_AUTH_TIMEOUT, ClientError("network", "The bridge does not answer."))
        self._opened = True
        if self._signaling is not None:
            self._signaling.send({"type": "session_start"})
        self._send_offer()

    def on_message(self, message: Message) -> None:
        """A message of the bridge."""
        match message["type"]:
            case "auth_success":
                self._no_deadline()
                self._policy = message.get("ice_transport_policy", "all")
                self._take_servers(message)
            case "ice_servers":
                self._take_servers(message)
            case "node_status":
                self._on_status(message["status"], message.get("position"), message.get("eta"))
            case "server_provisioning":
                self._on_status("pending", None, None)
            case "answer":
                self._on_answer(message["sdp"])
            case "candidate" if self._peer is not None:
                self._peer.candidate(message["candidate"])
            case "error":
                self._on_error(from_message(message))
            case "session_end":
                self._on_end(ClientError("session_ended", f"The session has ended: {message.get('reason', '')}."))

    def on_lost(self) -> None:
        """The socket dropped; media goes on."""
        self._away = True

    def on_back(self) -> None:
        """The session was taken up on another socket."""
        self._away = False
        if self._peer is not None and self._peer.state in ("disconnected", "failed"):
            self._restart()

    def on_closed(self, error: ClientError) -> None:
        """No socket any more. Media never depends on it, once it is up."""
        if self.live_since and self._peer is not None and self._peer.state == "connected" and error.code != "policy":
            self._lost = error
            self._session.on_error(error)
        else:
            self._fail(error)

    def _take_servers(self, message: Message) -> None:
        """Candidates are gathered with our own servers, or else with those of the bridge, once it has named them."""
        policy: IcePolicy = "relay" if "relay" in (self._policy, self._own_ice.policy) else "all"
        servers = self._own_ice.servers or [_server(each) for each in message.get("ice_servers", [])]
        self._ice = Ice(servers, policy)
        if self._peer is not None:
            self._peer.use(self._ice)
        elif not self._answered and not self._status:
            self._join()

    def _on_status(self, status: str, position: int | None, eta: int | None) -> None:
        self._status = status
        if self._answered:
            return  # media is up or on its way: the line is behind us
        self._no_deadline()
        self._advance(State(status), None if position is None else Place(position, eta))
        self._wait_in_line(status, position, eta)
        if status != "waiting":
            return
        if self._peer is None:
            self._join()  # our node was lost, and we are in the line again
        elif self._offered:
            self._negotiate()
        else:
            self._send_offer()

    def _wait_in_line(self, status: str, position: int | None, eta: int | None) -> None:
        if status != "full" or self._wait is None:
            if self._wait_timer is not None and status != "full":
                self._wait_timer.cancel()
                self._wait_timer = None
            return
        known = [f"number {position} in line" if position else "", f"about {eta} s" if eta else ""]
        text = "No slot is free" + "".join(f", {word}" for word in known if word) + "."
        error = ClientError("pool_full", text, retry_after=eta)
        if self._wait <= 0:
            self._fail(error)
        elif self._wait_timer is None:
            self._wait_timer = asyncio.get_running_loop().call_later(self._wait, self._fail, error)

    def _on_answer(self, sdp: str) -> None:
        if self._peer is None:
            return
        self._peer.answer(sdp)
        if self._answered:
            self._restarting = False
            return
        self._answered = True
        self._advance(State.NEGOTIATING)
        self._within(_MEDIA_TIMEOUT, ClientError("ice_failed"))

    def _on_error(self, error: ClientError) -> None:
        if error.code == "pool_full":
            if self._status != "full":
                return self._fail(error)
            self._refused, self._offered = True, False  # in the line: our place is kept
            return None
        if error.code == "node_lost":
            self._session.on_error(error)
            self._session.on_interrupted()
            self._leave()  # the bridge puts us at the front of the line and says so next
            self._answered = False
            return self._advance(State.RECONNECTING)
        if error.code in _ENDING:
            return self._fail(error)
        return self._session.on_error(error)

    def _on_end(self, error: ClientError) -> None:
        """The bridge has ended the session; a connection that is up says by itself how it ends."""
        if self._leaving or self._peer is None or self._peer.state not in ("connected", "disconnected"):
            self._fail(error)
        else:
            self._leaving = True
            self._within(_FAREWELL, error)

    # --- from the connection (peer.PeerListener) ---

    def on_offer(self, sdp: str) -> None:
        """Send it; a later one goes to the node that we have."""
        self._offer = sdp
        if not self._offered:
            self._send_offer()
        elif self._signaling is not None:
            self._signaling.send({"type": "offer", "sdp": sdp})

    def on_candidate(self, candidate: Mapping[str, Any]) -> None:
        """Send it, behind the offer."""
        if self._signaling is not None and self._offered:
            self._signaling.send({"type": "candidate", "candidate": dict(candidate)})

    def on_peer_state(self, state: ConnectionState) -> None:
        """Live, interrupted, or over."""
        if self._leaving and state != "connected":
            return
        if state == "connected":
            self._no_deadline()
            self.live_since = self.live_since or time.monotonic()
            if self._flowing is None or self._flowing.done():
                self._flowing = asyncio.create_task(self._flow(), name="session-flow")
            else:
                self._advance(State.LIVE)
        elif state == "disconnected" and self.live_since:
            self._session.on_interrupted()
            self._advance(State.RECONNECTING)  # it may come back by itself; if not, it becomes "failed"
            self._restart()
        elif state in ("failed", "closed"):
            self._on_media_over(state)

    def _on_media_over(self, state: str) -> None:
        error = ClientError("ice_failed" if state == "failed" else "node_closed")
        if self._lost is not None or self._away or state == "failed":
            return self._fail(self._lost or error)
        self._leaving = True
        return self._within(_FAREWELL, error)  # if the bridge knows more, it says so now

    async def _flow(self) -> None:
        try:
            await self._session.on_live(self)
        except ClientError as error:
            self._fail(error)

    def _restart(self) -> None:
        """Look for another path to the node: the network may have changed."""
        extended = self._signaling is not None and self._signaling.extended
        if self._peer is None or not extended or self._away or self._restarting or not self._answered:
            return
        self._restarting = True
        self._peer.restart()

    def on_peer_failed(self, error: EngineError) -> None:
        """An offer could not be made, or an answer not be applied."""
        if self.live_since and self._restarting:
            self._restarting = False
            return self._session.on_error(ClientError("ice_failed", str(error)))
        return self._fail(ClientError("ice_failed", str(error)))

    def on_picture(self, picture: I420, now: float) -> None:
        """A picture came back."""
        self._session.on_picture(picture, now)

    def on_control(self, channel: DataChannel) -> None:
        """The control channel is open."""
        self._session.control.open(channel)

    def on_control_message(self, data: str | bytes) -> None:
        """The node said something on it."""
        self._session.control.receive(data)

    def on_control_closed(self) -> None:
        """The node closed it: the session is over, if the bridge does not say otherwise."""
        if self._answered and not self._leaving:
            self._on_media_over("closed")


def _server(given: Mapping[str, Any]) -> IceServer:
    urls, user, secret = given["urls"], given.get("username"), given.get("credential")
    return IceServer((urls,) if isinstance(urls, str) else tuple(urls), user or None, secret or None)
