"""The page in a real browser, against a bridge that says what the test wants."""

import re
import time

import pytest
from playwright.sync_api import Browser, Page, expect

from sdk.fakebridge import STATIC, FakeBridge

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MEASURED = re.compile(r"^\d+ ms$")  # without the sign of an estimate
NO_CAMERA = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s') }"
MEAN_COLOR = """(id) => {
  const video = document.querySelector(`[data-testid="${id}"]`);
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(video, 0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def in_state(page: Page, state: str) -> None:
    expect(page.get_by_test_id("state")).to_have_attribute("data-state", state, timeout=15_000)


def go_live(page: Page, bridge: FakeBridge, source: str = "clip") -> None:
    page.goto(f"{bridge.url}/?autostart={source}")
    in_state(page, "live")


def color(page: Page, video: str) -> list[int]:
    return page.evaluate(MEAN_COLOR, f"{video}-video")


def wait(page: Page, condition: str) -> None:
    """Wait until a condition holds. (`wait_for_function` needs `eval`, which the page's policy forbids.)"""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def says(page: Page, text: str) -> None:
    expect(page.get_by_test_id("error")).to_contain_text(text)


def test_the_result_is_the_source_painted_and_the_figures_are_there(page: Page, bridge: FakeBridge) -> None:
    bridge.delay = 0.1
    go_live(page, bridge)
    wait(page, "document.querySelector('[data-testid=result-video]').currentTime > 0.5")
    source, result = color(page, "source"), color(page, "result")
    assert all(abs(a + b - 255) < 60 for a, b in zip(source, result, strict=True)), (source, result)
    expect(page.get_by_test_id("ttff")).to_contain_text("s")
    wait(page, "parseFloat(document.querySelector('[data-testid=fps]').textContent) > 10")
    latency = page.get_by_test_id("latency")
    expect(latency).to_have_text(MEASURED, timeout=15_000)
    measured = float(latency.inner_text().removesuffix(" ms"))
    assert 100 < measured < 500
    assert page.evaluate("document.querySelector('[data-testid=result-video]').videoWidth") > 0


def test_a_choice_is_sent_at_once_and_acknowledged(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    expect(page.get_by_test_id("param-style").locator("label")).to_have_count(29)
    page.get_by_test_id("param-style").get_by_text("None", exact=True).click()
    expect(page.get_by_test_id("ack")).to_contain_text("Applied")
    assert bridge.updates[-1] == {"style": "none"}
    wait(page, "document.querySelector('[data-testid=result-video]').currentTime > 1")
    page.get_by_test_id("param-smooth").check()
    expect(page.get_by_test_id("ack")).to_contain_text("Applied")
    source, result = color(page, "source"), color(page, "result")
    assert all(abs(a - b) < 40 for a, b in zip(source, result, strict=True)), (source, result)


def test_a_slider_that_is_dragged_sends_the_newest_value_one_at_a_time(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    expect(page.get_by_test_id("result-video")).to_be_visible()
    before = len(bridge.updates)
    page.get_by_test_id("param-strength").evaluate(
        """(slider) => { for (let i = 100; i >= 20; i--) {
             slider.value = i / 100; slider.dispatchEvent(new Event("input")); } }"""
    )
    expect(page.get_by_test_id("ack")).to_contain_text("Applied")
    wait(page, "document.querySelector('[data-testid=param-strength]').value === '0.2'")
    sent = bridge.updates[before:]
    assert sent[-1] == {"strength": 0.2}
    assert len(sent) <= 3


def test_values_chosen_before_the_start_are_in_force_from_the_start(page: Page, bridge: FakeBridge) -> None:
    page.goto(bridge.url)
    page.get_by_test_id("param-style").get_by_text("Edges").click()
    page.get_by_test_id("start").click()
    in_state(page, "live")
    wait(page, "document.querySelector('[data-testid=fps]').textContent !== '–'")
    assert bridge.updates[0]["style"] == "edges"


def test_in_line_then_served(page: Page, bridge: FakeBridge) -> None:
    bridge.status = "full"
    page.goto(f"{bridge.url}/?autostart=clip")
    in_state(page, "full")
    expect(page.get_by_test_id("state")).to_contain_text("In line")
    bridge.status = "waiting"
    bridge.tell({"type": "node_status", "status": "waiting"})
    in_state(page, "live")
    assert [m["type"] for m in bridge.received].count("offer") == 2


def test_a_node_that_is_starting(page: Page, bridge: FakeBridge) -> None:
    bridge.status = "pending"
    page.goto(f"{bridge.url}/?autostart=clip")
    in_state(page, "pending")
    expect(page.get_by_text("A node is being started")).to_be_visible()


def test_a_lost_node_is_said_and_made_good(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    bridge.lose_node()
    in_state(page, "pending")
    says(page, "The node was lost")
    bridge.tell({"type": "node_status", "status": "waiting"})
    in_state(page, "live")
    expect(page.get_by_test_id("error")).to_be_hidden()
    wait(page, "parseFloat(document.querySelector('[data-testid=fps]').textContent) > 5")


def test_the_video_goes_on_when_the_bridge_restarts(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    bridge.close_socket(1012)
    says(page, "The bridge is away")
    in_state(page, "live")
    begin = page.evaluate("document.querySelector('[data-testid=result-video]').currentTime")
    wait(page, f"document.querySelector('[data-testid=result-video]').currentTime > {begin} + 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Failed to start a stopped node.", "could not be started"),
        ("The node did not answer.", "did not answer"),
        ("The node could not go on with the session.", "could not take the session"),
    ],
)
def test_an_error_that_ends_the_session(page: Page, bridge: FakeBridge, text: str, said: str) -> None:
    bridge.status = "pending"
    page.goto(f"{bridge.url}/?autostart=clip")
    in_state(page, "pending")
    bridge.tell({"type": "error", "message": text})
    in_state(page, "ended")
    says(page, said)
    bridge.status = "waiting"
    page.get_by_test_id("error-action").click()
    in_state(page, "live")


def test_stop_ends_the_session_and_start_begins_another(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    page.get_by_test_id("stop").click()
    in_state(page, "ended")
    expect(page.get_by_test_id("error")).to_be_hidden()
    page.get_by_test_id("start").click()
    in_state(page, "live")
    assert len(bridge.sockets) == 2


def test_without_a_demo_the_page_asks_for_a_key_and_says_when_it_is_wrong(page: Page, bridge: FakeBridge) -> None:
    bridge.demo = False
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_disabled()
    page.get_by_test_id("key-input").fill("sk_WRONG1_x")
    page.get_by_test_id("key-submit").click()
    says(page, "The key was not accepted")
    page.get_by_test_id("key-input").fill(bridge.key)
    page.get_by_test_id("key-submit").click()
    page.get_by_test_id("start").click()
    in_state(page, "live")
    page.reload()
    expect(page.get_by_test_id("start")).to_be_enabled()


def test_a_key_in_the_fragment_is_used_and_taken_out_of_the_address(page: Page, bridge: FakeBridge) -> None:
    bridge.demo = False
    page.goto(f"{bridge.url}/?autostart=clip#key={bridge.key}")
    in_state(page, "live")
    assert page.url == f"{bridge.url}/?autostart=clip"


def test_a_key_that_is_revoked_meanwhile(page: Page, bridge: FakeBridge) -> None:
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_enabled()
    bridge.key, bridge.demo = "sk_OTHER1_other", False
    page.get_by_test_id("start").click()
    says(page, "The key was not accepted")
    page.get_by_test_id("error-action").click()
    expect(page.get_by_test_id("key-input")).to_be_focused()


def test_a_demo_that_was_restarted_gives_the_page_its_new_key(page: Page, bridge: FakeBridge) -> None:
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_enabled()
    bridge.key = "sk_OTHER1_other"
    page.get_by_test_id("start").click()
    says(page, "The key was not accepted")
    page.get_by_test_id("error-action").click()
    in_state(page, "live")


def test_a_bridge_that_is_not_there(page: Page, bridge: FakeBridge) -> None:
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_enabled()
    page.route_web_socket("**/client", lambda socket: socket.close(code=1006 + 5))
    page.get_by_test_id("start").click()
    says(page, "The bridge cannot be reached")


def test_the_camera(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge, "camera")
    wait(page, "parseFloat(document.querySelector('[data-testid=fps]').textContent) > 5")


def test_another_source_while_it_runs_needs_no_new_offer(page: Page, bridge: FakeBridge) -> None:
    go_live(page, bridge)
    wait(page, "parseFloat(document.querySelector('[data-testid=fps]').textContent) > 5")
    offers = [m["type"] for m in bridge.received].count("offer")
    page.get_by_test_id("source-select").get_by_text("Camera").click()
    wait(page, "document.querySelector('[data-testid=source-video]').srcObject !== null")
    begin = page.evaluate("document.querySelector('[data-testid=result-video]').currentTime")
    wait(page, f"document.querySelector('[data-testid=result-video]').currentTime > {begin} + 1")
    source, result = color(page, "source"), color(page, "result")
    assert all(abs(a + b - 255) < 60 for a, b in zip(source, result, strict=True)), (source, result)
    assert [m["type"] for m in bridge.received].count("offer") == offers


def test_a_file_that_is_no_video(page: Page, bridge: FakeBridge) -> None:
    page.goto(bridge.url)
    page.get_by_test_id("file-input").set_input_files({"name": "x.mp4", "mimeType": "video/mp4", "buffer": b"no"})
    says(page, "This file cannot be played")
    page.get_by_test_id("error-action").click()
    expect(page.get_by_test_id("error")).to_be_hidden()
    wait(page, "document.querySelector('[data-testid=source-video]').currentTime > 0")


@pytest.mark.parametrize("captures", [True, False], ids=["captureStream", "canvas"])
def test_a_video_file(page: Page, bridge: FakeBridge, captures: bool) -> None:
    """Safari cannot capture a video element, so there the page draws it on a canvas."""
    if not captures:
        page.add_init_script("delete HTMLMediaElement.prototype.captureStream")
    page.goto(bridge.url)
    (clip,) = (STATIC / "assets").glob("clip-*.webm")
    page.get_by_test_id("file-input").set_input_files(clip)
    expect(page.get_by_text(clip.name)).to_be_attached()
    wait(page, "document.querySelector('[data-testid=source-video]').src.startsWith('blob:')")
    wait(page, "document.querySelector('[data-testid=source-video]').currentTime > 0.2")
    page.get_by_test_id("start").click()
    in_state(page, "live")
    wait(page, "document.querySelector('[data-testid=result-video]').currentTime > 1")
    source, result = color(page, "source"), color(page, "result")
    assert all(abs(a + b - 255) < 60 for a, b in zip(source, result, strict=True)), (source, result)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})", "not available on this address"),
        (NO_CAMERA % "NotAllowedError", "was not allowed"),
        (NO_CAMERA % "NotFoundError", "No camera was found"),
        (NO_CAMERA % "NotReadableError", "in use"),
    ],
)
def test_a_camera_that_cannot_be_had(page: Page, bridge: FakeBridge, script: str, said: str) -> None:
    page.add_init_script(script)
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_enabled()
    page.get_by_test_id("source-select").get_by_text("Camera").click()
    says(page, said)
    page.get_by_test_id("error-action").click()
    page.get_by_test_id("start").click()
    in_state(page, "live")


def test_nothing_is_wider_than_a_phone(browser: Browser, bridge: FakeBridge) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(bridge.url)
    expect(page.get_by_test_id("start")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
