"""The browser's socket is cut for some seconds: the video goes on, and so do commands, on a socket that takes it up."""

import asyncio
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from drivers.tcp_proxy import TcpProxy
from e2e.conftest import OpenPage
from gateway.programs import Home, until
from rtcbridge.drivers.providers import sweep

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONFIG = """
[[pools]]
name = "default"
provider = "local"
slots = 1
min_ready = 1
max_nodes = 1
[pools.local]
model = "sketch"
state = "nodes"
"""
UPDATE = "(params) => window.session.update(params, { via: 'socket' })"
UPDATE_LATER = "(params) => { window.later = window.session.update(params, { via: 'socket' }); }"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    place = Home(tmp_path_factory.mktemp("resume"), CONFIG)
    try:
        place.serve()
        yield place
    finally:
        place.dispose()
        asyncio.run(sweep(place.folder / "nodes"))


def test_the_socket_is_cut_while_the_video_goes_on(service: Home, open_page: OpenPage) -> None:
    page, key = open_page(), service.client_key()
    with TcpProxy(int(service.page.rpartition(":")[2])) as proxy:
        page.start(f"http://127.0.0.1:{proxy.port}", key=key)
        page.advance(15)
        (session,) = until(lambda: [row for row in service.sessions() if row.ended is None], "the session is stored")
        assert page.page.evaluate(UPDATE, {"strength": 0.5})["strength"] == 0.5
        page.watch_gaps()

        proxy.refuse()
        proxy.cut()
        page.says("The bridge is away.")
        page.page.evaluate(UPDATE_LATER, {"strength": 0.25})  # kept until there is a socket again
        page.advance(90)
        page.says("The bridge is away.")

        proxy.accept()
        assert page.page.evaluate("() => window.later")["strength"] == 0.25
        expect(page["error"]).to_be_hidden()
        assert page.page.evaluate(UPDATE, {"strength": 0.75})["strength"] == 0.75
        page.advance(30)
        frames, longest = page.gaps()
        assert frames >= 120
        assert longest < 1.5
        assert (page.states()[-1], page.states().count("live"), page.peers()) == ("live", 1, 1)
        assert [row.id for row in service.sessions() if row.ended is None] == [session.id]

        page["stop"].click()
        until(lambda: service.sessions()[0].ended, "the session has ended")


def test_the_place_in_line_is_kept_while_the_socket_is_gone(service: Home, open_page: OpenPage) -> None:
    first, second, key = open_page(), open_page(), service.client_key()
    first.start(service.page, key=key)
    with TcpProxy(int(service.page.rpartition(":")[2])) as proxy:
        second.page.goto(f"http://127.0.0.1:{proxy.port}/?autostart=clip#key={key}")
        second.is_in("full")
        proxy.cut()
        third = open_page()
        third.page.goto(f"{service.page}/?autostart=clip#key={key}")
        third.is_in("full")
        expect(third.page.get_by_text("number 2")).to_be_visible()
        first["stop"].click()
        second.is_in("live")
        third.is_in("full")
        assert second.peers() == 1
