"""What Prometheus reads at `server.metrics`, by Prometheus' own parsers."""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from docs.pages import ROOT
from gateway.bridges import Running, running
from gateway.shared.replicas import replicas
from rtcbridge.config import Nodes
from rtcbridge.config import Server as ServerConfig
from rtcbridge.gateway.server import Server

Figures = dict[str, float]
PAGE = ROOT / "docs" / "metrics.md"
ON = ServerConfig(port=0, metrics="127.0.0.1:0")


async def ask(server: Server, accept: str = "") -> httpx.Response:
    assert server.metrics is not None
    url = f"http://127.0.0.1:{server.metrics.port}/metrics"
    async with httpx.AsyncClient(trust_env=False, headers={"accept": accept}) as client:
        return await client.get(url)


async def figures(bridge: Running) -> Figures:
    """Every sample, by its name with the labels behind it."""
    text = (await ask(bridge.server)).text
    return {
        f"{sample.name} {' '.join(sample.labels.values())}".rstrip(): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def told(server: Server) -> set[tuple[str, tuple[str, ...]]]:
    """The names of the bridge's own figures, with their labels."""
    families = text_string_to_metric_families((await ask(server)).text)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, tuple(sample.labels)) for sample in samples if not sample.name.startswith("process_")}


def documented(texts: Iterable[str]) -> list[set[tuple[str, tuple[str, ...]]]]:
    """The same of each table."""
    tables = [re.findall(r"^\| `(rtcbridge_\w+)` \| ([\w, ]*?) ?\|", text, re.MULTILINE) for text in texts]
    return [{(name, tuple(each for each in labels.split(", ") if each)) for name, labels in rows} for rows in tables]


@asynccontextmanager
async def measured(folder: Path) -> AsyncIterator[Running]:
    async with running(folder, server=ON, nodes=Nodes(heartbeat=60.0)) as bridge:
        yield bridge


async def test_sessions_slots_and_the_line_are_told(tmp_path: Path) -> None:
    async with measured(tmp_path) as bridge, bridge.node(capacity=1), bridge.client() as first:
        assert await first.start_session() == "answer to an offer"
        async with bridge.client() as second:
            await second.send(type="session_start")
            await second.expect("node_status", status="full")
            found = await figures(bridge)
            assert found["rtcbridge_ready"] == 1
            assert found["rtcbridge_clients"] == 2
            assert found["rtcbridge_sessions default full"] == 1
            assert sum(value for name, value in found.items() if name.startswith("rtcbridge_sessions default ")) == 2
            assert found["rtcbridge_sessions_started_total default"] == 1
            assert found["rtcbridge_sessions_ended_total default"] == 0
            assert found["rtcbridge_nodes default ready"] == 1
            assert (found["rtcbridge_slots default used"], found["rtcbridge_slots default free"]) == (1, 0)
            assert found["rtcbridge_waiting default"] == 1
            assert found["rtcbridge_waiting_seconds default"] >= 0
            assert found["rtcbridge_provider_paused default"] == 0
            assert found["process_open_fds"] > 4
            await first.close()
            await second.expect("node_status", status="waiting")
            found = await figures(bridge)
            assert found["rtcbridge_sessions_ended_total default"] == 1
            assert found["rtcbridge_waiting default"] == 0


async def test_the_page_has_every_name_with_its_labels(tmp_path: Path) -> None:
    alone, shared = documented(PAGE.read_text().partition("Only where several bridges share pools:")[::2])
    async with measured(tmp_path) as bridge, bridge.node(), bridge.client() as client:
        assert await client.start_session() == "answer to an offer"
        assert await told(bridge.server) == alone
    (tmp_path / "shared").mkdir()
    async with replicas(tmp_path / "shared", 1, server=ON) as those:
        assert shared <= await told(those.all[0].server) <= alone | shared


async def test_a_bridge_that_is_not_ready_says_so(tmp_path: Path) -> None:
    async with measured(tmp_path) as bridge:
        bridge.server._ready = False  # as while it starts or stops
        assert (await figures(bridge))["rtcbridge_ready"] == 0


async def test_both_formats_are_valid(tmp_path: Path) -> None:
    async with measured(tmp_path) as bridge:
        plain = await ask(bridge.server)
        assert plain.headers["content-type"].startswith("text/plain; version=")
        wanted = await ask(bridge.server, "application/openmetrics-text; version=1.0.0")
        assert wanted.headers["content-type"].startswith("application/openmetrics-text")
        names = {family.name for family in parse_openmetrics(wanted.text)}
        assert {"rtcbridge", "rtcbridge_sessions_started"} <= names


async def test_the_public_port_has_none_of_it_and_the_other_nothing_else(tmp_path: Path) -> None:
    async with measured(tmp_path) as bridge, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{bridge.port}/metrics")).status_code == 404
        assert bridge.server.metrics is not None
        base = f"http://127.0.0.1:{bridge.server.metrics.port}"
        for path in ("/", "/client", "/v1/admin/pools"):
            assert (await client.get(f"{base}{path}")).status_code == 404


async def test_there_are_none_unless_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        assert bridge.server.metrics is None


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    async with measured(tmp_path) as bridge:
        assert bridge.server.metrics is not None
        taken = f"127.0.0.1:{bridge.server.metrics.port}"
        with pytest.raises(OSError, match=f"server.metrics {taken}"):
            async with running(tmp_path / "other", server=ServerConfig(port=0, metrics=taken)):
                pass
