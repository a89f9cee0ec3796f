"""Providers are entry points: those of this package, and what is wrong with those of others."""

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rtcbridge import config
from rtcbridge.config import BUILT_IN_PROVIDERS, PROVIDER_GROUP, ConfigError, PluginPool, Pool
from rtcbridge.drivers.providers import BUILT_IN, LocalProvider, make_provider

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_what_is_registered_is_what_is_built_in():
    registered = PROJECT["entry-points"][PROVIDER_GROUP]
    assert registered == {name: entry.value for name, entry in BUILT_IN.items()}
    assert tuple(registered) == BUILT_IN_PROVIDERS
    assert all(callable(entry.load()) for entry in BUILT_IN.values())


def test_each_that_needs_more_is_an_extra():
    assert {"docker", "ec2", "kubernetes", "ssh"} <= PROJECT["optional-dependencies"].keys()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with these entry points and this module `plug`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(module: str, *names: str, package: str = "plug", value: str = "plug:make") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name in names)
        (info / "entry_points.txt").write_text(f"[{PROVIDER_GROUP}]\n{lines}")
        (tmp_path / "plug.py").write_text(module)

    yield install
    sys.modules.pop("plug", None)


def load(tmp_path, text: str) -> Pool:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    (pool,) = config.load(file, {}).pools
    return pool


def mistake(call, *given) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nobody_takes_the_place_of_a_built_in_provider(install):
    install("raise SystemExit", "local", "name", "idle_timeout")
    assert config.plugins() == {}
    assert isinstance(make_provider(Pool()), LocalProvider)


def test_an_unknown_provider_is_told_what_there_is(install, tmp_path):
    install("", "acme")
    known = "acme, command, docker, ec2, kubernetes, local, ssh, static"
    text = mistake(load, tmp_path, '[[pools]]\nname = "gpu"\nprovider = "acne"\n[pools.acne]\nx = 1\n')
    assert text.endswith(f'/bridge.toml: [[pools]] "gpu": provider: expected one of {known}, got "acne"')
    text = mistake(make_provider, Pool(name="gpu", provider="acne"))
    assert text == f'[[pools]] "gpu": provider: expected one of {known}, got acne'


def test_a_table_may_wait_for_its_provider(install, tmp_path):
    install("", "acme")
    pool = load(tmp_path, '[[pools]]\n[pools.acme]\nanything = [1, {x = "y"}]\n')
    assert type(pool) is Pool
    text = mistake(load, tmp_path, "[[pools]]\n[pools.other]\nx = 1\n")
    assert "other: no such key" in text
    text = mistake(load, tmp_path, '[[pools]]\nprovider = "acme"\nacme = 3\n')
    assert text.endswith("acme: expected a table, got 3")


def test_a_pool_without_a_table_gets_an_empty_one(install, tmp_path):
    install("", "acme")
    pool = load(tmp_path, '[[pools]]\nprovider = "acme"\n')
    assert isinstance(pool, PluginPool)
    assert pool.table == {}


def test_two_packages_with_one_name_are_refused(install, tmp_path):
    install("", "acme")
    install("", "acme", package="plug2", value="plug:other")
    text = mistake(load, tmp_path, '[[pools]]\nprovider = "acme"\n')
    assert "two packages have a provider acme: plug:" in text


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("import no_such_module", "no module no_such_module, which plug 1.0 wants"),
        ("def make(pool): import no_such_module", "no module no_such_module, which plug 1.0 wants"),
        ("x = 1", "plug:make cannot be loaded: AttributeError: module 'plug' has no attribute 'make'"),
        ("def make(:", "plug:make cannot be loaded: SyntaxError: invalid syntax (plug.py, line 1)"),
        ("from os import no_such", "plug:make cannot be loaded: ImportError: cannot import name 'no_such' from 'os'"),
        ("class A: pass\nA().b", "plug:make cannot be loaded: AttributeError: 'A' object has no attribute 'b'"),
        ("raise SystemError('a\\nb')", "plug:make cannot be loaded: SystemError: a b"),
        (
            "def make(pool): return pool",
            "plug:make: expected a rtcbridge.ports.Provider, got one without create, start, stop, destroy, list, close",
        ),
    ],
)
def test_a_package_that_is_not_usable_is_told_in_one_line(install, tmp_path, module, expected):
    install(module, "acme")
    pool = load(tmp_path, '[[pools]]\nname = "gpu"\nprovider = "acme"\n')
    assert mistake(make_provider, pool).startswith(f'[[pools]] "gpu": provider acme: {expected}')


OPTIONS = """
from rtcbridge.config import ConfigError
from msgspec import Struct

class Inner(Struct, frozen=True):
    n: int = 1

class Options(Struct):
    token: str
    inner: Inner = Inner()
    extra: dict[str, int] = {}
    list: tuple[str, ...] = ()

def make(pool):
    options = pool.fill(Options)
    raise ConfigError(f"acme.token: expected another, {options.inner.n} {options.extra} {options.list} {pool.slots}")
"""


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "acme.token: expected a text, got nothing"),
        ("token = 12345678", "acme.token: expected a text"),
        ('token = "x"\ninner = {m = 1}', "acme.inner.m: no such key; expected one of n"),
        ('token = "x"\nextra = 3', "acme.extra: expected a table, got 3"),
        (
            'token = "x"\ninner = {n = 2}\nextra = {a = 3}\nlist = ["z"]',
            "acme.token: expected another, 2 {'a': 3} ('z',) 5",
        ),
    ],
)
def test_a_package_fills_its_own_options(install, tmp_path, table, expected):
    install(OPTIONS, "acme")
    pool = load(tmp_path, f'[[pools]]\nname = "gpu"\nprovider = "acme"\nslots = 5\n[pools.acme]\n{table}\n')
    assert mistake(make_provider, pool) == f'[[pools]] "gpu": {expected}'


def test_entry_points_of_this_package_may_be_older_than_its_source(monkeypatch):
    """An editable installation has the metadata of the day that it was made."""
    monkeypatch.setattr("rtcbridge.config.pool.entry_points", lambda group: ())
    assert isinstance(make_provider(Pool()), LocalProvider)
    stale = EntryPoint("local", "rtcbridge.no.such:module", PROVIDER_GROUP)
    monkeypatch.setattr("rtcbridge.config.pool.entry_points", lambda group: (stale,))
    assert isinstance(make_provider(Pool()), LocalProvider)
