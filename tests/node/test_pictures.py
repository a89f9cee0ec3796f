"""I420 pictures: planes, cropping, turning, and the way to RGB and back."""

import numpy as np
import pytest

from rtcbridge.media import i420
from rtcbridge.node import pictures


def test_planes_are_views() -> None:
    picture = np.zeros((6, 4), np.uint8)
    y, u, v = i420.planes(picture)
    assert (y.shape, u.shape, v.shape) == ((4, 4), (2, 2), (2, 2))
    y[:], u[:], v[:] = 1, 2, 3
    assert picture.reshape(-1).tolist() == [1] * 16 + [2] * 4 + [3] * 4


def test_join_leaves_out_an_odd_row_and_column() -> None:
    y = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    chroma = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4)
    picture = i420.join(y, chroma, chroma + 100)
    assert picture.shape == (6, 6)
    joined = i420.planes(picture)
    assert np.array_equal(joined[0], y[:4, :6])
    assert np.array_equal(joined[1], chroma[:2, :3])
    assert np.array_equal(joined[2], chroma[:2, :3] + 100)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360])
def test_turning_is_clockwise(degrees: int) -> None:
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:10, :10] = (255, 0, 0)  # top left
    turned = pictures.from_i420(i420.rotate(pictures.to_i420(rgb, "rgb"), degrees), "rgb")
    corner = {0: turned[5, 5], 90: turned[5, -5], 180: turned[-5, -5], 270: turned[-5, 5]}[degrees % 360]
    assert corner[0] > 200
    assert corner[1:].max() < 60
    assert turned.shape == ((40, 60, 3) if degrees % 180 == 0 else (60, 40, 3))


@pytest.mark.parametrize("format", ["rgb", "bgr"])
def test_colours_survive_the_round_trip(format: str) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:] = (200, 100, 50)
    i420_picture = pictures.to_i420(picture, format)  # type: ignore[arg-type]
    assert i420_picture.shape == (30, 30)
    back = pictures.from_i420(i420_picture, format)  # type: ignore[arg-type]
    assert np.abs(back.astype(int) - picture).max() <= 3


def test_an_odd_picture_of_a_model_is_cropped() -> None:
    assert pictures.to_i420(np.zeros((21, 31, 3), np.uint8), "rgb").shape == (30, 30)
    assert pictures.to_i420(np.zeros((31, 41, 3), np.uint8)[::2], "bgr").shape == (24, 40)
