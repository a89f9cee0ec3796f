"""One `[[pools]]` table: the nodes of one kind, and the provider that makes them, ours or another package's."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from rtcbridge.config.filling import ConfigError, fill, shown
from rtcbridge.config.kinds import (
    NodeCount,
    OtherPool,
    PoolName,
    Project,
    ProviderName,
    Ready,
    Seconds,
    SecondsOrZero,
    SessionCount,
)
from rtcbridge.config.options import (
    CommandOptions,
    DockerOptions,
    Ec2Options,
    KubernetesOptions,
    LocalOptions,
    SshOptions,
    StaticOptions,
)
from rtcbridge.config.shape import Schedule
from rtcbridge.core.spec import PoolSpec

PROVIDER_GROUP = "rtcbridge.providers"  # entry points of providers, see docs/how-to/write-a-provider.md
_S = TypeVar("_S", bound=Struct)


class Pool(Struct, frozen=True, kw_only=True):
    """One `[[pools]]` table: the nodes of one kind, and the provider that makes them."""

    name: PoolName = "default"
    provider: ProviderName = "local"
    projects: tuple[Project, ...] = ()
    slots: Annotated[int, Meta(ge=1, le=1000)] = 1
    min_ready: Ready = 0
    beta: Annotated[float, Meta(ge=0, le=100)] = 0.0
    hold_beta: Annotated[float, Meta(ge=0, le=100)] = 0.0
    demand_window: SecondsOrZero = 0.0
    max_nodes: NodeCount = 4
    idle_timeout: Seconds = 120.0
    stopped_timeout: SecondsOrZero = 86_400.0
    stopped_reserve: NodeCount = 0
    schedules: tuple[Schedule, ...] = ()
    max_per_project: SessionCount = 0
    fair: bool = False
    overtake_timeout: SecondsOrZero = 600.0
    fallback: OtherPool = ""
    provision_timeout: Seconds = 600.0
    start_timeout: Seconds = 120.0
    boot_timeout: Seconds = 600.0
    lost_timeout: Seconds = 60.0
    drain_timeout: Seconds = 3600.0
    stop_timeout: Seconds = 120.0
    destroy_timeout: Seconds = 120.0
    start_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    failed_timeout: Seconds = 60.0
    breaker_failures: Annotated[int, Meta(ge=0, le=10_000)] = 5
    breaker_pause: Seconds = 5.0
    breaker_max_pause: Seconds = 300.0
    static: StaticOptions = StaticOptions()
    local: LocalOptions = LocalOptions()
    command: CommandOptions = CommandOptions()
    ssh: SshOptions = SshOptions()
    docker: DockerOptions = DockerOptions()
    ec2: Ec2Options = Ec2Options()
    kubernetes: KubernetesOptions = KubernetesOptions()

    @classmethod
    def from_table(cls, table: object, prefix: str) -> "Pool":
        """Make a pool of its table; `prefix` stands before a key in an error. Its provider may be another package's."""
        return _from_table(table, prefix)

    def spec(self) -> PoolSpec:
        """The pool as the pure core wants it."""
        same = {field.name for field in msgspec.structs.fields(PoolSpec)} - {"elastic"}
        return PoolSpec(elastic=self.provider != "static", **{name: getattr(self, name) for name in same})


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct) and kind is not Schedule


BUILT_IN_PROVIDERS = tuple(sorted(field.name for field in msgspec.structs.fields(Pool) if _is_table(field.type)))


class PluginPool(Pool, frozen=True, kw_only=True):
    """A `[[pools]]` table whose provider is not of this package: an entry point of `PROVIDER_GROUP`.

    Attributes:
        table: `[pools.PROVIDER]`, as the file has it; nobody but the provider has looked at it.
        folder: That of the file: a relative path in the table is relative to it. Empty for the working directory.
    """

    table: Mapping[str, Any] = {}
    folder: str = ""

    def fill(self, cls: type[_S]) -> _S:
        """Make a msgspec struct of the table, which has a field for each key.

        Raises:
            ConfigError: a key is unknown, missing, or its value is not of the field's type. It names the key.
        """
        return fill(cls, self.table, f"{self.provider}.")


def plugins() -> Mapping[str, EntryPoint]:
    """Return the providers of other packages that are installed, by name; nothing of theirs is run.

    Raises:
        ConfigError: two packages have one of the same name.
    """
    found: dict[str, EntryPoint] = {}
    taken = {field.name for field in msgspec.structs.fields(Pool)}
    for entry in entry_points(group=PROVIDER_GROUP):
        if entry.name in taken:  # a provider of this package, or a key of each pool
            continue
        if found.setdefault(entry.name, entry).value != entry.value:
            raise ConfigError(f"two packages have a provider {entry.name}: {found[entry.name].value}, {entry.value}")
    return found


def _from_table(table: object, prefix: str) -> Pool:
    known = {field.name for field in msgspec.structs.fields(Pool)}
    if not isinstance(table, dict) or (table.get("provider", "local") in BUILT_IN_PROVIDERS and table.keys() <= known):
        return fill(Pool, table, prefix)
    others, name = plugins(), table.get("provider", "local")
    if isinstance(name, str) and name not in (*BUILT_IN_PROVIDERS, *others):
        here = ", ".join(sorted({*BUILT_IN_PROVIDERS, *others}))
        raise ConfigError(f"{prefix}provider: expected one of {here}, got {shown(name)}")
    # The table of a provider that is not the one in use is left alone, as it is its provider's.
    pool = fill(Pool, {key: value for key, value in table.items() if key not in others}, prefix)
    if pool.provider in BUILT_IN_PROVIDERS:
        return pool
    own = table.get(pool.provider, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{prefix}{pool.provider}: expected a table, got {shown(own)}")
    return PluginPool(**{name: getattr(pool, name) for name in known}, table=own)
