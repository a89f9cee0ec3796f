"""The main job, whole: a picture from the browser through bridge and node (wrtc) and back, styled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from e2e.conftest import OpenPage
from e2e.page import LivePage, Watched
from gateway.programs import RTCBRIDGE, Program, environment

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLIP = next(Path(__file__).parents[2].glob("console/clip/clip.webm"))
CLOSE, FAR = 6.0, 25.0  # of 255: mean differences of pictures that are the same, and that are not
PAINTING = "painting-05"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`rtcbridge demo`; yields its address."""
    state = tmp_path_factory.mktemp("demo")
    program = Program(*RTCBRIDGE, "demo", "--port", "0", env=environment(XDG_STATE_HOME=str(state)))
    try:
        yield program.line(r"On this machine: +(\S+)/$")[1]
        (log,) = state.glob("rtcbridge/demos/*/nodes/default/*/node.log")
        assert '"engine": "wrtc"' in log.read_text()
        assert program.end() == 0
    finally:
        program.dispose()


def keeps_in_step(seen: Watched) -> None:
    """The source moves, and the result moves with it, a moment later."""
    assert seen.source.motion > 1.0
    assert seen.result.motion > 1.0
    assert seen.steadiness() > 0.9
    assert -0.1 < seen.lag() < 1.0


def is_the_source(seen: Watched) -> None:
    keeps_in_step(seen)
    assert seen.difference() < CLOSE


def test_styles_change_while_it_runs_over_the_data_channel(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.start(demo)
    expect(page["error"]).to_be_hidden()
    for style, look in (("none", is_the_source), ("neon", is_far), (PAINTING, is_far), ("none", is_the_source)):
        page.choose(style)
        page.advance(15)  # what was on its way when the node acknowledged has arrived
        look(page.watch())
    assert page.states().count("live") == 1
    assert page.states()[-1] == "live"
    assert (page.sockets, page.peers()) == (1, 1)  # all of it on one connection


def is_far(seen: Watched) -> None:
    keeps_in_step(seen)
    assert seen.difference() > FAR


def test_the_strength_of_a_style_changes_while_it_runs(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.start(demo)
    page.choose("neon")
    differences = []
    for strength in ("1", "0.5", "0"):
        page["param-strength"].fill(strength)
        expect(page["ack"]).to_contain_text("Applied in")
        page.advance(15)
        differences.append(page.watch(1.0).difference())
    assert differences[0] > differences[1] + 10
    assert differences[1] > differences[2] + 10
    assert differences[2] < CLOSE


def test_figures_are_shown_of_what_is_seen(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.start(demo)
    page.advance(60)
    for figure, least, most in (("fps", 5, 61), ("latency", 1, 5000), ("ttff", 1, 30_000)):
        expect(page[figure]).not_to_have_text("–")
        text = page[figure].inner_text().replace("≈", "").split()
        value = float(text[0]) * (1000 if text[1:] == ["s"] else 1)
        assert least <= value <= most, (figure, text)


def test_the_camera(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.start(demo, "camera")
    page.choose("none")
    page.advance(15)
    seen = page.watch(1.5)
    assert seen.source.motion > 0.3
    assert seen.difference() < 2 * CLOSE  # the fake camera's green is beyond what a video can show


def test_a_file_takes_the_place_of_the_camera(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.start(demo, "camera")
    page.choose("none")
    page["file-input"].set_input_files(CLIP)
    expect(page["source-select"].locator('[value="file"]')).to_be_checked()
    page.advance(30)
    is_the_source(page.watch())
    assert (page.sockets, page.peers()) == (1, 1)


def test_a_file_that_is_no_video_is_told_in_plain_words(demo: str, open_page: OpenPage) -> None:
    page = open_page()
    page.page.goto(demo)
    file = {"name": "notes.webm", "mimeType": "video/webm", "buffer": b"not a video"}
    page["file-input"].set_input_files(file)
    page.says("This file cannot be played.")


def test_without_a_camera_the_page_says_so_and_offers_the_clip(
    demo: str, open_page: Callable[[Browser], LivePage], launch: Callable[..., Browser]
) -> None:
    page = open_page(launch())  # a browser without the fake camera
    page.page.goto(f"{demo}/?autostart=camera")
    page.says("No camera was found.")
    page["error-action"].click()
    page["start"].click()
    page.is_in("live")
    expect(page["error"]).to_be_hidden()
    page.advance(10)
