"""How many sessions a credential has at once, on a bridge that is alone. Several ask the engine: `ports_engine.Quotas`.

What is counted is a set of sessions, never a number: whatever happens to a session, it is in the set or it is not.
"""

from collections.abc import Iterable, Mapping


class Quotas:
    """Sets of sessions, each with a maximum."""

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}
        self._groups: dict[str, tuple[str, ...]] = {}  # by session

    def take(self, session: str, groups: Mapping[str, int]) -> bool:
        """Let a session be one of each group; false, and it is one of none, if one of them has its maximum already."""
        if any(0 < limit <= len(self._members.get(group, ())) for group, limit in groups.items()):
            return False
        self.hold(session, groups)
        return True

    def hold(self, session: str, groups: Iterable[str]) -> None:
        """Let a session be one of each group, whatever their maximum."""
        self._groups[session] = tuple(groups)
        for group in self._groups[session]:
            self._members.setdefault(group, set()).add(session)

    def release(self, session: str) -> None:
        """A session has ended."""
        for group in self._groups.pop(session, ()):
            members = self._members[group]
            members.discard(session)
            if not members:
                del self._members[group]

    def __len__(self) -> int:
        return len(self._members)
