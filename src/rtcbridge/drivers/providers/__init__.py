"""What makes and unmakes machines: one module a provider, chosen by the pool's `provider`.

A provider is an entry point of the group `rtcbridge.providers`: a function that takes the pool of the
configuration and returns a `Provider`. Those of this package are in the table below as well, so that they are
found from a source tree, too, and so that no other package can take their place.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint

from rtcbridge.config import BUILT_IN_PROVIDERS, PROVIDER_GROUP, ConfigError, Pool, plugins
from rtcbridge.drivers.providers.command import CommandProvider
from rtcbridge.drivers.providers.local import LocalProvider, sweep
from rtcbridge.drivers.providers.static import StaticProvider
from rtcbridge.ports import Provider

__all__ = ["BUILT_IN", "CommandProvider", "LocalProvider", "StaticProvider", "make_provider", "sweep"]

BUILT_IN = {
    name: EntryPoint(name, f"rtcbridge.drivers.providers.builtin:{name}", PROVIDER_GROUP) for name in BUILT_IN_PROVIDERS
}
_METHODS = ("create", "start", "stop", "destroy", "list", "close")


def make_provider(pool: Pool) -> Provider:
    """Make the provider that a pool of the configuration names, with its options.

    Raises:
        ConfigError: there is no such provider, what it stands on is not installed, it refuses its options, or
            what it makes is no `Provider`.
    """
    here = f'[[pools]] "{pool.name}": '
    entry = BUILT_IN.get(pool.provider) or plugins().get(pool.provider)
    if entry is None:
        known = ", ".join(sorted({*BUILT_IN, *plugins()}))
        raise ConfigError(f"{here}provider: expected one of {known}, got {pool.provider}")
    what = f"{here}provider {entry.name}"
    try:
        made = _load(entry)(pool)
    except ConfigError as error:
        raise ConfigError(f"{here}{error}") from None
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what}: no module {error.name}{_remedy(entry)}") from None
    return _checked(made, f"{what}: {entry.value}")


def _load(entry: EntryPoint) -> Callable[[Pool], object]:
    try:
        factory: Callable[[Pool], object] = entry.load()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever another package does
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"provider {entry.name}: {entry.value} cannot be loaded: {why}") from error
    return factory


def _remedy(entry: EntryPoint) -> str:
    """Name what is to be installed: an extra of this package, or what another package needs."""
    if entry.name in BUILT_IN:
        return f": pip install 'rtcbridge[{entry.name}]'"
    return f", which {entry.dist.name} {entry.dist.version} wants" if entry.dist else ""


def _checked(made: object, what: str) -> Provider:
    """Make sure that another package's factory has made a provider, now and not when the first node is due."""
    missing = [name for name in _METHODS if not callable(getattr(made, name, None))]
    if not isinstance(getattr(made, "list_interval", None), int | float):
        missing.append("list_interval")
    if missing:
        raise ConfigError(f"{what}: expected a rtcbridge.ports.Provider, got one without {', '.join(missing)}")
    provider: Provider = made  # type: ignore[assignment] # its methods are there
    return provider
