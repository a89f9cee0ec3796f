"""Reading the configuration: one TOML file, and the environment over it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect

from rtcbridge.config.checks import check, check_pool
from rtcbridge.config.filling import ConfigError, convert, fill, hint, read_table
from rtcbridge.config.pool import PluginPool, Pool
from rtcbridge.config.tables import Store
from rtcbridge.config.whole import Config

ENV_PREFIX = "RTCBRIDGE_"
_LISTS = ("pools", "projects")  # lists of tables, which no variable can set
_S = TypeVar("_S", bound=Struct)


def load(file: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration from a TOML file, if any, and the environment.

    Relative paths of a file (`store.url`, `server.tls_cert`, …) are relative to its folder, those of the
    environment to the working directory.

    Raises:
        ConfigError: the file cannot be read, or something in it or in the environment is wrong.
    """
    path = Path(file) if file is not None else None
    config = fill(Config, read_table(path), f"{path}: ") if path else Config()
    if path:
        config = _rebase(config, path.parent)
    config, sources = _overlay(config, env)
    check(config, lambda key: sources.get(key, f"{path}: {key}" if path else key))
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
            raise ConfigError(f"{name}: no such setting; {hint(name, kinds)}")
    changed = {
        name: convert(value, inspect.type_info(kinds[name]), kinds[name], name) for name, value in values.items()
    }
    pool = msgspec.structs.replace(pool, **changed)
    check_pool(pool, f"pool {pool.name}")
    return pool


def read(cls: type[_S], file: str | os.PathLike[str]) -> _S:
    """Read another TOML file than the configuration into a struct, with errors like those of `load`.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return fill(cls, read_table(Path(file)), f"{file}: ")


def variables() -> dict[str, tuple[str, str]]:
    """Every environment variable that is read, with its section and key; a key of a table in the section has a dot."""
    return {
        f"{ENV_PREFIX}{section.name}__{key}".replace(".", "__").upper(): (section.name, key)
        for section in msgspec.structs.fields(Config)
        if section.name not in _LISTS
        for key in _keys(section.type)
    }


def _keys(table: type[Struct]) -> Iterator[str]:
    for field in msgspec.structs.fields(table):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from (f"{field.name}.{key}" for key in _keys(field.type))
        else:
            yield field.name


def _set(table: _S, key: str, text: str, name: str) -> _S:
    """Set a key of a table, or of one in it, to what the text of the variable `name` stands for."""
    first, _, rest = key.partition(".")
    if rest:
        return msgspec.structs.replace(table, **{first: _set(getattr(table, first), rest, text, name)})
    kind = next(field.type for field in msgspec.structs.fields(table) if field.name == key)
    info = inspect.type_info(kind)
    return msgspec.structs.replace(table, **{key: convert(_parse(text, info, name), info, kind, name)})


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
            raise ConfigError(f"{name}: no such key; {hint(name, known)}")
        section, key = known[name]
        config = msgspec.structs.replace(config, **{section: _set(getattr(config, section), key, env[name], name)})
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
