"""What makes and unmakes machines: one module a provider, chosen by the pool's `provider`."""

from rtcbridge.config import Pool
from rtcbridge.drivers.providers.command import CommandProvider
from rtcbridge.drivers.providers.local import LocalProvider, sweep
from rtcbridge.drivers.providers.static import StaticProvider
from rtcbridge.ports import Provider

__all__ = ["CommandProvider", "LocalProvider", "StaticProvider", "make_provider", "sweep"]


def make_provider(pool: Pool) -> Provider:
    """Make the provider that a pool of the configuration names, with its options."""
    match pool.provider:
        case "static":
            return StaticProvider()
        case "local":
            return LocalProvider(pool.name, pool.local, slots=pool.slots)
        case "command":
            return CommandProvider(pool.command)
