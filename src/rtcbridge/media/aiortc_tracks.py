"""Pictures, sound and messages as aiortc and PyAV have them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import aiortc
import numpy as np
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame as AvAudioFrame
from av import VideoFrame as AvVideoFrame

from rtcbridge.media import i420
from rtcbridge.media.port import AudioFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcbridge.media.port import I420

_VIDEO_CLOCK = 90_000
_AUDIO_QUEUE = 100  # pieces of 10 or 20 ms


class InFrame:
    """A decoded picture of FFmpeg."""

    def __init__(self, native: AvVideoFrame) -> None:
        self._native: AvVideoFrame | None = native
        self.arrival = time.monotonic()
        self.width, self.height = native.width & ~1, native.height & ~1

    def i420(self) -> I420:
        """See `VideoFrame.i420`."""
        if self._native is None:
            raise ValueError("the frame is closed")
        native = self._native
        if native.format.name != "yuv420p":
            native = native.reformat(format="yuv420p")
        y, u, v = (_plane(plane) for plane in native.planes)
        return i420.join(y[: native.height, : native.width], u, v)

    def close(self) -> None:
        """See `VideoFrame.close`."""
        self._native = None


def _plane(plane: Any) -> NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


class OutVideo(aiortc.MediaStreamTrack):
    """A track with a place for one picture: what the encoder did not take in time is replaced."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._picture: I420 | None = None
        self._ready = asyncio.Event()
        self._start = time.monotonic()
        self._last_pts = -1

    def send(self, picture: I420) -> None:
        """See `VideoOut.send`."""
        self._picture = picture
        self._ready.set()

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._ready.set()

    async def recv(self) -> AvVideoFrame:
        """Return what the sender is to take next."""
        await self._ready.wait()
        self._ready.clear()
        if self.readyState != "live" or self._picture is None:
            raise MediaStreamError
        frame = AvVideoFrame.from_ndarray(np.ascontiguousarray(self._picture), format="yuv420p")
        pts = max(self._last_pts + 1, int((time.monotonic() - self._start) * _VIDEO_CLOCK))
        frame.pts = self._last_pts = pts
        frame.time_base = Fraction(1, _VIDEO_CLOCK)
        return frame


class OutAudio(aiortc.MediaStreamTrack):
    """A track with a short queue; what does not fit is dropped, oldest first."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[AudioFrame] = deque(maxlen=_AUDIO_QUEUE)
        self._ready = asyncio.Event()
        self._pts = 0

    def send(self, frame: AudioFrame) -> None:
        """See `AudioOut.send`."""
        self._queue.append(frame)
        self._ready.set()

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._ready.set()

    async def recv(self) -> AvAudioFrame:
        """Return what the sender is to take next."""
        while not self._queue and self.readyState == "live":
            self._ready.clear()
            await self._ready.wait()
        if self.readyState != "live":
            raise MediaStreamError
        piece = self._queue.popleft()
        samples = np.frombuffer(piece.samples, np.int16).reshape(1, -1)
        frame = AvAudioFrame.from_ndarray(samples, format="s16", layout="mono" if piece.channels == 1 else "stereo")
        frame.sample_rate = piece.sample_rate
        frame.time_base = Fraction(1, piece.sample_rate)
        frame.pts = self._pts
        self._pts += samples.shape[1] // piece.channels
        return frame


class Channel:
    """A data channel."""

    def __init__(self, native: aiortc.RTCDataChannel) -> None:
        self._native = native

    @property
    def label(self) -> str:
        """See `DataChannel.label`."""
        return self._native.label

    @property
    def buffered_amount(self) -> int:
        """See `DataChannel.buffered_amount`."""
        return self._native.bufferedAmount

    def send(self, data: str) -> None:
        """See `DataChannel.send`."""
        with contextlib.suppress(aiortc.InvalidStateError, ConnectionError):
            self._native.send(data)
