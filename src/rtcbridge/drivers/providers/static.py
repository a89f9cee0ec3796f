"""The provider that makes nothing: its nodes dial in on their own, with a key of their pool."""

from collections.abc import Mapping

from rtcbridge.ports import Launch, Machine, ProviderError


class StaticProvider:
    """`Provider` of a static pool. Every operation but `destroy` of what it never made is refused."""

    list_interval = 60.0

    async def create(self, launch: Launch) -> None:
        """Raises ProviderError."""
        raise _refusal(launch)

    async def start(self, launch: Launch) -> None:
        """Raises ProviderError."""
        raise _refusal(launch)

    async def stop(self, launch: Launch) -> None:
        """Raises ProviderError."""
        raise _refusal(launch)

    async def destroy(self, launch: Launch) -> None:
        """Do nothing: no machine is here."""

    async def list(self) -> Mapping[str, Machine] | None:
        """Return None: only the nodes themselves know."""
        return None

    async def close(self) -> None:
        """Do nothing."""


def _refusal(launch: Launch) -> ProviderError:
    return ProviderError(f"pool {launch.pool} is static: its nodes are made and stopped by hand")
