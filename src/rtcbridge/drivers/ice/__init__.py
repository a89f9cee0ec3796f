"""STUN and TURN servers: one module a way to have their credentials, all that the configuration names together."""

import time
from collections.abc import Callable, Sequence
from math import inf

from rtcbridge.config import ConfigError, Ice
from rtcbridge.drivers.ice.coturn import CoturnServers
from rtcbridge.drivers.ice.prefetched import PrefetchedServers
from rtcbridge.drivers.ice.static import StaticServers
from rtcbridge.ports import IceGrant, IceServers, IceSource

__all__ = ["CombinedServers", "CoturnServers", "PrefetchedServers", "StaticServers", "make_ice_servers"]


class CombinedServers:
    """Several ways at once: the servers of all of them, one behind the other."""

    def __init__(self, parts: Sequence[IceServers]) -> None:
        self._parts = tuple(parts)

    def grant(self, user: str) -> IceGrant:
        """See `IceServers`. It is to be asked anew when the first of them is."""
        grants = [part.grant(user) for part in self._parts]
        servers = tuple(server for grant in grants for server in grant.servers)
        return IceGrant(servers, min((grant.expires for grant in grants), default=inf))

    async def start(self) -> None:
        """See `IceServers`."""
        for part in self._parts:
            await part.start()

    async def close(self) -> None:
        """See `IceServers`."""
        for part in self._parts:
            await part.close()


def make_ice_servers(config: Ice, clock: Callable[[], float] = time.time) -> IceServers:
    """Make what the section `[ice]` says.

    Args:
        config: The section.
        clock: Unix seconds.

    Raises:
        ConfigError: What a service's API is asked with is not installed.
    """
    parts: list[IceServers] = []
    if config.servers:
        parts.append(StaticServers(config.servers))
    if config.coturn.urls:
        parts.append(CoturnServers(config.coturn, clock))
    parts += [PrefetchedServers(source, clock) for source in _sources(config, clock)]
    return parts[0] if len(parts) == 1 else CombinedServers(parts)


def _sources(config: Ice, clock: Callable[[], float]) -> list[IceSource]:
    if not (config.cloudflare.key_id or config.twilio.account_sid):
        return []
    try:
        from rtcbridge.drivers.ice.services import CloudflareSource, TwilioSource
    except ModuleNotFoundError as error:
        raise ConfigError(f"[ice]: no module {error.name}: pip install 'rtcbridge[turn]'") from None
    sources: list[IceSource] = []
    if config.cloudflare.key_id:
        sources.append(CloudflareSource(config.cloudflare, clock))
    if config.twilio.account_sid:
        sources.append(TwilioSource(config.twilio, clock))
    return sources
