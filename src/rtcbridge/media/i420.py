"""Pictures in planar YUV 4:2:0 as one numpy array, shape (height * 3 // 2, width), uint8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcbridge.media.port import I420

Planes = tuple["NDArray[np.uint8]", "NDArray[np.uint8]", "NDArray[np.uint8]"]


def planes(picture: I420) -> Planes:
    """Return views of the planes: Y of the full size, U and V of half width and half height."""
    rows, width = picture.shape
    height = rows * 2 // 3
    chroma = picture[height:].reshape(2, height // 2, width // 2)
    return picture[:height], chroma[0], chroma[1]


def join(y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> I420:
    """Copy three planes, of any strides, into one picture; an odd last row or column of Y is left out."""
    height, width = y.shape[0] & ~1, y.shape[1] & ~1
    picture = np.empty((height * 3 // 2, width), np.uint8)
    out = planes(picture)
    out[0][:] = y[:height, :width]
    out[1][:] = u[: height // 2, : width // 2]
    out[2][:] = v[: height // 2, : width // 2]
    return picture


def rotate(picture: I420, degrees: int) -> I420:
    """Turn clockwise by 0, 90, 180 or 270 degrees (the video orientation of 3GPP TS 26.114)."""
    if degrees % 360 == 0:
        return picture
    turned = [np.rot90(plane, -degrees // 90) for plane in planes(picture)]
    return join(turned[0], turned[1], turned[2])
