"""Beginning the sessions of clients with restrictions, and counting them. All others pass this by."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from rtcbridge.core.errors import Error
from rtcbridge.core.events import End, Event, Source
from rtcbridge.core.session import Session, State
from rtcbridge.core.spec import SessionSpec
from rtcbridge.gateway.access import Terms
from rtcbridge.gateway.quotas import Quotas
from rtcbridge.ports import Bounds

if TYPE_CHECKING:
    from rtcbridge.gateway.bridge import Bridge, Entry


class Admission:
    """How many sessions each credential has, on a bridge that is alone.

    Args:
        bridge: Where the sessions are.
    """

    def __init__(self, bridge: "Bridge") -> None:
        self._bridge = bridge
        self.quotas = Quotas()

    def session(self, id: str, terms: Terms, session: Session | None) -> Session:
        """Make a session under the terms of its client; `session` is the one before."""
        return Session(id, self.spec(terms.bounds), None if session is None else session.dialect)

    def spec(self, bounds: Bounds | None) -> SessionSpec:
        """The times and bounds of a client's sessions."""
        own = self._bridge.session_spec
        if bounds is None or not bounds.max_session:
            return own
        longest = min(own.max_session, bounds.max_session) if own.max_session else bounds.max_session
        return msgspec.structs.replace(own, max_session=longest)

    def begin(self, terms: Terms, entry: "Entry", event: Event) -> None:
        """Begin a session of a client with restrictions. Raises ProtocolError."""
        if not terms.use.create():
            self.turn_away(entry, Error.RATE_LIMITED)
        elif terms.bounds.groups:
            self.admit(entry, terms.bounds.groups, event)
        else:
            self._bridge.deliver(entry, Source.CLIENT, event)

    def admit(self, entry: "Entry", groups: Mapping[str, int], event: Event) -> None:
        """Begin a session if its client may have one more."""
        if self.quotas.take(entry.session.id, groups):
            self._bridge.deliver(entry, Source.CLIENT, event)
        else:
            self.turn_away(entry, Error.SESSION_LIMIT)

    def turn_away(self, entry: "Entry", error: Error) -> None:
        """End a session that may not be. What still comes for it is dropped."""
        entry.session.state = State.ENDED
        if entry.client is not None:
            entry.client.refuse(error)
        self._bridge.end(entry, End(error.code))

    def release(self, entry: "Entry") -> None:
        """A session is over."""
        if entry.bounds is not None and entry.bounds.groups:
            self.quotas.release(entry.session.id)

    def hold(self, entry: "Entry") -> None:
        """A session goes on in the place of another one, or of its own elsewhere or before: whatever the maximum."""
        if entry.bounds is not None and entry.bounds.groups:
            self.quotas.hold(entry.session.id, entry.bounds.groups)
