"""Styles made of a few image filters, cheap enough for any machine. Pictures are RGB, uint8, (height, width, 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rtcbridge.node.model import model
from rtcbridge.node.params import Float

if TYPE_CHECKING:
    from rtcbridge.node.model import Picture
    from rtcbridge.node.params import Params

STRENGTH = Float(1.0, min=0, max=1, step=0.05, help="0 is the picture as it came, 1 the whole effect.")


def sketch(frame: Picture) -> Picture:
    """A pencil drawing: the grey picture divided by its blur ("colour dodge")."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    sigma = max(frame.shape[:2]) / 100
    blurred = cv2.GaussianBlur(grey, (0, 0), sigma)
    drawing = cv2.divide(grey, blurred, scale=256)
    # Grey values near white become white, so that flat areas are paper and lines are lead.
    toned = np.clip((drawing.astype(np.int16) - 60) * 4 // 3, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(toned, cv2.COLOR_GRAY2RGB), np.uint8)


def cartoon(frame: Picture) -> Picture:
    """Flat colours with dark outlines: bilateral filtering, fewer levels, and an adaptive threshold as ink."""
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (max(2, width // 2), max(2, height // 2)), interpolation=cv2.INTER_AREA)
    for _ in range(2):
        small = cv2.bilateralFilter(small, 7, 40, 7)
    flat = cv2.LUT(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), _LEVELS)
    grey = cv2.medianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 5)
    ink = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 4)
    return np.asarray(cv2.bitwise_and(flat, flat, mask=ink), np.uint8)


# Eight levels a channel, each a little brighter than its middle.
_LEVELS = np.clip(np.arange(256) // 32 * 32 + 24, 0, 255).astype(np.uint8)


def neon(frame: Picture) -> Picture:
    """Glowing outlines on black: the gradient of each colour, and its blur added on top."""
    smooth = cv2.GaussianBlur(frame, (0, 0), 1.2)
    across = cv2.convertScaleAbs(cv2.Sobel(smooth, cv2.CV_16S, 1, 0), alpha=1.6)
    down = cv2.convertScaleAbs(cv2.Sobel(smooth, cv2.CV_16S, 0, 1), alpha=1.6)
    lines = cv2.max(across, down)
    glow = cv2.GaussianBlur(lines, (0, 0), 4)
    return np.asarray(cv2.addWeighted(lines, 1.0, glow, 1.2, 0), np.uint8)


CLASSICAL: dict[str, tuple[str, Callable[[Picture], Picture]]] = {
    "sketch": ("Pencil sketch", sketch),
    "cartoon": ("Cartoon", cartoon),
    "neon": ("Neon", neon),
}
"""Title and function of each style by name."""


def blend(source: Picture, styled: Picture, strength: float) -> Picture:
    """Mix: 0 is `source`, 1 is `styled`; both of one size."""
    if strength >= 1:
        return styled
    return np.asarray(cv2.addWeighted(source, 1 - strength, styled, strength, 0), np.uint8)


def _apply(style: Callable[[Picture], Picture], frame: Picture, strength: float) -> Picture:
    return frame if strength <= 0 else blend(frame, style(frame), strength)


@model(name="sketch", title="Pencil sketch", params={"strength": STRENGTH})
def sketch_model(frame: Picture, params: Params) -> Picture:
    """`sketch` as a model."""
    return _apply(sketch, frame, params.strength)


@model(name="cartoon", title="Cartoon", params={"strength": STRENGTH})
def cartoon_model(frame: Picture, params: Params) -> Picture:
    """`cartoon` as a model."""
    return _apply(cartoon, frame, params.strength)


@model(name="neon", title="Neon", params={"strength": STRENGTH})
def neon_model(frame: Picture, params: Params) -> Picture:
    """`neon` as a model."""
    return _apply(neon, frame, params.strength)
