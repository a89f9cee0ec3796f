"""A browser and a scripted bridge for the tests of the page."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sdk.fakebridge import FakeBridge, running

CHROMIUM = shutil.which("chromium")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def bridge() -> Iterator[FakeBridge]:
    with running(FakeBridge()) as served:
        yield served


@pytest.fixture
def page(browser: Browser, bridge: FakeBridge) -> Iterator[Page]:
    """An empty page on which no script may fail and nothing may be loaded from elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(15_000)
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("console", lambda line: mistakes.append(line.text) if "Content Security" in line.text else None)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((bridge.url, "data:", "blob:")) else mistakes.append(request.url)
        ),
    )
    yield page
    context.close()
    assert not mistakes
