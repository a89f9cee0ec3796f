"""Counting the sessions of clients with restrictions over all replicas."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from rtcbridge.core.errors import Error
from rtcbridge.core.events import Event, Source
from rtcbridge.gateway.admission import Admission
from rtcbridge.gateway.bridge import Entry
from rtcbridge.gateway.shared.pool import SharedPool

if TYPE_CHECKING:
    from rtcbridge.gateway.shared.bridge import SharedBridge


class SharedAdmission(Admission):
    """See `Admission`; the engine counts, and what the client says meanwhile waits for its answer.

    Args:
        bridge: This replica.
    """

    _bridge: "SharedBridge"

    def __init__(self, bridge: "SharedBridge") -> None:
        super().__init__(bridge)

    def admit(self, entry: Entry, groups: Mapping[str, int], event: Event) -> None:
        """See `Admission`."""
        entry.early = []
        self._call(entry, partial(self._take, entry, groups, event))

    async def _take(self, entry: Entry, groups: Mapping[str, int], event: Event) -> None:
        bridge, session = self._bridge, entry.session.id
        if bridge.sessions.get(session) is not entry:
            return
        taken = await bridge.engine.quotas.take(session, groups)
        if bridge.sessions.get(session) is not entry:
            return  # it has left meanwhile, and its release is the next call
        early, entry.early = entry.early or [], None
        if taken:
            bridge.deliver(entry, Source.CLIENT, event)
        else:
            self.turn_away(entry, Error.SESSION_LIMIT)
        for message in early:
            message()

    def release(self, entry: Entry) -> None:
        """See `Admission`."""
        if entry.bounds is not None and entry.bounds.groups:
            self._call(entry, partial(self._bridge.engine.quotas.release, entry.session.id))

    def hold(self, entry: Entry) -> None:
        """See `Admission`."""
        if entry.bounds is not None and entry.bounds.groups:
            self._call(entry, partial(self._bridge.engine.quotas.hold, entry.session.id, entry.bounds.groups))

    @staticmethod
    def _call(entry: Entry, call: Callable[[], Awaitable[object]]) -> None:
        """In order with what the session asks of its pool."""
        assert isinstance(entry.pool, SharedPool)
        entry.pool.calls.add(entry.session.id, call)
