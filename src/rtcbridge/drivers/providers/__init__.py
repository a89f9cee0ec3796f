"""What makes and unmakes machines: one module a provider, chosen by the pool's `provider`."""

from rtcbridge.config import ConfigError, Pool
from rtcbridge.drivers.providers.command import CommandProvider
from rtcbridge.drivers.providers.local import LocalProvider, sweep
from rtcbridge.drivers.providers.static import StaticProvider
from rtcbridge.ports import Provider

__all__ = ["CommandProvider", "LocalProvider", "StaticProvider", "make_provider", "sweep"]


def make_provider(pool: Pool) -> Provider:
    """Make the provider that a pool of the configuration names, with its options.

    Raises:
        ConfigError: what this provider stands on is not installed.
    """
    match pool.provider:
        case "static":
            return StaticProvider()
        case "local":
            return LocalProvider(pool.name, pool.local, slots=pool.slots)
        case "command":
            return CommandProvider(pool.command)
        case "ssh":
            try:
                from rtcbridge.drivers.providers.ssh import SshProvider
            except ModuleNotFoundError as error:
                raise _missing(pool, error) from None
            return SshProvider(pool.name, pool.ssh)
        case "docker":
            try:
                from rtcbridge.drivers.providers.docker import DockerProvider
            except ModuleNotFoundError as error:
                raise _missing(pool, error) from None
            return DockerProvider(pool.name, pool.docker)
        case "ec2":
            try:
                from rtcbridge.drivers.providers.ec2 import Ec2Provider
            except ModuleNotFoundError as error:
                raise _missing(pool, error) from None
            return Ec2Provider(pool.name, pool.ec2)


def _missing(pool: Pool, error: ModuleNotFoundError) -> ConfigError:
    """Name the extra of this package that a provider needs."""
    extra = f"pip install 'rtcbridge[{pool.provider}]'"
    return ConfigError(f'[[pools]] "{pool.name}": provider {pool.provider}: no module {error.name}: {extra}')
