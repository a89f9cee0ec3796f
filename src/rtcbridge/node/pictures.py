"""Conversions between the engine's I420 and the pixel format of a model, by OpenCV (BT.601, limited range)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from rtcbridge.media.port import I420
    from rtcbridge.node.model import Picture, PixelFormat

_FROM = {"rgb": cv2.COLOR_YUV2RGB_I420, "bgr": cv2.COLOR_YUV2BGR_I420}
_TO = {"rgb": cv2.COLOR_RGB2YUV_I420, "bgr": cv2.COLOR_BGR2YUV_I420}


def limit_threads() -> None:
    """Keep OpenCV to the calling thread: for pictures of this size its pool costs more than it brings.

    A model that wants the pool asks for it in its `setup`, which comes later.
    """
    cv2.setNumThreads(1)


def from_i420(picture: I420, format: PixelFormat) -> Picture:
    """Return a picture in a model's format, in memory that is the model's own."""
    if format == "i420":
        return picture
    return np.asarray(cv2.cvtColor(picture, _FROM[format]), np.uint8)


def to_i420(picture: Picture, format: PixelFormat) -> I420:
    """Return what a model made as I420; an odd last row or column is left out."""
    if format == "i420":
        return picture
    height, width = picture.shape[0] & ~1, picture.shape[1] & ~1
    even = np.ascontiguousarray(picture[:height, :width])
    return np.asarray(cv2.cvtColor(even, _TO[format]), np.uint8)
