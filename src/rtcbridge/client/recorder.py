"""Writes what comes back into a file, with the sound of the source."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from rtcbridge.client.errors import ClientError
from rtcbridge.client.sources import frame_rate

if TYPE_CHECKING:
    from rtcbridge.client.frames import Frame

_CLOCK = 90_000  # of the pictures' timestamps
_VIDEO = {"webm": "libvpx-vp9"}  # of a container's format; otherwise H.264, or what the format likes best
_OPTIONS = {
    "libx264": {"preset": "veryfast", "crf": "18"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "crf": "24", "b:v": "0"},
}
_COPIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "opus", "alac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le"},
    "matroska": {"aac", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "pcm_s16le"},
    "webm": {"opus", "vorbis"},
}
_SOUND = {"webm": "libopus", "matroska": "libopus"}


class Recorder:
    """A file that is written, beside its name until it is whole.

    Args:
        path: where to; what it is to be is told by the ending: `.mp4`, `.mov`, `.mkv`, `.webm` and others.
        source: the file with the sound; None for none.
        fps: pictures a second, about.

    Raises:
        ClientError: `source_failed`: the file cannot be made, or its ending says nothing.
    """

    def __init__(self, path: Path, source: Path | None, fps: float) -> None:
        self.frames = 0
        self.seconds = 0.0
        self._path = path
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._fps = fps
        try:
            self._out = av.open(str(self._part), "w")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClientError("source_failed", f"{path}: cannot be written: {_reason(error)}") from None
        self._format = self._out.format.name.split(",")[0]
        self._video: Any = None
        self._last = -1  # timestamp
        self._sound = _Sound(self._out, source, self._format) if source is not None else None

    @property
    def has_sound(self) -> bool:
        """Whether the source has sound."""
        return self._sound is not None and self._sound.stream is not None

    def write(self, frame: Frame, size: tuple[int, int]) -> None:
        """Add a frame at its time, in the size of the first one. Raises ClientError: it cannot be written."""
        try:
            self._video = self._video or self._make_video(size)
            at = 0 if self._last < 0 else round(frame.time * _CLOCK)  # the first one stands for what came before
            if at <= self._last:
                return
            self._last = at
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.i420), format="yuv420p")
            picture = picture.reformat(width=self._video.width, height=self._video.height, format="yuv420p")
            picture.pts, picture.time_base = at, Fraction(1, _CLOCK)
            self._out.mux(self._video.encode(picture))
            self.frames += 1
            self.seconds = at / _CLOCK + 1 / self._fps
            if self._sound is not None:
                self._sound.write(until=self.seconds)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClientError("source_failed", f"{self._path}: cannot be written: {_reason(error)}") from None

    def finish(self) -> bool:
        """Complete the file and give it its name; False, and there is none, where there was no frame."""
        try:
            if self._video is not None:
                self._out.mux(self._video.encode(None))
                if self._sound is not None:
                    self._sound.write(until=self.seconds)
            self._out.close()
            if self.frames:
                self._part.replace(self._path)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ClientError("source_failed", f"{self._path}: cannot be written: {_reason(error)}") from None
        finally:
            self.discard()
        return self.frames > 0

    def discard(self) -> None:
        """Remove what is not whole. A second call does nothing."""
        if self._sound is not None:
            self._sound.close()
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._out.close()
        self._part.unlink(missing_ok=True)

    def _make_video(self, size: tuple[int, int]) -> Any:
        codec = _VIDEO.get(self._format, "libx264")
        if codec not in av.codecs_available:
            codec = self._out.default_video_codec
        stream: Any = self._out.add_stream(codec, rate=frame_rate(self._fps), options=_OPTIONS.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        return stream


class _Sound:
    """The sound of a file: its packets as they are where the other container takes them, or else encoded anew."""

    def __init__(self, out: Any, source: Path, format: str) -> None:
        self.stream: Any = None
        self._out = out
        self._container: Any = av.open(str(source))
        self._packets: Iterator[tuple[float, Any]] = iter(())
        self._next: tuple[float, Any] | None = None
        if not self._container.streams.audio:
            return
        track = self._container.streams.audio[0]
        video: Any = self._container.streams.video[0]
        # The pictures' clock begins with the first picture.
        self._start = float((video.start_time or 0) * video.time_base)
        if track.codec_context.name in _COPIED.get(format, set()):
            self.stream = out.add_stream_from_template(track)
            self._packets = self._copied(track)
        else:
            name = _SOUND.get(format, out.default_audio_codec)
            name = name if name in av.codecs_available else out.default_audio_codec
            rate = 48_000 if "opus" in name else track.codec_context.sample_rate
            layout = "mono" if track.codec_context.layout.nb_channels == 1 else "stereo"
            self.stream = out.add_stream(name, rate=rate, layout=layout)
            self._packets = self._encoded(track, rate, layout)

    def write(self, until: float) -> None:
        """Write what belongs to the time before `until`, in seconds."""
        while self.stream is not None:
            self._next = self._next or next(self._packets, None)
            if self._next is None or self._next[0] >= until:
                break
            self._out.mux(self._next[1])
            self._next = None

    def close(self) -> None:
        """Close the source."""
        self.stream = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _copied(self, track: Any) -> Iterator[tuple[float, Any]]:
        shift = round(self._start / track.time_base)
        for packet in self._container.demux(track):
            if packet.dts is None or packet.pts is None or packet.pts < shift:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self.stream
            yield float(packet.pts * track.time_base), packet

    def _encoded(self, track: Any, rate: int, layout: str) -> Iterator[tuple[float, Any]]:
        resampler = av.AudioResampler(format=self.stream.codec_context.format or "fltp", layout=layout, rate=rate)
        first: int | None = None
        at = 0
        for frame in itertools.chain(self._container.decode(track), [None]):
            if frame is not None and frame.time is not None and frame.time < self._start:
                continue
            for piece in resampler.resample(frame):
                if first is None:
                    begun = 0.0 if frame is None or frame.time is None else frame.time - self._start
                    first = at = round(begun * rate)
                piece.pts, piece.time_base = at, Fraction(1, rate)
                at += piece.samples
                yield from self._timed(self.stream.encode(piece))
        yield from self._timed(self.stream.encode(None))

    def _timed(self, packets: list[Any]) -> Iterator[tuple[float, Any]]:
        for packet in packets:
            yield float((packet.pts or 0) * packet.time_base), packet


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
