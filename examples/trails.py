"""A model as a class: what moves leaves a trail, whose length and colour the viewer sets while it runs.

Run it beside a bridge: rtcbridge node trails.py:Trails --bridge ws://127.0.0.1:8080 --key nk_…
"""

import cv2
import numpy as np

import rtcbridge

COLOURS = {"white": (255, 255, 255), "red": (255, 60, 60), "green": (60, 255, 90), "blue": (70, 130, 255)}


class Trail:
    """What one viewer's session remembers from frame to frame."""

    def __init__(self):
        self.previous = None
        self.trail = None


@rtcbridge.model(title="Light trails")
class Trails:
    """Adds the fading difference between frames to the picture."""

    length = rtcbridge.Float(0.85, min=0, max=0.98, step=0.01, help="How much of a trail is left in the next frame.")
    gain = rtcbridge.Int(3, min=1, max=8, help="How bright a movement is.")
    colour = rtcbridge.Choice("green", choices=list(COLOURS))
    mirror = rtcbridge.Bool(False)

    def setup(self):
        """Load weights here: it runs once, before the node takes its first session."""
        self.tints = {name: np.array(rgb, np.float32) / 255 for name, rgb in COLOURS.items()}

    def session(self):
        """Make the state of a new session; its `close()`, if it had one, would run at the session's end."""
        return Trail()

    def process(self, frame, params, state):
        """Return one frame; `frame` is RGB, uint8, (height, width, 3)."""
        if params.mirror:
            frame = cv2.flip(frame, 1)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if state.previous is None or state.previous.shape != grey.shape:
            state.previous, state.trail = grey, np.zeros(grey.shape, np.float32)
        moved = cv2.absdiff(grey, state.previous)
        moved[moved < 12] = 0  # noise of the camera
        state.previous = grey
        state.trail = np.maximum(state.trail * params.length, moved.astype(np.float32) * params.gain)
        light = state.trail[:, :, None] * self.tints[params.colour]
        return cv2.add(frame, np.clip(light, 0, 255).astype(np.uint8))
