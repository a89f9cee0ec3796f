"""examples/plain.html in a browser, with a bridge and a node that run examples/trails.py."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from docs.pages import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(ROOT / "examples"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo with the class of the examples as its model."""
    command = [sys.executable, "-m", "rtcbridge", "demo", "--port", "0", "--model", f"{ROOT}/examples/trails.py:Trails"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RTCBRIDGE_")}
    env |= {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stdout is not None
        try:
            yield next(found[0] for line in demo.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=20)


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        page = browser.new_page()
        mistakes: list[str] = []
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        yield page
        browser.close()
    assert mistakes == []


def start(page: Page, site: str, bridge: str, key: str) -> None:
    page.goto(f"{site}/plain.html")
    page.locator("[name=url]").fill(f"{bridge.replace('http', 'ws')}/client")
    page.locator("[name=key]").fill(key)
    page.get_by_role("button", name="Start").click()


def test_the_page_shows_the_result_and_sets_parameters(page: Page, site: str, bridge: str) -> None:
    with urllib.request.urlopen(f"{bridge}/v1/demo") as response:
        key = json.load(response)["credential"]
    start(page, site, bridge, key)
    expect(page.locator("#state")).to_have_text("connected", timeout=30_000)
    page.wait_for_function("document.querySelector('#result').currentTime > 0.3", timeout=15_000)
    assert page.evaluate("document.querySelector('#result').videoWidth") > 0
    expect(page.locator("#controls label")).to_have_count(4)
    expect(page.locator("#figures")).to_contain_text("frames a second")

    # The node acknowledges a change, and answers a value that is not allowed with its reason.
    page.evaluate("() => void (WebSocket.prototype.send = () => { throw new Error('not over the bridge') })")
    page.locator("[name=colour]").select_option("red")
    page.evaluate("document.querySelector('[name=gain]').max = 99")
    page.locator("[name=gain]").fill("99")
    expect(page.locator("#state")).to_have_text("gain: expected a whole number from 1 to 8")
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text("Stopped.")


def test_a_wrong_key_is_told(page: Page, site: str, bridge: str) -> None:
    start(page, site, bridge, "sk_TEST01_x")
    expect(page.locator("#state")).to_have_text("The key was not accepted.")
