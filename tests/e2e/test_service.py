"""The bridge as a service: keys, a line, nodes and bridges that die, and a user's own model. The engine is aiortc."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from e2e.conftest import OpenPage
from gateway.programs import RTCBRIDGE, Home, Program, environment, until
from rtcbridge.drivers.providers import sweep

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLOSE = 6.0  # of 255
CONFIG = """
[[pools]]
name = "default"
provider = "local"
slots = 1
min_ready = 1
max_nodes = 1
[pools.local]
model = "passthrough"
engine = "aiortc"
state = "nodes"

[[pools]]
name = "own"
provider = "static"
projects = ["OWN001"]
"""
OWN_MODEL = """
import rtcbridge


@rtcbridge.model
def invert(frame, params):
    return 255 - frame
"""


class Service(Home):
    """The bridge that these tests share; one of them kills it and starts it again."""

    bridge: Program
    key: str

    def node_process(self) -> int:
        (file,) = self.folder.glob("nodes/default/*/process.json")
        return int(json.loads(file.read_text())["pid"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = Service(tmp_path_factory.mktemp("service"), CONFIG)
    try:
        place.key = place.client_key()
        place.bridge = place.serve()
        yield place
    finally:
        place.dispose()
        asyncio.run(sweep(place.folder / "nodes"))


def test_the_page_asks_for_a_key(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    page.page.goto(service.page)
    expect(page["key-form"]).to_be_visible()
    expect(page["start"]).to_be_disabled()
    page["key-input"].fill("sk_TEST01_notakeyatall")
    page["key-submit"].click()
    page.says("The key was not accepted.")
    page["key-input"].fill(service.key)
    page["key-submit"].click()
    expect(page["key-form"]).to_be_hidden()
    expect(page["error"]).to_be_hidden()
    page["start"].click()
    page.is_in("live")
    page.advance(15)
    seen = page.watch()
    assert seen.source.motion > 1.0
    assert seen.steadiness() > 0.9
    assert seen.difference() < CLOSE
    page.page.reload()  # the key stays in this tab
    expect(page["key-form"]).to_be_hidden()


def test_a_second_client_waits_in_line_and_is_served_when_the_first_leaves(
    service: Service, open_page: OpenPage
) -> None:
    first, second = open_page(), open_page()
    first.start(service.page, key=service.key)
    second.page.goto(f"{service.page}/?autostart=clip#key={service.key}")
    second.is_in("full")
    expect(second["state"]).to_have_text(re.compile("In line"))
    expect(second.page.get_by_text("You are in line, and next.")).to_be_visible()
    first.advance(10)  # undisturbed
    first["stop"].click()
    first.is_in("ended")
    second.is_in("live")
    second.advance(10)
    assert "pending" not in second.states()


def test_a_killed_node_is_told_and_made_good(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    page.start(service.page, key=service.key)
    page.advance(10)
    nodes, process = service.nodes(), service.node_process()
    os.kill(process, signal.SIGKILL)
    page.says("The node was lost.")
    page.is_in("live")
    expect(page["error"]).to_be_hidden()
    page.advance(10)
    assert page.watch(1.5).difference() < CLOSE
    assert service.nodes().keys() == nodes.keys()  # started again, not made anew
    assert service.node_process() != process


def test_the_bridge_is_killed_and_the_video_goes_on(service: Service, open_page: OpenPage) -> None:
    page = open_page()
    page.start(service.page, key=service.key)
    page.advance(30)
    (session,) = until(lambda: [row for row in service.sessions() if row.ended is None], "the session is stored")
    nodes, process = service.nodes(), service.node_process()
    page.watch_gaps()
    service.bridge.kill()
    page.says("The bridge is away.")
    page.advance(60)
    service.bridge = service.serve()
    registered = service.bridge.event("node registered")
    page.advance(60)
    frames, longest = page.gaps()
    assert frames >= 120
    assert longest < 1.5

    (node,) = service.nodes().values()
    assert (node.id, node.state) == (session.node, "ready")
    assert nodes.keys() == {node.id}
    assert registered["epoch"] == nodes[node.id].epoch + 1
    assert json.loads(node.labels)["engine"] == "aiortc"
    assert service.node_process() == process
    assert [row.id for row in service.sessions() if row.ended is None] == [session.id]
    assert (page.states()[-1], page.peers()) == ("live", 1)

    other = open_page()  # whose key is known still, and for whom there is no slot yet
    other.page.goto(f"{service.page}/?autostart=clip#key={service.key}")
    other.is_in("full")
    page["stop"].click()
    other.is_in("live")
    until(lambda: service.sessions()[1].ended, "the first session has ended")


def test_a_users_own_model(service: Service, open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(OWN_MODEL)
    command = ("node", "app.py:invert", "--bridge", service.url, "--key", service.node_key("own"), "--pool", "own")
    node = Program(*RTCBRIDGE, *command, env=environment(), cwd=tmp_path)
    try:
        node.line("registered")
        page = open_page()
        page.start(service.page, key=service.client_key("OWN001"))
        expect(page.page.locator("#model-title")).to_have_text("Invert")
        page.advance(15)
        seen = page.watch()
        assert seen.steadiness() > 0.9
        assert seen.difference(lambda frames: 255 - frames) < CLOSE
        assert seen.difference() > 25
        assert node.end() == 0
        page.says("The session was ended.")
    finally:
        node.dispose()
