"""The client's end: a connection to `/client`."""

from rtcbridge.core import messages
from rtcbridge.core.errors import CloseCode, ProtocolError
from rtcbridge.core.events import Closed, Dropped
from rtcbridge.core.messages import Credential
from rtcbridge.core.pool import Pool
from rtcbridge.gateway.bridge import Bridge, Client, Entry
from rtcbridge.gateway.websocket import End, Limits

MAX_BAD = 10  # bad messages in a row
_MAX_EARLY = 1_000  # messages that a client may send while its pool is asked

# Closed by us with one of these, the client may come back: it counts as a drop, not as a goodbye.
_NO_GOODBYE = frozenset({CloseCode.INTERNAL, CloseCode.RESTART, CloseCode.TRY_LATER})


class ClientSocket(Client):
    """One client's connection. Its candidates go straight to the node once the session has one.

    Args:
        bridge: Where its messages go.
        limits: Bounds of the socket.
    """

    __slots__ = ("_bad", "_bridge", "_pool", "_project")

    def __init__(self, bridge: Bridge, limits: Limits) -> None:
        super().__init__(limits)
        self._bridge = bridge
        self._pool: Pool | None = None  # set when the credential has been accepted
        self._project = ""
        self._bad = 0
        self.key = ""
        self.entry: Entry | None = None

    def opened(self) -> None:
        """Wait for the credential, but not for ever."""
        self.expect(self._bridge.config.sessions.auth_timeout)

    def overdue(self) -> None:
        """Nothing came, or nothing valid."""
        if self._pool is None:
            self.close(CloseCode.POLICY, "")

    def received(self, data: bytes) -> None:
        """Take one message."""
        if self._pool is None:
            self._authenticate(data)
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
            entry.early.append(bytes(data))
            if len(entry.early) > _MAX_EARLY:
                self.close(CloseCode.POLICY, "")
            return
        try:
            message = messages.decode_client(data)
            if isinstance(message, Credential):
                raise ProtocolError("CREDENTIAL may only be the first message.")
            self._bridge.client_event(self, self._project, self._pool, message)
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            self.send(messages.client_error(str(error)))
            if self._bad >= MAX_BAD:
                self.close(CloseCode.POLICY, "")

    def fault(self, code: int) -> int:
        """Before authentication, nothing tells one failure from another."""
        return code if self._pool is not None else CloseCode.POLICY

    def ended(self, end: End) -> None:
        """Tell the session how the socket went."""
        self._bridge.clients.discard(self)
        entry, self.entry = self.entry, None
        if entry is None or entry.session.id not in self._bridge.sessions:
            return
        entry.client = None
        goodbye = end.by == "peer" or (end.by == "us" and end.code not in _NO_GOODBYE)
        self._bridge.client_gone(entry, Closed() if goodbye else Dropped())

    def _authenticate(self, data: bytes) -> None:
        try:
            credential = messages.decode_credential(data)
        except ProtocolError:
            credential = ""  # looked up all the same, so that it takes as long as a wrong key
        identity = self._bridge.auth.identify(credential)
        if identity is None or identity.is_node:
            self.close(CloseCode.POLICY, "")
            return
        self.key, self._project = identity.key, identity.project
        self._pool = self._bridge.pool_of(identity)
        self._bridge.clients.add(self)
        self.send(messages.AUTH_SUCCESS)
