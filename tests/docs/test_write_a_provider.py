"""docs/how-to/write-a-provider.md: its package is found, passes the suite as the page has it, and serves a bridge."""

import asyncio
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.acme_cloud import Cloud
from docs.pages import ROOT, blocks
from gateway.programs import Home, environment, until
from rtcbridge import config
from rtcbridge.config import ConfigError, PluginPool
from rtcbridge.drivers.providers import make_provider
from rtcbridge.testing import FakeClient

PAGE = ROOT / "docs" / "how-to" / "write-a-provider.md"
FAKE_NODE = ROOT / "tests" / "gateway" / "fake_node.py"


def file(name: str) -> str:
    (block,) = [block for block in blocks("toml", "python", pages=[PAGE]) if block.info == name]
    return block.text


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the package of the page, as an installation leaves it."""
    folder = tmp_path / "site"
    project = tomllib.loads(file("pyproject.toml"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]
    lines = [line for group in points for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points[group].items()))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (folder / "acme_rtcbridge.py").write_text(file("acme_rtcbridge.py"))
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "acme_rtcbridge", raising=False)
    yield site
    sys.modules.pop("acme_rtcbridge", None)


def write(folder: Path, text: str) -> Path:
    made = folder / "bridge.toml"
    made.write_text(text)
    return made


def test_the_configuration_gives_the_table_to_the_package(installed: Path, tmp_path: Path) -> None:
    text = file("bridge.toml")
    (pool,) = config.load(write(tmp_path, text), {}).pools
    assert isinstance(pool, PluginPool)
    assert pool.table == tomllib.loads(text)["pools"][0]["acme"]
    assert (pool.name, pool.provider, pool.max_nodes, pool.folder) == ("gpu", "acme", 4, str(tmp_path))
    assert pool.spec().elastic
    provider = make_provider(pool)
    assert provider.list_interval == 10.0
    assert type(provider).__module__ == "acme_rtcbridge"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "acme.api: expected a text, got nothing"),
        ("api = 3", "acme.api: expected a text, got 3"),
        ('api = "x"\nsise = "l"', "acme.sise: no such key; did you mean size?"),
    ],
)
def test_a_mistake_in_the_table_names_its_key(installed: Path, tmp_path: Path, table: str, expected: str) -> None:
    text = f'[[pools]]\nname = "gpu"\nprovider = "acme"\n[pools.acme]\n{table}\n'
    (pool,) = config.load(write(tmp_path, text), {}).pools
    with pytest.raises(ConfigError) as caught:
        make_provider(pool)
    assert str(caught.value) == f'[[pools]] "gpu": {expected}'


def test_without_the_package_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'"gpu": provider: expected one of command, .*, static, got "acme"$'):
        config.load(write(tmp_path, file("bridge.toml")), {})


@pytest.mark.slow
def test_it_passes_the_suite_as_the_page_runs_it(site: Path, tmp_path: Path) -> None:
    (site / "test_acme.py").write_text(file("test_acme.py"))
    (site / "acme_cloud.py").write_text((ROOT / "tests" / "docs" / "acme_cloud.py").read_text())
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-W",
        "error",
        "--rootdir",
        str(site),
    ]
    paths = f"{site}:{ROOT / 'src'}"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_acme.py"],
        cwd=site,
        env=environment(PYTHONPATH=paths),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "10 passed" in ran.stdout


@pytest.mark.slow
async def test_a_bridge_makes_its_nodes_with_it(site: Path, tmp_path: Path) -> None:
    async with Cloud(tmp_path, (sys.executable, str(FAKE_NODE))) as cloud:
        text = file("bridge.toml").replace("https://api.acme.example", cloud.url)
        home = Home(tmp_path, text.replace("max_nodes = 4", "max_nodes = 1\nidle_timeout = 0.5"))
        paths = f"{site}:{ROOT / 'src'}"
        try:
            bridge = await asyncio.to_thread(home.serve, PYTHONPATH=paths)
            key = await asyncio.to_thread(home.client_key)
            async with FakeClient(home.url, key) as client:
                await client.start_session()
            (node,) = await asyncio.to_thread(home.nodes)
            assert cloud.calls == [f"PUT {node}"]
            await asyncio.to_thread(until, lambda: f"stop {node}" in cloud.calls, "stopped when idle")
            async with FakeClient(home.url, key) as client:
                await client.start_session()
            assert cloud.calls[2:] == [f"start {node}"]
            assert await asyncio.to_thread(bridge.end) == 0
        finally:
            await asyncio.to_thread(home.dispose)
