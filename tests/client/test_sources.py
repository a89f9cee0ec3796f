"""Sources: real files of several kinds, arrays, generators, cameras that are not there."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from client.service import CLIP
from rtcbridge.client import Camera, ClientError, File, Pictures, Timed
from rtcbridge.client.sources import fitted, source_of


def encode(path: Path, count: int = 20, *, fps: int = 25, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    """A file whose pictures get brighter by ten."""
    codec = options.pop("codec", "libx264")
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
        if "rotation" in options:
            stream.set_display_rotation(options.pop("rotation"))
        for number in range(count):
            picture = np.full((size[1], size[0], 3), 10 + 10 * number, np.uint8)
            picture[: size[1] // 4] = 250  # the upper edge
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = options.get("times", range(1000))[number], Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def read(file: File) -> list[Timed]:
    file.open()
    try:
        return list(file.pictures())
    finally:
        file.close()
        file.close()


def luma(timed: Timed) -> float:
    height = timed.i420.shape[0] * 2 // 3
    return float(timed.i420[height // 2 : height].mean())


def test_the_bundled_clip() -> None:
    file = File(CLIP)
    found = read(file)
    assert (len(found), file.fps, file.width, file.height, file.duration) == (360, 30, 640, 360, 12)
    assert found[0].i420.shape == (540, 640)
    assert [timed.time for timed in found[:3]] == pytest.approx([0, 1 / 30, 2 / 30], abs=0.001)


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("mp4", {}),
        ("mkv", {}),
        ("webm", {"codec": "libvpx-vp9"}),
        ("avi", {"codec": "mpeg4"}),
        ("mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ],
)
def test_containers(tmp_path: Path, ending: str, options: dict[str, Any]) -> None:
    file = File(encode(tmp_path / f"clip.{ending}", **options))
    found = read(file)
    assert len(found) == 20
    assert [timed.time for timed in found] == pytest.approx([number / 25 for number in range(20)], abs=0.002)
    assert [luma(timed) for timed in found] == sorted(luma(timed) for timed in found)


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    times = [5, 6, 8, 12, 13, 20]
    found = read(File(encode(tmp_path / "clip.mkv", len(times), times=times)))
    assert [timed.time for timed in found] == pytest.approx([(at - 5) / 25 for at in times], abs=0.002)


def test_another_rate_leaves_out_or_repeats(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", 25)
    for fps in (10, 50):
        found = read(File(path, fps=fps))
        assert abs(len(found) - fps) <= 1
        assert [timed.time for timed in found] == pytest.approx([n / fps for n in range(len(found))])
        assert abs(luma(found[len(found) // 2]) - luma(read(File(path))[12])) < 20


def test_another_size(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    assert read(File(path, size=(32, 0)))[0].i420.shape == (36, 32)
    assert read(File(path, size=(100, 50)))[0].i420.shape == (75, 100)
    assert fitted((1920, 1080), (0, 720)) == (1280, 720)
    assert fitted((641, 361), None) == (640, 360)
    with pytest.raises(ClientError, match="sides have 16 to 8192 pixels"):
        fitted((640, 360), (8, 0))


def test_a_picture_that_is_to_be_turned_is_turned(tmp_path: Path) -> None:
    """As phones write it; the upper edge, which is bright, goes to a side."""
    file = File(encode(tmp_path / "clip.mp4", rotation=90))
    picture = read(file)[0].i420
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 90
    assert picture.shape == (96, 48)
    assert (file.width, file.height) == (48, 64)
    bright = picture[:64].mean(axis=0)
    assert bright[:8].mean() > 200  # turned counterclockwise, it is the left one
    assert bright[-8:].mean() < 60


def test_it_begins_again(tmp_path: Path) -> None:
    file = File(encode(tmp_path / "clip.mp4", 10), loop=True)
    file.open()
    found = list(itertools.islice(file.pictures(), 25))
    assert [timed.time for timed in found] == pytest.approx([number / 25 for number in range(25)], abs=0.002)
    assert luma(found[0]) == luma(found[10])
    file.close()


def test_a_container_that_is_open_stays_the_callers() -> None:
    with av.open(str(CLIP)) as container:
        file = source_of(container)
        assert isinstance(file, File)
        file.open()
        assert next(file.pictures()).i420.shape == (540, 640)
        file.close()
        container.seek(0)
        assert next(container.decode(video=0)).width == 640


def test_a_file_that_is_cut_off_gives_what_there_is(tmp_path: Path) -> None:
    whole = encode(tmp_path / "clip.mkv", 20, size=(320, 240))
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert 0 < len(read(File(tmp_path / "cut.mkv"))) <= 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("missing.mp4", None, "there is no such file"), ("text.mp4", b"no video", "Invalid data"), ("", None, "no such")],
)
def test_what_is_no_video_is_one_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClientError, match=message) as error:
        File(tmp_path / name).open()
    assert error.value.code == "source_failed"
    assert "\n" not in str(error.value)


def test_arrays_and_generators() -> None:
    grey = np.full((30, 41, 3), 128, np.uint8)

    def forever() -> Iterator[np.ndarray]:
        while True:
            yield grey

    for given in ([grey] * 3, np.stack([grey] * 3), forever(), lambda: grey):
        source = source_of(given)
        assert not source.live
        source.open()
        found = list(itertools.islice(source.pictures(), 3))
        assert [timed.time for timed in found] == pytest.approx([0, 1 / 30, 2 / 30])
        assert found[0].i420.shape == (45, 40)
        rgb = cv2.cvtColor(found[0].i420, cv2.COLOR_YUV2RGB_I420)
        assert abs(int(rgb.mean()) - 128) <= 2
        source.close()


@pytest.mark.parametrize("given", [3.5, None, True, np.zeros((4, 4), np.uint8)])
def test_what_is_no_source_is_one_error(given: Any) -> None:
    with pytest.raises(ClientError) as error:
        source_of(given)
    assert error.value.code == "source_failed"


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 3)),
        np.zeros((48, 64, 4), np.uint8),
        "no",
        np.zeros((2, 2, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_one_error(picture: Any) -> None:
    with pytest.raises(ClientError, match="A picture "):
        list(Pictures([picture]).pictures())


def test_a_rate_must_be_one() -> None:
    with pytest.raises(ClientError, match="fps"):
        Pictures([], fps=0)


def test_cameras() -> None:
    """There is none here; OpenCV takes a file in place of a device."""
    with pytest.raises(ClientError, match="camera 99: cannot be opened"):
        source_of(99).open()
    camera = Camera(str(CLIP))
    assert camera.live
    camera.open()
    found = list(itertools.islice(camera.pictures(), 3))
    assert [timed.time for timed in found] == [None] * 3
    assert found[0].i420.shape == (540, 640)
    camera.close()
    camera.close()
