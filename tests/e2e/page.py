"""The page as a test sees it: its state, its words, and the pixels of its two videos."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, expect

PATIENCE = 40_000  # ms: nodes start meanwhile, and others may be using the machine
WIDTH, HEIGHT = 32, 18  # pixels that a frame is drawn at: enough to tell pictures apart, few enough to send

# Counts connections and notes the states that the page goes through. The page's policy forbids eval, so what waits
# inside the page is written as functions.
OBSERVE = """
window.seen = { states: [], peers: 0 };
const Real = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Real {
  constructor(...args) { super(...args); window.seen.peers += 1; }
};
addEventListener("DOMContentLoaded", () => {
  const pill = document.querySelector('[data-testid="state"]');
  const note = () => window.seen.states.push(pill.dataset.state);
  new MutationObserver(note).observe(pill, { attributeFilter: ["data-state"] });
});
"""

_RECORD = """async ({ seconds, width, height }) => {
  const record = (id) => {
    const video = document.querySelector(`[data-testid="${id}-video"]`);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    const times = [], frames = [];
    return new Promise((resolve) => {
      const step = (now) => {
        context.drawImage(video, 0, 0, width, height);
        const { data } = context.getImageData(0, 0, width, height);
        times.push(now / 1000);
        frames.push(String.fromCharCode(...data));
        if (times[times.length - 1] - times[0] > seconds) resolve({ times, frames: btoa(frames.join("")) });
        else video.requestVideoFrameCallback(step);
      };
      video.requestVideoFrameCallback(step);
    });
  };
  const [source, result] = await Promise.all([record("source"), record("result")]);
  return { source, result };
}"""

_ADVANCE = """async (frames) => {
  const video = document.querySelector('[data-testid="result-video"]');
  let last = performance.now(), longest = 0;
  for (let i = 0; i < frames; i++) {
    const now = await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
    longest = Math.max(longest, now - last);
    last = now;
  }
  return longest / 1000;
}"""

_GAPS = """() => {
  const video = document.querySelector('[data-testid="result-video"]');
  const gaps = window.gaps = { frames: 0, longest: 0 };
  let last = performance.now();
  const step = (now) => {
    gaps.frames += 1;
    gaps.longest = Math.max(gaps.longest, now - last);
    last = now;
    video.requestVideoFrameCallback(step);
  };
  video.requestVideoFrameCallback(step);
}"""

Frames = NDArray[np.float64]


@dataclass
class Recording:
    """Frames of one video, (n, HEIGHT, WIDTH, 3) from 0 to 255, and when they were shown, in seconds."""

    times: NDArray[np.float64]
    frames: Frames

    @classmethod
    def of(cls, recorded: dict[str, Any]) -> "Recording":
        data = np.frombuffer(base64.b64decode(recorded["frames"]), np.uint8)
        return cls(np.array(recorded["times"]), data.reshape(-1, HEIGHT, WIDTH, 4)[..., :3].astype(float))

    @property
    def motion(self) -> float:
        """How far frames are from the mean of all."""
        return float(np.abs(self.frames - self.frames.mean(axis=0)).mean())


@dataclass
class Watched:
    """What was seen of source and result over the same seconds."""

    source: Recording
    result: Recording

    def matches(self) -> NDArray[np.intp]:
        """For each frame of the result the frame of the source that it was made of: the one most like it.

        A style changes colours and brightness, hence each picture is taken without its mean and scale.
        """
        source, result = (_normal(_without_constant(each.frames)) for each in (self.source, self.result))
        return np.abs(result @ source.T).argmax(axis=1)

    def difference(self, transform: Any = lambda frames: frames) -> float:
        """The mean difference between the result and the (transformed) source, of 255, frame by frame."""
        source = transform(self.source.frames)[self.matches()]
        return float(np.abs(self.result.frames - source).mean())

    def steadiness(self) -> float:
        """How well the result keeps in step with the source: the correlation of the times of matching frames."""
        return float(np.corrcoef(self.source.times[self.matches()], self.result.times)[0, 1])

    def lag(self) -> float:
        """Seconds by which the result is behind, in the median."""
        return float(np.median(self.result.times - self.source.times[self.matches()]))


def _without_constant(frames: Frames) -> Frames:
    """What moves in a recording: the frames without their common mean, in shades of grey."""
    grey = frames.mean(axis=3).reshape(len(frames), -1)
    return grey - grey.mean(axis=0)


def _normal(rows: Frames) -> Frames:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


class LivePage:
    """The console in a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets = 0
        page.set_default_timeout(PATIENCE)
        page.on("websocket", self._count)

    def _count(self, _socket: object) -> None:
        self.sockets += 1

    def __getitem__(self, test_id: str) -> Locator:
        return self.page.get_by_test_id(test_id)

    def start(self, url: str, source: str = "clip", key: str = "") -> None:
        """Open the page so that it begins by itself, and wait until it is live."""
        self.page.goto(f"{url}/?autostart={source}{f'#key={key}' if key else ''}")
        self.is_in("live")

    def is_in(self, state: str) -> None:
        expect(self["state"]).to_have_attribute("data-state", state, timeout=PATIENCE)

    def says(self, text: str) -> None:
        expect(self["error"]).to_contain_text(text, timeout=PATIENCE)

    def choose(self, style: str) -> None:
        """Click a style's chip and wait for the node's word that it is in force."""
        self["param-style"].locator(f'[data-value="{style}"]').click()
        expect(self["ack"]).to_contain_text("Applied in", timeout=PATIENCE)

    def states(self) -> list[str]:
        return list(self.page.evaluate("() => window.seen.states"))

    def peers(self) -> int:
        return int(self.page.evaluate("() => window.seen.peers"))

    def advance(self, frames: int) -> float:
        """Wait for so many frames of the result; return the longest time between two, in seconds."""
        return float(self.page.evaluate(_ADVANCE, frames))

    def watch_gaps(self) -> None:
        """From now on, count the result's frames and note the longest time between two."""
        self.page.evaluate(_GAPS)

    def gaps(self) -> tuple[int, float]:
        gaps = self.page.evaluate("() => window.gaps")
        return int(gaps["frames"]), gaps["longest"] / 1000

    def watch(self, seconds: float = 2.5) -> Watched:
        """Record both videos."""
        size = {"seconds": seconds, "width": WIDTH, "height": HEIGHT}
        recorded = self.page.evaluate(_RECORD, size)
        return Watched(Recording.of(recorded["source"]), Recording.of(recorded["result"]))
