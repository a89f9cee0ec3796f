"""Servers with a fixed credential, or with none, as STUN servers are."""

from collections.abc import Sequence

from rtcbridge.config import IceServer as Configured
from rtcbridge.core.messages import IceServer
from rtcbridge.ports import IceGrant


class StaticServers:
    """The `servers` of the configuration: the same for everybody, for ever."""

    def __init__(self, servers: Sequence[Configured]) -> None:
        self._grant = IceGrant(tuple(IceServer(list(one.urls), one.username, one.credential) for one in servers))

    def grant(self, user: str) -> IceGrant:
        """See `IceServers`."""
        return self._grant

    async def start(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Nothing is to be done."""
