"""A real browser with a fake camera."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from e2e.page import OBSERVE, LivePage

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
CAMERA = "--use-fake-device-for-media-stream"
OpenPage = Callable[[], LivePage]


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Browser]]:
    """Starts a browser with the given further arguments."""
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright, ExitStack() as stack:

        def start(*more: str) -> Browser:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*ARGS, *more])
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Browser]) -> Browser:
    return launch(CAMERA)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens empty pages, each as of another visitor, and closes them at the end. No script on them may fail."""
    mistakes: list[str] = []
    with ExitStack() as stack:

        def open_one(of: Browser = browser) -> LivePage:
            context = of.new_context(viewport={"width": 1000, "height": 800})
            stack.callback(context.close)
            context.add_init_script(OBSERVE)
            page: Page = context.new_page()
            page.on("pageerror", lambda error: mistakes.append(str(error)))
            return LivePage(page)

        yield open_one
    assert not mistakes
