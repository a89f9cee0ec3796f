"""Pictures, sound and messages as libwebrtc has them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import webrtc

from rtcbridge.media import i420
from rtcbridge.media.port import AudioFrame, AudioOut, PeerEvents, VideoOut

if TYPE_CHECKING:
    from rtcbridge.media.port import I420


class InFrame:
    """A decoded picture of libwebrtc."""

    def __init__(self, native: webrtc.VideoFrame) -> None:
        self._native = native
        self.arrival = time.monotonic()
        sides = native.coded_width & ~1, native.coded_height & ~1
        self.width, self.height = sides if native.rotation % 180 == 0 else sides[::-1]

    def i420(self) -> I420:
        """See `VideoFrame.i420`."""
        native = self._native
        width, height = native.coded_width & ~1, native.coded_height & ~1
        rect = webrtc.DOMRectInit(0, 0, width, height)
        if native.format == "I420":
            picture = np.empty((height * 3 // 2, width), np.uint8)
            # The public copy_to makes a future and so is bound to the loop; the copy itself is not.
            native._copy_to(picture.data.cast("B"), webrtc.VideoFrameCopyToOptions(rect=rect))
        else:
            import cv2

            rgba = np.empty((height, width, 4), np.uint8)
            native._copy_to(rgba.data.cast("B"), webrtc.VideoFrameCopyToOptions(rect=rect, format="RGBA"))
            picture = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2YUV_I420), np.uint8)
        return i420.rotate(picture, native.rotation)

    def close(self) -> None:
        """See `VideoFrame.close`."""
        self._native.close()


class InTrack:
    """Reads one incoming track into the events."""

    def __init__(self, track: webrtc.MediaStreamTrack, out: OutVideo | OutAudio | None, events: PeerEvents) -> None:
        self._out = out
        self._processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track))
        pump: Any = _pump_video if track.kind == "video" else _pump_audio
        self._task = asyncio.create_task(pump(self._processor, out, events), name=f"{track.kind.value}-in")

    async def close(self) -> None:
        """Stop reading, and end the track that goes the other way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._out is not None:
            await self._out.close()


async def _pump_video(processor: Any, out: VideoOut | None, events: PeerEvents) -> None:
    async for frame in processor.readable:
        events.on_video_frame(InFrame(frame), out)


async def _pump_audio(processor: Any, out: AudioOut | None, events: PeerEvents) -> None:
    options = webrtc.AudioDataCopyToOptions(plane_index=0, format="s16")
    async for data in processor.readable:
        with data:
            samples = bytearray(data.allocation_size(options))
            data.copy_to(samples, options)
            frame = AudioFrame(bytes(samples), int(data.sample_rate), data.number_of_channels)
        events.on_audio_frame(frame, out)


class _Out:
    """Writes to a generated track; a write after its end closes what was to be written."""

    def __init__(self, track: webrtc.MediaStreamTrack, writable: Any) -> None:
        self.track = track
        self._writer = writable.get_writer()
        self._open = True

    def _write(self, item: Any) -> None:
        if not self._open:
            item.close()
            return

        def done(future: asyncio.Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                self._open = False
                item.close()

        self._writer.write(item).add_done_callback(done)

    async def close(self) -> None:
        """Stop reading, and end the track that goes the other way."""
        self._open = False
        with contextlib.suppress(Exception):
            await self._writer.close()


class OutVideo(_Out):
    """The track of pictures that is sent."""

    def __init__(self) -> None:
        self._generator = webrtc.VideoTrackGenerator()
        super().__init__(self._generator.track, self._generator.writable)

    def send(self, picture: I420) -> None:
        """See `VideoOut.send`."""
        rows, width = picture.shape
        init = webrtc.VideoFrameBufferInit(
            format="I420", coded_width=width, coded_height=rows * 2 // 3, timestamp=time.monotonic_ns() // 1000
        )
        self._write(webrtc.VideoFrame(np.ascontiguousarray(picture).data.cast("B"), init))


class OutAudio(_Out):
    """The track of sound that is sent."""

    def __init__(self) -> None:
        generator = webrtc.MediaStreamTrackGenerator("audio")
        super().__init__(generator, generator.writable)

    def send(self, frame: AudioFrame) -> None:
        """See `AudioOut.send`."""
        count = len(frame.samples) // (2 * frame.channels)
        self._write(
            webrtc.AudioData(
                webrtc.AudioDataInit(
                    format="s16",
                    sample_rate=frame.sample_rate,
                    number_of_frames=count,
                    number_of_channels=frame.channels,
                    timestamp=time.monotonic_ns() // 1000,
                    data=frame.samples,
                )
            )
        )


class Channel:
    """A data channel."""

    def __init__(self, native: webrtc.RTCDataChannel) -> None:
        self._native = native

    @property
    def label(self) -> str:
        """See `DataChannel.label`."""
        return self._native.label

    @property
    def buffered_amount(self) -> int:
        """See `DataChannel.buffered_amount`."""
        return self._native.buffered_amount

    def send(self, data: str) -> None:
        """See `DataChannel.send`."""
        # The channel may close between a check and the call, on another thread.
        with contextlib.suppress(webrtc.RTCException):
            self._native.send(data)
