"""Sets of sessions with a maximum, for replicas within one process."""

from collections.abc import Mapping


class Members:
    """The sets that all replicas of a process share."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, str]] = {}  # the owner of each session, by group

    def bury(self, owner: str) -> None:
        """A replica is dead."""
        for group, members in list(self.groups.items()):
            for session in [session for session, by in members.items() if by == owner]:
                self.remove(group, session)

    def remove(self, group: str, session: str) -> None:
        """Take a session out of a set."""
        members = self.groups.get(group, {})
        members.pop(session, None)
        if not members:
            self.groups.pop(group, None)


class MemoryQuotas:
    """`Quotas` of one replica. No call ever waits."""

    def __init__(self, members: Members, me: str) -> None:
        self._members, self._me = members, me

    async def take(self, session: str, groups: Mapping[str, int]) -> bool:
        """See `Quotas`."""
        for group, limit in groups.items():
            there = self._members.groups.get(group, {})
            if session not in there and 0 < limit <= len(there):
                return False
        await self.hold(session, groups)
        return True

    async def hold(self, session: str, groups: Mapping[str, int]) -> None:
        """See `Quotas`."""
        for group in groups:
            self._members.groups.setdefault(group, {})[session] = self._me

    async def release(self, session: str) -> None:
        """See `Quotas`."""
        for group, members in list(self._members.groups.items()):
            if members.get(session) == self._me:
                self._members.remove(group, session)

    def drop(self, session: str) -> None:
        """See `Quotas`; who has it now says so."""
