"""A bridge that takes no secret key from a page: the page is shown a client token instead."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from e2e.conftest import OpenPage
from e2e.test_service import CONFIG
from gateway.programs import Home
from rtcbridge.drivers.providers import sweep

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    place = Home(tmp_path_factory.mktemp("guarded"), f"[auth]\nsecret_keys_from_browsers = false\n{CONFIG}")
    try:
        place.serve()
        yield place
    finally:
        place.dispose()
        asyncio.run(sweep(place.folder / "nodes"))


def test_a_page_gets_in_with_a_token_alone(guarded: Home, open_page: OpenPage) -> None:
    key = guarded.client_key()
    page = open_page()
    page.page.goto(f"{guarded.page}/?autostart=clip#key={key}")
    page.says("The key was not accepted.")
    asked = {"origins": [guarded.page.rstrip("/")], "max_sessions": 1, "expires_in": 600}
    answer = httpx.post(f"{guarded.page}/v1/tokens", json=asked, auth=(key, ""), trust_env=False)
    assert answer.status_code == 201, answer.text
    token = answer.json()["token"]
    first, second = open_page(), open_page()
    first.start(guarded.page, key=token)
    first.advance(15)
    second.page.goto(f"{guarded.page}/?autostart=clip#key={token}")
    second.says("No further session may begin.")
    first["stop"].click()
    first.is_in("ended")
    expect(second["error-action"]).to_be_visible()
    second["error-action"].click()
    second.is_in("live")
    second.advance(15)
