"""How many sessions there are of whom, over all replicas of a bridge."""

from collections.abc import Mapping
from typing import Protocol


class Quotas(Protocol):
    """Sets of sessions over all pools, each with a maximum, as one replica sees and changes them.

    Each call is atomic, may be repeated, and raises EngineAwayError. What this replica has in a set is said again every
    few seconds, by the quotas themselves: what a dead replica had is counted some seconds longer, and no leak lasts.
    """

    async def take(self, session: str, groups: Mapping[str, int]) -> bool:
        """Let a session be one of each group; false, and nothing is changed, if one has as many as it may.

        `groups` has the maximum of each; 0 for none.
        """
        ...

    async def hold(self, session: str, groups: Mapping[str, int]) -> None:
        """Let a session be one of each group, whatever the maximum."""
        ...

    async def release(self, session: str) -> None:
        """A session has ended."""
        ...

    def drop(self, session: str) -> None:
        """A session is another replica's from now on."""
        ...
