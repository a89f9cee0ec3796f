"""The client's end: a connection to `/client`."""

from collections.abc import Callable
from typing import Final

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, Error, ProtocolError
from rtcbridge.core.events import Closed, Dropped
from rtcbridge.core.messages import Credential, NodeUpdated, Status, UpdateId
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.access import Headers, Terms, Use, origin_of
from rtcbridge.gateway.bridge import Bridge, Entry, new_session_id
from rtcbridge.gateway.links import Socket
from rtcbridge.gateway.websocket import End, Limits
from rtcbridge.ports import Identity

MAX_BAD = 10  # bad messages in a row
_MAX_EARLY = 1_000  # messages that a client may send while its pool is asked

# Closed by us with one of these, the client may come back: it counts as a drop, not as a goodbye.
_NO_GOODBYE = frozenset({CloseCode.INTERNAL, CloseCode.RESTART, CloseCode.TRY_LATER})


def is_goodbye(end: End) -> bool:
    """Whether the client is not to be expected back: it said so itself, or it was closed for what it did."""
    return end.by == "peer" or (end.by == "us" and end.code not in _NO_GOODBYE)


class CredentialSocket(Socket):
    """A connection whose first message must be a client's valid credential.

    Args:
        bridge: Where its messages go.
        limits: Bounds of the socket.
        headers: Of its request, the names in lower case.
    """

    # `_gate`: what a message has to pass: the headers until the credential is there, then what is left of its messages,
    # and nothing for those that may send as many as all others.
    __slots__ = ("_bad", "_bridge", "_gate", "_pool", "_project", "_terms")

    def __init__(self, bridge: Bridge, limits: Limits, headers: Headers = ()) -> None:
        super().__init__(limits)
        self._gate: Headers | Use | None = headers
        self._terms: Terms | None = None  # of a credential with restrictions
        self._bridge = bridge
        self._pool: Pool | None = None  # set when the credential has been accepted
        self._project = ""
        self._bad = 0
        self.key = ""

    def opened(self) -> None:
        """Wait for the credential, but not for ever."""
        self.expect(self._bridge.config.sessions.auth_timeout)

    def overdue(self) -> None:
        """Nothing came, or nothing valid."""
        if self._pool is None:
            self.close(CloseCode.POLICY, "")

    def fault(self, code: int) -> int:
        """Before authentication, nothing tells one failure from another."""
        return code if self._pool is not None else CloseCode.POLICY

    def passes(self, data: bytes) -> bool:
        """Whether to go on with a message: not with the credential, nor with one too many."""
        if self._pool is None:
            self.authenticate(data)
            return False
        assert isinstance(self._gate, Use)
        return self._gate.spend() or self.overspent(data)

    def overspent(self, data: bytes) -> bool:
        """A message too many of the key has come; whether to go on with it all the same."""
        raise NotImplementedError

    def authenticate(self, data: bytes) -> None:
        """Take the first message."""
        try:
            credential = messages.decode_credential(data)
        except ProtocolError:
            credential = ""  # looked up all the same, so that it takes as long as a wrong key
        identity = self._bridge.auth.identify(credential)
        pool = None if identity is None or identity.is_node else self._bridge.pool_of(identity)
        if identity is None or pool is None or not self._enter(identity):
            self.close(CloseCode.POLICY, "")
            return
        self.key, self._project = identity.key, identity.project
        self._pool = pool
        self._bridge.clients.add(self)
        self.welcome(pool)

    def _enter(self, identity: Identity) -> bool:
        """Look for what a valid credential may not do; nearly all may do everything."""
        headers, self._gate = self._gate, None
        access = self._bridge.access
        if identity.restrictions is None and not access.guarded:
            return True
        assert not isinstance(headers, Use)
        if not access.admits(identity, origin_of(headers or ())):
            return False
        if identity.restrictions is None:
            return True
        self._terms = terms = access.enter(identity, self)
        if terms is not None and identity.restrictions.limits.messages:
            self._gate = terms.use
        return terms is not None

    def leave(self) -> None:
        """The socket has ended."""
        self._bridge.clients.discard(self)
        if self._terms is not None:
            self._terms.use.sockets.discard(self)

    def welcome(self, pool: Pool) -> None:
        """The credential is accepted; its sessions wait in the line of this pool."""
        raise NotImplementedError

    def put_off(self, early: list[Callable[[], object]], data: bytes) -> None:
        """Take a message later, if the socket is still there then."""
        message = bytes(data)
        early.append(lambda: self._received_again(message) if self.is_open else None)
        if len(early) > _MAX_EARLY:
            self.close(CloseCode.POLICY, "")

    def _received_again(self, message: bytes) -> None:
        """Take a message that has passed the gate before."""
        gate, self._gate = self._gate, None
        try:
            self.received(message)
        finally:
            self._gate = gate


class ClientSocket(CredentialSocket):
    """One client's connection. Its candidates go straight to the node once the session has one."""

    __slots__ = ("entry",)

    away: Final = False

    def __init__(self, bridge: Bridge, limits: Limits, headers: Headers = ()) -> None:
        super().__init__(bridge, limits, headers)
        self.entry: Entry | None = None

    def overspent(self, data: bytes) -> bool:
        """See `CredentialSocket`."""
        self.refuse(Error.RATE_LIMITED)
        return False

    def received(self, data: bytes) -> None:
        """Take one message."""
        if self._gate is not None and not self.passes(data):
            return
        entry = self.entry
        if (
            entry is not None
            and (link := entry.link) is not None
            and (candidate := messages.client_candidate_text(data)) is not None
        ):
            link.send_between(entry.target, candidate, b"}")
            self._bad = 0
            return
        if entry is not None and entry.early is not None:
            self.put_off(entry.early, data)
            return
        try:
            message = messages.decode_client(data)
            if isinstance(message, Credential):
                raise ProtocolError("CREDENTIAL may only be the first message.")
            assert self._pool is not None
            self._bridge.client_event(self, self._project, self._pool, message, self._terms)
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            self.send(messages.client_error(str(error)))
            if self._bad >= MAX_BAD:
                self.close(CloseCode.POLICY, "")

    def ended(self, end: End) -> None:
        """Tell the session how the socket went."""
        self.leave()
        entry, self.entry = self.entry, None
        if entry is None or entry.session.id not in self._bridge.sessions:
            return
        entry.client = None
        self._bridge.client_gone(entry, Closed() if is_goodbye(end) else Dropped())

    # --- what the bridge says ---

    def welcome(self, pool: Pool) -> None:
        """The credential is accepted."""
        self.send(messages.AUTH_SUCCESS)

    def inform(self, status: Status) -> None:
        """Say where the session stands."""
        self.send(messages.NODE_STATUS[status])

    def refuse(self, error: Error, text: str = "", id: UpdateId | None = None) -> None:
        """Say that something cannot be."""
        self.send(messages.client_error(error.text))

    def over(self, reason: str) -> None:
        """The documents have no message for the end of a session."""

    def updated(self, message: NodeUpdated) -> None:
        """Nor for this: only clients of the extension ask for it."""

    def new_id(self, now: float) -> str:
        """Return the id of the next session."""
        return new_session_id(now)
