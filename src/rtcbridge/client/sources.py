"""Where the pictures that are sent come from: a camera, a file, or arrays.

A source is opened once and read in a thread. Its pictures have a time on its own clock, at which they are due; a live
source gives each as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import cv2
import numpy as np

from rtcbridge.client.errors import ClientError
from rtcbridge.media import i420

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from rtcbridge.media.port import I420

    Size = tuple[int, int]
    """Width and height in pixels."""
    Picture: TypeAlias = NDArray[np.uint8]
    """RGB, uint8, shape (height, width, 3)."""

_DEFAULT_FPS = 30.0
_LEAST, _MOST = 16, 8192  # pixels of a side


@dataclass(frozen=True, slots=True)
class Timed:
    """A picture and its time in seconds; None: now."""

    time: float | None
    i420: I420


class Source(Protocol):
    """What gives pictures. `open` and the iterator's steps may block: they are called in threads."""

    @property
    def live(self) -> bool:
        """Whether pictures come when they come, and only the newest is of interest."""

    @property
    def fps(self) -> float:
        """Pictures a second, about."""

    def open(self) -> None:
        """Open it, and learn its properties. Raises ClientError, `source_failed`."""

    def pictures(self) -> Iterator[Timed]:
        """Read from the beginning. Raises ClientError, `source_failed`."""

    def close(self) -> None:
        """Release it. A second call does nothing."""


Given: TypeAlias = "Source | int | str | Path | Iterable[Any] | Callable[[], Any]"
"""What is taken for a source: one, a camera's number, a file or address, arrays, or a function that returns one."""


def source_of(given: Given) -> Source:
    """Make a source of what a caller gave. Raises ClientError, `source_failed`."""
    if isinstance(given, int) and not isinstance(given, bool):
        return Camera(given)
    if isinstance(given, str | Path):
        return File(given)
    if isinstance(given, np.ndarray):
        if given.ndim != 4:
            raise ClientError("source_failed", f"An array of pictures has four dimensions, not {given.ndim}.")
        return Pictures(given)
    if all(hasattr(given, name) for name in ("open", "pictures", "fps", "live")):
        return given  # type: ignore[return-value]
    if hasattr(given, "demux") and hasattr(given, "streams"):
        return File(given)
    if callable(given):
        return Pictures(_called(given))
    if isinstance(given, Iterable):
        return Pictures(cast("Iterable[Picture]", given))
    raise ClientError("source_failed", f"A {type(given).__name__} is no source.")


def _called(function: Callable[[], Any]) -> Iterator[Picture]:
    while (picture := function()) is not None:
        yield picture


class Pictures:
    """Arrays, RGB, uint8, shape (height, width, 3): a list, an array of four dimensions, or a generator.

    Args:
        pictures: what gives them; a generator may end, and may take its time.
        fps: how many are sent a second.
    """

    live = False

    def __init__(self, pictures: Iterable[Picture], *, fps: float = _DEFAULT_FPS) -> None:
        if not 0 < fps <= 1000:
            raise ClientError("source_failed", f"fps: expected a number above 0, not {fps:g}")
        self.fps = float(fps)
        self._pictures = pictures

    def open(self) -> None:
        """Nothing is to be opened."""

    def pictures(self) -> Iterator[Timed]:
        """Each picture, at its time. Raises ClientError: one is no picture."""
        for number, picture in enumerate(self._pictures):
            yield Timed(number / self.fps, from_rgb(picture))

    def close(self) -> None:
        """End a generator."""
        close = getattr(self._pictures, "close", None)
        if close is not None:
            close()


class Camera:
    """A camera of this machine, by OpenCV.

    Args:
        device: its number, or a path such as `/dev/video0`.
        size: width and height to ask it for; it may give others.
        fps: pictures a second to ask it for.
    """

    live = True

    def __init__(self, device: int | str = 0, *, size: Size | None = None, fps: float | None = None) -> None:
        self.fps = fps or _DEFAULT_FPS
        self._device = device
        self._size = size
        self._asked_fps = fps
        self._capture: Any = None

    def open(self) -> None:
        """Open the camera. Raises ClientError."""
        capture = cv2.VideoCapture(self._device)
        if not capture.isOpened():
            capture.release()
            raise ClientError("source_failed", f"camera {self._device}: cannot be opened")
        if self._size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        if self._asked_fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._asked_fps)
        self._capture = capture

    def pictures(self) -> Iterator[Timed]:
        """Each picture as it comes, until the camera is gone."""
        while self._capture is not None:
            there, picture = self._capture.read()
            if not there:
                return
            yield Timed(None, from_rgb(picture[:, :, ::-1]))

    def close(self) -> None:
        """Release the camera."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


class File:
    """A video file, an address, or an open container: whatever FFmpeg reads, by PyAV.

    Args:
        path: a file's name, an address such as `rtsp://…`, or a container that PyAV has opened.
        size: width and height to scale to; one of them 0: as the other one says. Sides become even numbers.
        fps: pictures a second; the file's own where it is left out.
        loop: begin again at its end.
    """

    def __init__(
        self, path: str | Path | Any, *, size: Size | None = None, fps: float | None = None, loop: bool = False
    ) -> None:
        self.name = str(path) if isinstance(path, str | Path) else str(getattr(path, "name", "container"))
        self.live = "://" in self.name and not self.name.startswith("file:")
        self.fps = fps or _DEFAULT_FPS
        self.width = self.height = 0
        self.duration = 0.0
        self._given = path
        self._size, self._fps, self._loop = size, fps, loop
        self._upright = False  # whether `width` and `height` are those of the picture as it is shown
        self._container: Any = None

    def open(self) -> None:
        """Open the file and learn its size, rate and duration. Raises ClientError."""
        import av

        if isinstance(self._given, str | Path):
            if not self.live and not Path(self.name.removeprefix("file:")).is_file():
                raise ClientError("source_failed", f"{self.name}: there is no such file")
            try:
                self._container = av.open(self.name)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise ClientError("source_failed", f"{self.name}: {_reason(error)}") from None
        else:
            self._container = self._given
        if not self._container.streams.video:
            self.close()
            raise ClientError("source_failed", f"{self.name}: there is no video in it")
        stream = self._stream()
        if isinstance(self._given, str | Path):  # the codec of a container that is given may be open
            stream.thread_type = "AUTO"
        self.fps = self._fps or float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
        self.width, self.height = fitted((stream.codec_context.width, stream.codec_context.height), self._size)
        if self._container.duration:
            self.duration = self._container.duration / 1_000_000

    def _stream(self) -> av.VideoStream:
        return self._container.streams.video[0]  # type: ignore[no-any-return]

    def pictures(self) -> Iterator[Timed]:
        """Each picture, at its time in the file, from 0. Raises ClientError."""
        import av

        offset = 0.0
        try:
            while True:
                last = -1.0
                for timed in self._thinned(self._decoded()):
                    assert timed.time is not None
                    last = timed.time
                    yield Timed(None if self.live else offset + last, timed.i420)
                if not self._loop or self.live or last < 0:
                    return
                offset += last + 1 / self.fps
                self._container.seek(0)
        except (av.FFmpegError, OSError) as error:
            raise ClientError("source_failed", f"{self.name}: {_reason(error)}") from None

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        import av

        start: float | None = None
        last = -1.0
        try:
            for number, frame in enumerate(self._container.decode(self._stream())):
                at = frame.time if frame.time is not None else number / self.fps
                start = at if start is None else start
                if at - start > last:  # what does not come behind the one before cannot be shown
                    last = at - start
                    yield last, frame
        except av.InvalidDataError:
            if start is None:
                raise  # a file that is cut off gives what there is

    def _thinned(self, frames: Iterator[tuple[float, av.VideoFrame]]) -> Iterator[Timed]:
        """At the rate that was asked for: pictures are left out, or repeated."""
        if self._fps is None or self.live:
            for at, frame in frames:
                yield Timed(at, self._convert(frame))
            return
        number = 0
        previous: av.VideoFrame | None = None
        for at, frame in frames:
            while previous is not None and number / self._fps < at - 0.25 / self._fps:
                yield Timed(number / self._fps, self._convert(previous))
                number += 1
            previous = frame
        if previous is not None:
            yield Timed(number / self._fps, self._convert(previous))

    def _convert(self, frame: av.VideoFrame) -> I420:
        turned = frame.rotation % 180 != 0
        if turned and self._size is None and not self._upright:
            self.width, self.height = self.height, self.width
        self._upright = True
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        picture = frame.reformat(width=width, height=height, format="yuv420p").to_ndarray(format="yuv420p")
        return i420.rotate(np.ascontiguousarray(picture), -frame.rotation)

    def close(self) -> None:
        """Close the file; a container that was given is the giver's."""
        container, self._container = self._container, None
        if container is not None and container is not self._given:
            container.close()


def fitted(own: Size, asked: Size | None) -> Size:
    """The size, in even numbers, to which pictures of size `own` are scaled; a 0 in `asked` keeps their shape.

    Raises:
        ClientError: it cannot be sent.
    """
    width, height = asked or own
    if not width and not height:
        width, height = own
    width = width or round(height * own[0] / own[1])
    height = height or round(width * own[1] / own[0])
    width, height = width & ~1, height & ~1
    if not (_LEAST <= width <= _MOST and _LEAST <= height <= _MOST):
        raise ClientError("source_failed", f"size: sides have {_LEAST} to {_MOST} pixels, not {width}x{height}")
    return width, height


def from_rgb(picture: Picture) -> I420:
    """An array as it is sent; an odd last row or column is left out. Raises ClientError: it is no picture."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        shape = getattr(picture, "shape", type(picture).__name__)
        kind = getattr(picture, "dtype", "")
        raise ClientError(
            "source_failed", f"A picture is an array of uint8, (height, width, 3), not {shape} {kind}".rstrip() + "."
        )
    height, width = picture.shape[0] & ~1, picture.shape[1] & ~1
    if min(height, width) < _LEAST:
        raise ClientError("source_failed", f"A picture has at least {_LEAST} pixels a side, not {width}x{height}.")
    even = np.ascontiguousarray(picture[:height, :width])
    return np.asarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), np.uint8)


def frame_rate(fps: float) -> Fraction:
    """A rate as containers have it, such as 30000/1001."""
    return Fraction(fps).limit_denominator(1001)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
