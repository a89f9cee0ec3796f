"""The configuration: one frozen `Config`, from one TOML file and `RTCBRIDGE_SECTION__KEY` variables.

Every key is explained, with its default, in `config.sample.toml`. Times are in seconds, sizes in bytes.
The environment wins over the file. Whatever is wrong raises `ConfigError`, whose text is one line that
names the source, the key, and what was expected.
"""

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, inspect

from rtcbridge.config_pools import (
    NodeCount,
    OtherPool,
    PoolName,
    Project,
    ProjectSettings,
    Ready,
    Schedule,
    SecondsOrZero,
    SessionCount,
    fallback_mistake,
    project_mistake,
    schedule_mistake,
)
from rtcbridge.core.spec import PoolSpec, ProjectSpec

ENV_PREFIX = "RTCBRIDGE_"
PROVIDER_GROUP = "rtcbridge.providers"  # entry points of providers, see docs/how-to/write-a-provider.md
_YEAR = 31_536_000.0
_SECRET = re.compile(r"(credential|password|secret|token)\Z")  # keys whose value an error does not show
_LISTS = ("pools", "projects")  # lists of tables, which no variable can set
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a wildcard is dialled as
_S = TypeVar("_S", bound=Struct)

Seconds = Annotated[float, Meta(gt=0, le=_YEAR)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Host = Annotated[str, Meta(pattern=r"^[^\s/]{1,255}\Z", description="a host name or an address")]
PublicUrl = Annotated[
    str,
    Meta(pattern=r"^((ws|http)s?://[^\s/?#]+[^\s?#]*)?\Z", description="a ws:// or wss:// address"),
]
_CHARACTER = r"([^\s\0%/?#@:\[\]]|%(?!00)[0-9A-Fa-f]{2})"  # of a part of a URL; others are written %40 and so on
_PLACE = rf"({_CHARACTER}*|\[[0-9A-Fa-f:.]+\])(:\d{{1,5}})?"
StoreUrl = Annotated[
    str,
    Meta(
        pattern=(
            r"^(sqlite:///[^\0?]+"
            rf"|postgres(ql)?://({_CHARACTER}+(:({_CHARACTER}|:)*)?@)?{_PLACE}(,{_PLACE})*/{_CHARACTER}+"
            rf"(\?[a-z_]+=({_CHARACTER}|[/:@])*(&[a-z_]+=({_CHARACTER}|[/:@])*)*)?)\Z"
        ),
        description=(
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
            " (with %40 for @, %2F for /, %25 for % and so on in the password)"
        ),
    ),
]
EngineUrl = Annotated[str, Meta(pattern=r"^memory://\Z", description="memory:// (the only engine of this version)")]
IceUrl = Annotated[
    str,
    Meta(pattern=r"^(stuns?|turns?):[^\s]{1,500}\Z", description="a stun: or turn: address"),
]
Text = Annotated[str, Meta(pattern=r"^[^\0]*\Z", description="a text")]
Argument = Annotated[str, Meta(pattern=r"^[^\0]+\Z", description="a text that is not empty")]
HttpUrl = Annotated[
    str, Meta(pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?\Z", description="an http:// or https:// address")
]
DockerUrl = Annotated[
    str,
    Meta(
        pattern=r"^((unix|npipe|tcp|https?|ssh)://\S+)?\Z",
        description="an address such as unix:///run/docker.sock or tcp://host:2376",
    ),
]
Gpus = Annotated[
    str,
    Meta(
        pattern=r"^(all|[1-9]\d{0,2}|device=[^\s,]+(,[^\s,]+)*)?\Z",
        description="all, a number, or device=ID,ID",
    ),
]
Volume = Annotated[
    str,
    Meta(
        pattern=r"^(/|[A-Za-z0-9])[^:\0]*:/[^:\0]*(:[A-Za-z,]+)?\Z",
        description="SOURCE:/PATH or SOURCE:/PATH:ro, the source a volume's name or an absolute path",
    ),
]
Variable = Annotated[
    str,
    Meta(
        pattern=r"^(?!RTCBRIDGE_(NODE|POOL|URL|NODE_TOKEN)(=|\Z))[A-Za-z_][A-Za-z0-9_]*(=[^\0]*)?\Z",
        description="NAME=VALUE, or NAME for the bridge's own value; the bridge sets RTCBRIDGE_NODE and the like",
    ),
]
SshHost = Annotated[
    str,
    Meta(
        pattern=r"^([^\s@:/\[\]]{1,64}@)?([^\s@:/\[\]-][^\s@:/\[\]]{0,254}|\[[0-9A-Fa-f:.%]+\])(:[1-9]\d{0,4})?\Z",
        description="HOST, USER@HOST or USER@HOST:PORT",
    ),
]
ProviderName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}\Z", description="the name of a provider")]
KubeName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?\Z",
        description="a name of Kubernetes: a-z, 0-9, '-' and '.'",
    ),
]
Quantity = Annotated[
    str,
    Meta(pattern=r"^\d+(\.\d+)?(m|k|[KMGTPE]i?)?\Z", description="a quantity of Kubernetes such as 20Gi or 500m"),
]
Resource = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*=\d+(\.\d+)?(m|k|[KMGTPE]i?)?\Z",
        description="NAME=QUANTITY such as memory=8Gi",
    ),
]
ResourceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*/[A-Za-z0-9._-]+\Z", description="a resource such as nvidia.com/gpu")
]
NodeLabel = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*=[A-Za-z0-9._-]{0,63}\Z", description="LABEL=VALUE")
]
Toleration = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*(=[A-Za-z0-9._-]{0,63})?(:(NoSchedule|PreferNoSchedule|NoExecute))?\Z",
        description="KEY, KEY=VALUE or either with :EFFECT, as of `kubectl taint`",
    ),
]
MountPath = Annotated[str, Meta(pattern=r"^/[^:\0]+\Z", description="an absolute path without ':'")]
Ec2Tag = Annotated[
    str,
    Meta(pattern=r"^(?!aws:|rtcbridge:|Name=)[^\0=]{1,128}=[^\0]{0,256}\Z", description="KEY=VALUE, the key your own"),
]


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


class ConfigError(Exception):
    """A mistake in the configuration; its text is one line: source, key, what was expected."""


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the bridge listens, and the bounds of a connection."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    public_url: PublicUrl = ""
    tls_cert: Text = ""
    tls_key: Text = ""
    trusted_proxies: tuple[Argument, ...] = ()
    max_connections: Count = 50_000
    handshake_timeout: Seconds = 10.0
    max_message: Bytes = 65_536
    message_rate: Count = 50
    message_burst: Count = 200
    client_outbox: Bytes = 262_144
    node_outbox: Bytes = 16_777_216
    ping_interval: Seconds = 20.0
    ping_timeout: Seconds = 20.0
    shutdown_timeout: Seconds = 10.0


class Sessions(Struct, frozen=True, kw_only=True):
    """`[sessions]`: the deadlines and bounds of a client's session."""

    auth_timeout: Seconds = 10.0
    claim_timeout: Seconds = 30.0
    answer_timeout: Seconds = 10.0
    connect_timeout: Seconds = 30.0
    resume_grace: Seconds = 60.0
    max_session: SecondsOrZero = 0.0
    max_candidates: Annotated[int, Meta(ge=1, le=10_000)] = 64


class Nodes(Struct, frozen=True, kw_only=True):
    """`[nodes]`: when a silent node is lost: after `heartbeat` x `missed` seconds."""

    heartbeat: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    missed: Annotated[int, Meta(ge=1, le=100)] = 3


class Store(Struct, frozen=True, kw_only=True):
    """`[store]`: the durable part: keys, nodes, and the ledger of sessions."""

    url: StoreUrl = "sqlite:///rtcbridge.db"

    @property
    def path(self) -> Path | None:
        """The file of the SQLite database; None for PostgreSQL."""
        return Path(self.url.removeprefix("sqlite:///")) if self.url.startswith("sqlite:") else None


class Engine(Struct, frozen=True, kw_only=True):
    """`[engine]`: where the hot state lives."""

    url: EngineUrl = "memory://"


class IceServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One STUN or TURN server, with the fields of the W3C's `RTCIceServer`."""

    urls: tuple[IceUrl, ...] = ()
    username: Text = ""
    credential: Text = ""


class Ice(Struct, frozen=True, kw_only=True):
    """`[ice]`: the STUN and TURN servers that nodes and clients are told."""

    servers: tuple[IceServer, ...] = ()


class Log(Struct, frozen=True, kw_only=True):
    """`[log]`: what is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class StaticOptions(Struct, frozen=True, kw_only=True):
    """`[pools.static]`: nothing to set; the nodes dial in on their own."""


class LocalOptions(Struct, frozen=True, kw_only=True):
    """`[pools.local]`: nodes as processes on this machine."""

    model: Argument = "passthrough"
    engine: Literal["", "wrtc", "aiortc"] = ""
    args: tuple[Argument, ...] = ()
    state: Argument = "rtcbridge-nodes"
    stop_grace: Seconds = 10.0


class CommandOptions(Struct, frozen=True, kw_only=True):
    """`[pools.command]`: nodes made by four shell commands; a fifth, which may be left out, lists them."""

    create: Text = ""
    start: Text = ""
    stop: Text = ""
    destroy: Text = ""
    list: Text = ""
    timeout: Seconds = 300.0
    list_interval: Seconds = 30.0


class SshOptions(Struct, frozen=True, kw_only=True):
    """`[pools.ssh]`: nodes as processes on a list of fixed hosts."""

    hosts: tuple[SshHost, ...] = ()
    nodes_per_host: Annotated[int, Meta(ge=1, le=64)] = 1
    command: Text = ""
    key: Text = ""
    known_hosts: Text = ""
    state: Argument = ".rtcbridge"
    stop_grace: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    connect_timeout: Seconds = 10.0
    timeout: Seconds = 30.0
    list_interval: Seconds = 5.0


class DockerOptions(Struct, frozen=True, kw_only=True):
    """`[pools.docker]`: nodes as containers of a Docker or Podman daemon."""

    url: DockerUrl = ""
    image: Text = ""
    pull: Literal["missing", "always", "never"] = "missing"
    command: tuple[Argument, ...] = ()
    env: tuple[Variable, ...] = ()
    gpus: Gpus = ""
    volumes: tuple[Volume, ...] = ()
    network: Text = ""
    shm_size: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 1 << 28
    stop_grace: Annotated[int, Meta(ge=1, le=3600)] = 10
    timeout: Seconds = 30.0
    list_interval: Seconds = 5.0


class Ec2Options(Struct, frozen=True, kw_only=True):
    """`[pools.ec2]`: nodes as machines of Amazon EC2."""

    region: Text = ""
    launch_template: Text = ""
    launch_template_version: Argument = "$Default"
    image: Text = ""
    instance_types: tuple[Argument, ...] = ()
    subnets: tuple[Argument, ...] = ()
    zones: tuple[Argument, ...] = ()
    security_groups: tuple[Argument, ...] = ()
    instance_profile: Text = ""
    key_name: Text = ""
    purchase: Literal["on-demand", "spot", "spot-then-on-demand"] = "on-demand"
    tags: tuple[Ec2Tag, ...] = ()
    env_file: Argument = "/etc/rtcbridge.env"
    boot: Argument = "systemctl enable --now rtcbridge-node"
    endpoint: HttpUrl = ""
    timeout: Seconds = 20.0
    list_interval: Seconds = 15.0


class KubernetesOptions(Struct, frozen=True, kw_only=True):
    """`[pools.kubernetes]`: nodes as Pods of a Kubernetes cluster, each with a volume claim."""

    kubeconfig: Text = ""
    context: Text = ""
    namespace: KubeName = ""
    image: Text = ""
    pull: Literal["missing", "always", "never"] = "missing"
    pull_secrets: tuple[KubeName, ...] = ()
    command: tuple[Argument, ...] = ()
    env: tuple[Variable, ...] = ()
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    gpu_resource: ResourceName = "nvidia.com/gpu"
    requests: tuple[Resource, ...] = ()
    limits: tuple[Resource, ...] = ()
    node_selector: tuple[NodeLabel, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    service_account: KubeName = ""
    network: Literal["", "host"] = ""
    volume_size: Quantity = "10Gi"
    storage_class: KubeName = ""
    mount: MountPath = "/data"
    pod_template: Text = ""
    stop_grace: Annotated[int, Meta(ge=1, le=3600)] = 30
    timeout: Seconds = 10.0
    list_interval: Seconds = 15.0


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

    def spec(self) -> PoolSpec:
        """The pool as the pure core wants it."""
        same = {field.name for field in msgspec.structs.fields(PoolSpec)} - {"elastic"}
        return PoolSpec(elastic=self.provider != "static", **{name: getattr(self, name) for name in same})


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
        return _fill(cls, self.table, f"{self.provider}.")


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration. Build it with `load()`; a bare `Config()` is the defaults."""

    server: Server = Server()
    sessions: Sessions = Sessions()
    nodes: Nodes = Nodes()
    store: Store = Store()
    engine: Engine = Engine()
    ice: Ice = Ice()
    log: Log = Log()
    pools: tuple[Pool, ...] = (Pool(),)
    projects: tuple[ProjectSettings, ...] = ()

    def pool(self, name: str) -> Pool | None:
        """The pool of this name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def pool_for(self, project: str) -> str:
        """The name of the pool of a project's clients: its own, else the first that is nobody's, else the first."""
        own = [each.pool for each in self.projects if each.id == project and each.pool]
        own += [pool.name for pool in self.pools if project in pool.projects]
        shared = [pool.name for pool in self.pools if not pool.projects]
        return next(iter([*own, *shared, self.pools[0].name]))

    def pool_specs(self) -> tuple[PoolSpec, ...]:
        """The pools as the pure core wants them, in the order of the file."""
        return tuple(pool.spec() for pool in self.pools)

    def local_url(self, port: int) -> str:
        """Where this machine reaches the bridge by HTTP, without a path.

        Args:
            port: the port really bound.
        """
        host = _LOOPBACK.get(self.server.host, self.server.host)
        return f"{'https' if self.server.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def project_specs(self) -> tuple[ProjectSpec, ...]:
        """The projects that have a table of their own, as the pure core wants them."""
        return tuple(project.spec() for project in self.projects)

    def base_url(self, port: int | None = None) -> str:
        """Where nodes and clients reach the bridge, without a path: `ws://…` or `wss://…`.

        Args:
            port: the port really bound, when the configured one is 0.
        """
        server = self.server
        if server.public_url:
            return re.sub(r"^http", "ws", server.public_url).rstrip("/")
        host = _LOOPBACK.get(server.host, server.host)
        scheme = "wss" if server.tls_cert else "ws"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or server.port}"

    def node_url(self, port: int | None = None) -> str:
        """Where nodes dial in: `base_url()` and `/node`."""
        return f"{self.base_url(port)}/node"


def load(file: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration from a TOML file, if any, and the environment.

    Relative paths of a file (`store.url`, `server.tls_cert`, …) are relative to its folder, those of the
    environment to the working directory.

    Raises:
        ConfigError: the file cannot be read, or something in it or in the environment is wrong.
    """
    path = Path(file) if file is not None else None
    config = _fill(Config, _read(path), f"{path}: ") if path else Config()
    if path:
        config = _rebase(config, path.parent)
    config, sources = _overlay(config, env)
    _check(config, lambda key: sources.get(key, f"{path}: {key}" if path else key))
    return config


RUN_TIME_SETTINGS = ("max_nodes", "min_ready", "beta", "hold_beta", "demand_window", "idle_timeout", "stopped_reserve")
"""What may be changed of a pool while the bridge runs: the policy, not what a node is or how long it may take."""


def override(pool: Pool, values: Mapping[str, object]) -> Pool:
    """Put values over the settings of a pool.

    Args:
        pool: As the configuration has it.
        values: The new values by their names.

    Raises:
        ConfigError: A name is not of `RUN_TIME_SETTINGS`, a value is not allowed, or the pool makes no nodes.
    """
    if values and pool.provider == "static":
        raise ConfigError("a static pool makes no nodes: it has nothing to change")
    kinds = {field.name: field.type for field in msgspec.structs.fields(Pool) if field.name in RUN_TIME_SETTINGS}
    for name in values:
        if name not in kinds:
            raise ConfigError(f"{name}: no such setting; {_hint(name, kinds)}")
    changed = {
        name: _convert(value, inspect.type_info(kinds[name]), kinds[name], name) for name, value in values.items()
    }
    pool = msgspec.structs.replace(pool, **changed)
    check_pool(pool, f"pool {pool.name}")
    return pool


def read(cls: type[_S], file: str | os.PathLike[str]) -> _S:
    """Read another TOML file than the configuration into a struct, with errors like those of `load`.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return _fill(cls, _read(Path(file)), f"{file}: ")


def variables() -> dict[str, tuple[str, str]]:
    """Every environment variable that is read, with its section and key."""
    return {
        f"{ENV_PREFIX}{section.name}__{key.name}".upper(): (section.name, key.name)
        for section in msgspec.structs.fields(Config)
        if section.name not in _LISTS
        for key in msgspec.structs.fields(section.type)
    }


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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _fill(cls: type[_S], table: object, prefix: str) -> _S:
    """Make a struct of a TOML table; `prefix` and a key together name that key in an error."""
    if not isinstance(table, dict):
        raise ConfigError(f"{prefix.rstrip('.: ')}: expected a table, got {_shown(table)}")
    fields = {field.name: field.type for field in msgspec.structs.fields(cls)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: no such key; {_hint(key, fields)}")
        values[key] = _convert(value, inspect.type_info(fields[key]), fields[key], prefix + key)
    for field in msgspec.structs.fields(cls):
        if field.required and field.name not in values:
            raise ConfigError(f"{prefix}{field.name}: expected {_expected(inspect.type_info(field.type))}, got nothing")
    return cls(**values)


def _fill_pool(table: object, prefix: str) -> Pool:
    """Make one pool; its provider may be another package's."""
    known = {field.name for field in msgspec.structs.fields(Pool)}
    if not isinstance(table, dict) or (table.get("provider", "local") in BUILT_IN_PROVIDERS and table.keys() <= known):
        return _fill(Pool, table, prefix)
    others, name = plugins(), table.get("provider", "local")
    if isinstance(name, str) and name not in (*BUILT_IN_PROVIDERS, *others):
        here = ", ".join(sorted({*BUILT_IN_PROVIDERS, *others}))
        raise ConfigError(f"{prefix}provider: expected one of {here}, got {_shown(name)}")
    # The table of a provider that is not the one in use is left alone, as it is its provider's.
    pool = _fill(Pool, {key: value for key, value in table.items() if key not in others}, prefix)
    if pool.provider in BUILT_IN_PROVIDERS:
        return pool
    own = table.get(pool.provider, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{prefix}{pool.provider}: expected a table, got {_shown(own)}")
    return PluginPool(**{name: getattr(pool, name) for name in known}, table=own)


def _convert(value: Any, info: inspect.Type, kind: Any, where: str) -> Any:
    """Check one value against the type of its key, and go down into tables."""
    if isinstance(info, inspect.StructType):
        return _fill(info.cls, value, f"{where}.")
    if isinstance(info, inspect.VarTupleType) and isinstance(info.item_type, inspect.StructType):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list of tables, got {_shown(value)}")
        cls = info.item_type.cls
        if cls is Pool:
            return tuple(_fill_pool(item, _item(where, index, item)) for index, item in enumerate(value))
        return tuple(_fill(cls, item, _item(where, index, item)) for index, item in enumerate(value))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise ConfigError(f"{where}: expected {_expected(info)}{_got(value, where)}") from None


def _got(value: object, where: str) -> str:
    """What was found instead, without what may be a password."""
    if _SECRET.search(where):
        return ""
    if isinstance(value, str) and where.lower().endswith(("store.url", "store__url", "engine.url", "engine__url")):
        scheme, rest = re.findall(r"(?s)\A([a-z]*:?//)?(.*)", value.partition("?")[0])[0]
        value = scheme + ("…" if re.search("[:@]", rest) else rest)
    return f", got {_shown(value)}"


def _item(where: str, index: int, item: object) -> str:
    """The prefix of the keys of one table of a list: a pool goes by its name."""
    if not where.endswith(": pools"):
        return f"{where}[{index}]."
    name = item.get("name", "default") if isinstance(item, dict) else index + 1
    return f"{where.removesuffix('pools')}[[pools]] {_shown(name)}: "


def _expected(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case inspect.FloatType(gt=None, ge=low, le=high):
            return f"a number from {low:.15g} to {high:.15g}"
        case inspect.FloatType(le=high):
            return f"a number above 0, at most {high:.15g}"
        case inspect.UnionType(types=kinds):
            return _expected(next(kind for kind in kinds if not isinstance(kind, inspect.NoneType)))
        case inspect.BoolType():
            return "true or false"
        case inspect.DictType():
            return "a table"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(str(value) or repr(value) for value in values)}"
        case inspect.VarTupleType(item_type=item):
            return f"a list, each of it {_expected(item)}"
        case _:
            return "a text"


def _shown(value: object) -> str:
    """A value as an error shows it: short, on one line."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _hint(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


def _overlay(config: Config, env: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
    """Put the environment's values over the file's; also return which variable gave which key."""
    known = variables()
    sources = {}
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        for tables in _LISTS:
            if name.startswith(f"{ENV_PREFIX}{tables.upper()}__"):
                raise ConfigError(f"{name}: {tables} can be set only in the configuration file, under [[{tables}]]")
        if name not in known:
            raise ConfigError(f"{name}: no such key; {_hint(name, known)}")
        section, key = known[name]
        table = getattr(config, section)
        kind = next(field.type for field in msgspec.structs.fields(table) if field.name == key)
        info = inspect.type_info(kind)
        value = _convert(_parse(env[name], info, name), info, kind, name)
        config = msgspec.structs.replace(config, **{section: msgspec.structs.replace(table, **{key: value})})
        sources[f"{section}.{key}"] = name
    return config, sources


def _parse(text: str, info: inspect.Type, name: str) -> Any:
    """The value that a variable's text stands for: lists are JSON, or texts between commas."""
    if isinstance(info, inspect.VarTupleType):
        if not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{name}: expected a list in JSON: {error}") from None
    scalars = {inspect.IntType: int, inspect.FloatType: float, inspect.BoolType: bool}
    try:
        return msgspec.convert(text, scalars.get(type(info), str), strict=False)
    except msgspec.ValidationError:
        return text


def _rebase(config: Config, folder: Path) -> Config:
    """Make the relative paths of a file relative to its folder."""
    replace = msgspec.structs.replace

    def moved(path: str) -> str:
        return str(folder / path) if path else path

    def model(name: str) -> str:
        return moved(name) if name.partition(":")[0].endswith(".py") else name

    def rebased(pool: Pool) -> Pool:
        kubernetes = replace(
            pool.kubernetes,
            kubeconfig=moved(pool.kubernetes.kubeconfig),
            pod_template=moved(pool.kubernetes.pod_template),
        )
        pool = replace(
            pool,
            local=replace(pool.local, state=moved(pool.local.state), model=model(pool.local.model)),
            ssh=replace(pool.ssh, key=moved(pool.ssh.key), known_hosts=moved(pool.ssh.known_hosts)),
            kubernetes=kubernetes,
        )
        return replace(pool, folder=str(folder)) if isinstance(pool, PluginPool) else pool

    server = config.server
    return replace(
        config,
        server=replace(server, tls_cert=moved(server.tls_cert), tls_key=moved(server.tls_key)),
        store=Store(url=f"sqlite:///{folder / path}") if (path := config.store.path) else config.store,
        pools=tuple(rebased(pool) for pool in config.pools),
    )


def _check(config: Config, where: Callable[[str], str]) -> None:
    """Find the mistakes that lie between keys; `where` names a key in an error."""
    _check_server(config.server, where)
    for index, ice in enumerate(config.ice.servers):
        here = f"{where('ice.servers')}[{index}]"
        if not ice.urls:
            raise ConfigError(f"{here}.urls: expected at least one address")
        if not (ice.username and ice.credential) and any(url.startswith("turn") for url in ice.urls):
            raise ConfigError(f"{here}: expected username and credential, since a TURN server wants them")
    if not config.pools:
        raise ConfigError(f"{where('pools')}: expected at least one pool")
    for index, pool in enumerate(config.pools):
        here = f"{where('pools').removesuffix('pools')}[[pools]] {_shown(pool.name)}"
        if pool.name in [other.name for other in config.pools[:index]]:
            raise ConfigError(f"{here}: name: expected a name of its own, another pool has this one")
        check_pool(pool, here)
        if mistake := fallback_mistake(pool.name, {other.name: other.fallback for other in config.pools}):
            raise ConfigError(f"{here}: {mistake}")
    _check_projects(config, where)


def _check_projects(config: Config, where: Callable[[str], str]) -> None:
    for index, project in enumerate(config.projects):
        here = f"{where('projects')}[{index}]"
        if project.id in [other.id for other in config.projects[:index]]:
            raise ConfigError(f"{here}.id: expected an id of its own, another table has {project.id}")
        if mistake := project_mistake(project, {pool.name: pool.projects for pool in config.pools}):
            raise ConfigError(f"{here}.{mistake}")


def _check_server(server: Server, where: Callable[[str], str]) -> None:
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        file = getattr(server, key)
        if not file and getattr(server, other):
            raise ConfigError(f"{where(f'server.{key}')}: expected a file, since {other} is set")
        if file and not os.path.isfile(file):
            raise ConfigError(f"{where(f'server.{key}')}: expected a file, and {file} is none")
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            expected = "expected IP addresses or networks such as 10.0.0.0/8"
            raise ConfigError(f"{where('server.trusted_proxies')}: {expected}, got {_shown(proxy)}") from None


def check_pool(pool: Pool, here: str) -> None:
    """Find the mistakes that lie between the keys of a pool; raises ConfigError, with `here` before the key."""
    most = pool.max_nodes * pool.slots
    if pool.provider != "static" and pool.min_ready > most:
        raise ConfigError(f"{here}: min_ready: expected at most max_nodes times slots = {most}, got {pool.min_ready}")
    if pool.hold_beta and pool.hold_beta < pool.beta:
        raise ConfigError(f"{here}: hold_beta: expected 0, or at least beta = {pool.beta:g}, got {pool.hold_beta:g}")
    for index, schedule in enumerate(pool.schedules):
        if mistake := schedule_mistake(schedule, pool.spec()):
            raise ConfigError(f"{here}: schedules[{index}].{mistake}")
    if check := _CHECKS.get(pool.provider):
        check(getattr(pool, pool.provider), f"{here}: {pool.provider}")


def _check_command(options: CommandOptions, here: str) -> None:
    for key in ("create", "start", "stop", "destroy"):
        if not getattr(options, key).strip():
            raise ConfigError(f"{here}.{key}: expected a shell command")


def _check_docker(options: DockerOptions, here: str) -> None:
    if not options.image.strip():
        raise ConfigError(f"{here}.image: expected the name of an image")


def _check_ssh(options: SshOptions, here: str) -> None:
    if not options.hosts:
        raise ConfigError(f"{here}.hosts: expected at least one host")
    twice = [host for index, host in enumerate(options.hosts) if host in options.hosts[:index]]
    if twice:
        raise ConfigError(f"{here}.hosts: expected each host once, got {twice[0]} twice; see nodes_per_host")
    if not options.command.strip():
        raise ConfigError(f"{here}.command: expected a shell command that runs `rtcbridge node`")
    for key in ("key", "known_hosts"):
        file = getattr(options, key)
        if file and not os.path.isfile(file):
            raise ConfigError(f"{here}.{key}: expected a file, and {file} is none")


def _check_ec2(options: Ec2Options, here: str) -> None:
    if not options.launch_template and not (options.image and options.instance_types):
        raise ConfigError(f"{here}.launch_template: expected its name or id, or else both image and instance_types")
    if options.subnets and options.zones:
        raise ConfigError(f"{here}.zones: expected none beside subnets, each of which is in one zone")


def _check_kubernetes(options: KubernetesOptions, here: str) -> None:
    for key in ("kubeconfig", "pod_template"):
        file = getattr(options, key)
        if file and not os.path.isfile(file):
            raise ConfigError(f"{here}.{key}: expected a file, and {file} is none")
    if not options.image.strip() and not options.pod_template:
        raise ConfigError(f"{here}.image: expected the name of an image, or a pod_template that has one")


_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "command": _check_command,
    "ssh": _check_ssh,
    "docker": _check_docker,
    "ec2": _check_ec2,
    "kubernetes": _check_kubernetes,
}
