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
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, inspect

from rtcbridge.core.spec import PoolSpec

ENV_PREFIX = "RTCBRIDGE_"
_YEAR = 31_536_000.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a wildcard is dialled as
_S = TypeVar("_S", bound=Struct)

Seconds = Annotated[float, Meta(gt=0, le=_YEAR)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_YEAR)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Host = Annotated[str, Meta(pattern=r"^[^\s/]{1,255}\Z", description="a host name or an address")]
PublicUrl = Annotated[
    str,
    Meta(pattern=r"^((ws|http)s?://[^\s/?#]+[^\s?#]*)?\Z", description="a ws:// or wss:// address"),
]
SqliteUrl = Annotated[str, Meta(pattern=r"^sqlite:///[^\0?]+\Z", description="sqlite:///FILE")]
EngineUrl = Annotated[str, Meta(pattern=r"^memory://\Z", description="memory:// (the only engine of this version)")]
IceUrl = Annotated[
    str,
    Meta(pattern=r"^(stuns?|turns?):[^\s]{1,500}\Z", description="a stun: or turn: address"),
]
PoolName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z",
        description="a name of 1 to 63 letters, digits, '_', '.' or '-'",
    ),
]
Project = Annotated[str, Meta(pattern=r"^[A-Z0-9]{6}\Z", description="six characters A-Z 0-9")]
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
Ec2Tag = Annotated[
    str,
    Meta(pattern=r"^(?!aws:|rtcbridge:|Name=)[^\0=]{1,128}=[^\0]{0,256}\Z", description="KEY=VALUE, the key your own"),
]


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

    url: SqliteUrl = "sqlite:///rtcbridge.db"

    @property
    def path(self) -> Path:
        """The file of the SQLite database."""
        return Path(self.url.removeprefix("sqlite:///"))


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
    """`[pools.command]`: nodes made by four shell commands."""

    create: Text = ""
    start: Text = ""
    stop: Text = ""
    destroy: Text = ""
    timeout: Seconds = 300.0


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


ProviderOptions = StaticOptions | LocalOptions | CommandOptions | SshOptions | DockerOptions | Ec2Options


class Pool(Struct, frozen=True, kw_only=True):
    """One `[[pools]]` table: the nodes of one kind, and the provider that makes them."""

    name: PoolName = "default"
    provider: Literal["static", "local", "command", "ssh", "docker", "ec2"] = "local"
    projects: tuple[Project, ...] = ()
    slots: Annotated[int, Meta(ge=1, le=1000)] = 1
    min_ready: Annotated[int, Meta(ge=0, le=100_000)] = 0
    beta: Annotated[float, Meta(ge=0, le=100)] = 0.0
    max_nodes: Annotated[int, Meta(ge=0, le=10_000)] = 4
    idle_timeout: Seconds = 120.0
    stopped_timeout: SecondsOrZero = 86_400.0
    stopped_reserve: Annotated[int, Meta(ge=0, le=10_000)] = 0
    provision_timeout: Seconds = 600.0
    start_timeout: Seconds = 120.0
    boot_timeout: Seconds = 600.0
    lost_timeout: Seconds = 60.0
    drain_timeout: Seconds = 3600.0
    stop_timeout: Seconds = 120.0
    destroy_timeout: Seconds = 120.0
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

    @property
    def options(self) -> ProviderOptions:
        """The options of the provider that this pool names."""
        options: ProviderOptions = getattr(self, self.provider)
        return options

    def spec(self) -> PoolSpec:
        """The pool as the pure core wants it."""
        same = {field.name for field in msgspec.structs.fields(PoolSpec)} - {"elastic"}
        return PoolSpec(elastic=self.provider != "static", **{name: getattr(self, name) for name in same})


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

    def pool(self, name: str) -> Pool | None:
        """The pool of this name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def pool_for(self, project: str) -> str:
        """The name of the pool of a project's clients: its own, else the first that is nobody's, else the first."""
        own = [pool.name for pool in self.pools if project in pool.projects]
        shared = [pool.name for pool in self.pools if not pool.projects]
        return next(iter([*own, *shared, self.pools[0].name]))

    def pool_specs(self) -> tuple[PoolSpec, ...]:
        """The pools as the pure core wants them, in the order of the file."""
        return tuple(pool.spec() for pool in self.pools)

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


def variables() -> dict[str, tuple[str, str]]:
    """Every environment variable that is read, with its section and key."""
    return {
        f"{ENV_PREFIX}{section.name}__{key.name}".upper(): (section.name, key.name)
        for section in msgspec.structs.fields(Config)
        if section.name != "pools"
        for key in msgspec.structs.fields(section.type)
    }


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
    return cls(**values)


def _convert(value: Any, info: inspect.Type, kind: Any, where: str) -> Any:
    """Check one value against the type of its key, and go down into tables."""
    if isinstance(info, inspect.StructType):
        return _fill(info.cls, value, f"{where}.")
    if isinstance(info, inspect.VarTupleType) and isinstance(info.item_type, inspect.StructType):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list of tables, got {_shown(value)}")
        cls = info.item_type.cls
        return tuple(_fill(cls, item, _item(where, index, item)) for index, item in enumerate(value))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        got = "" if where.endswith("credential") else f", got {_shown(value)}"
        raise ConfigError(f"{where}: expected {_expected(info)}{got}") from None


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
        case inspect.BoolType():
            return "true or false"
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
        if name.startswith(f"{ENV_PREFIX}POOLS__"):
            raise ConfigError(f"{name}: pools can be set only in the configuration file, under [[pools]]")
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

    server = config.server
    return replace(
        config,
        server=replace(server, tls_cert=moved(server.tls_cert), tls_key=moved(server.tls_key)),
        store=Store(url=f"sqlite:///{folder / config.store.path}"),
        pools=tuple(
            replace(
                pool,
                local=replace(pool.local, state=moved(pool.local.state), model=model(pool.local.model)),
                ssh=replace(pool.ssh, key=moved(pool.ssh.key), known_hosts=moved(pool.ssh.known_hosts)),
            )
            for pool in config.pools
        ),
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
        _check_pool(pool, here)


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


def _check_pool(pool: Pool, here: str) -> None:
    most = pool.max_nodes * pool.slots
    if pool.provider != "static" and pool.min_ready > most:
        raise ConfigError(f"{here}: min_ready: expected at most max_nodes times slots = {most}, got {pool.min_ready}")
    if pool.provider == "command":
        for key in ("create", "start", "stop", "destroy"):
            if not getattr(pool.command, key).strip():
                raise ConfigError(f"{here}: command.{key}: expected a shell command")
    if pool.provider == "ssh":
        _check_ssh(pool.ssh, f"{here}: ssh")
    if pool.provider == "docker" and not pool.docker.image.strip():
        raise ConfigError(f"{here}: docker.image: expected the name of an image")
    if pool.provider == "ec2":
        _check_ec2(pool.ec2, f"{here}: ec2")


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
