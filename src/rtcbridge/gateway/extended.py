"""The end of a client that speaks the extension: a connection to `/client` with the subprotocol `rtcbridge.v2`."""

from collections.abc import Callable

from rtcbridge.core import extension, messages
from rtcbridge.core.errors import CloseCode, Error, ProtocolError
from rtcbridge.core.events import Closed
from rtcbridge.core.extension import Ack, ClientEnd, FromExtendedClient, SessionResume, Update
from rtcbridge.core.messages import Credential, ToNodeUpdate
from rtcbridge.core.pool import Pool
from rtcbridge.core.replay import ReplayError
from rtcbridge.gateway.access import Headers
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.clients import MAX_BAD, CredentialSocket, is_goodbye
from rtcbridge.gateway.visits import Visit, Visits
from rtcbridge.gateway.websocket import End, Limits


class ExtendedSocket(CredentialSocket):
    """One connection of a visit.

    Args:
        bridge: Where its messages go.
        limits: Bounds of the socket.
        visits: All visits of the bridge.
        headers: Of its request, the names in lower case.
    """

    __slots__ = ("_begun", "_fetched", "_fetching", "_visit", "_visits")

    _visit: Visit  # from `welcome` on

    def __init__(self, bridge: Bridge, limits: Limits, visits: Visits, headers: Headers = ()) -> None:
        super().__init__(bridge, limits, headers)
        self._visits = visits
        self._begun = False  # it has had a message that belongs to a session
        self._fetching: list[Callable[[], object]] | None = None  # what comes while a visit is being brought here
        self._fetched = False

    def welcome(self, pool: Pool) -> None:
        """The credential is accepted: a new visit, unless the next message takes up another one."""
        self._visit = self._visits.begin(self, self._project, pool)

    def received(self, data: bytes) -> None:
        """Take one message."""
        if self._gate is not None and not self.passes(data):
            return
        if self._fetching is not None:
            self.put_off(self._fetching, data)
            return
        entry = self._visit.entry
        if (
            entry is not None
            and (link := entry.link) is not None
            and (candidate := messages.client_candidate_text(data)) is not None
        ):
            link.send_between(entry.target, candidate, b"}")
            self._bad = 0
            self._visit.took()
            return
        if entry is not None and entry.early is not None:
            self.put_off(entry.early, data)
            return
        try:
            try:
                message = extension.decode(data)
            except ProtocolError:
                self._number()
                raise
            assert self._pool is not None
            self._take(message, self._pool)
            self._bad = 0
        except ProtocolError as error:
            self._bad += 1
            self._visit.refuse(Error.BAD_MESSAGE, str(error))
            if self._bad >= MAX_BAD:
                self.close(CloseCode.POLICY, "")

    def overspent(self, data: bytes) -> bool:
        """See `CredentialSocket`; what has no number is let pass, for it only keeps the count."""
        try:
            if isinstance(extension.decode(data), Ack | SessionResume):
                return True
        except ProtocolError:
            pass  # it is counted as any other
        self._number()
        self._visit.refuse(Error.RATE_LIMITED)
        return False

    def _number(self) -> None:
        """Count a message before anything is done with it: what would break us twice is not taken twice."""
        self._begun = True
        self._visit.took()

    def _take(self, message: FromExtendedClient, pool: Pool) -> None:
        if isinstance(message, Ack):
            self._acknowledge(message)
            return
        if isinstance(message, SessionResume):
            self._resume(message, pool)
            return
        self._number()
        if isinstance(message, Update):
            self._update(message)
        elif isinstance(message, ClientEnd):
            if (entry := self._visit.session) is not None:
                self._bridge.client_gone(entry, Closed())
        elif isinstance(message, Credential):
            raise ProtocolError("CREDENTIAL may only be the first message.")
        else:
            self._bridge.client_event(self._visit, self._project, pool, message, self._terms)

    def _acknowledge(self, ack: Ack) -> None:
        self._visit.anew = False
        try:
            self._visit.mailbox.acknowledge(ack.received)
        except ReplayError as error:
            raise ProtocolError(f"Bad message: {error}") from None

    def _resume(self, asked: SessionResume, pool: Pool) -> None:
        if self._begun:
            raise ProtocolError("session_resume may only be the first message behind CREDENTIAL.")
        visits = self._visits
        id = visits.named(asked.resume, self._project, pool)
        if id is not None and visits.get(id) is None and visits.fetch is not None and not self._fetched:
            self._fetched, self._fetching = True, []
            visits.fetch(id, self._project, pool, lambda: self._is_fetched(asked))
            return
        try:
            visit = visits.resume(id, self._project, asked.received, self)
        except ReplayError as error:
            raise ProtocolError(f"Bad message: {error}") from None
        if isinstance(visit, Error):
            self._visit.refuse(visit)
            return
        self._visits.drop(self._visit)
        visit.lend(self._visit.ice)  # what `auth_success` has just told its client
        self._begun, self._visit = True, visit

    def _is_fetched(self, asked: SessionResume) -> None:
        """The visit is here now, if there is one at all."""
        waiting, self._fetching = self._fetching or [], None
        if self.is_open:
            self.received(messages.encode(asked))
        for message in waiting:
            message()

    def _update(self, update: Update) -> None:
        """Pass parameters on to the node: it changes no state here."""
        entry = self._visit.session
        if entry is None or (link := entry.link) is None:
            self._visit.refuse(Error.NO_NODE, id=update.id)
            return
        if not self._bridge.takes_updates(entry.session.node):
            self._visit.refuse(Error.UPDATE_UNSUPPORTED, id=update.id)
            return
        link.send(messages.encode(ToNodeUpdate(entry.session.id, update.params, update.id)))

    def ended(self, end: End) -> None:
        """The visit goes on without a socket, unless the client said goodbye."""
        self.leave()
        if self._pool is not None and self._visit.socket is self:
            self._visits.leave(self._visit, is_goodbye(end))
