"""Pictures that come back, and where they wait until they are asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcbridge.client.errors import ClientError
    from rtcbridge.media.port import I420

_MAX_BYTES = 256 << 20  # of pictures that wait


@dataclass(frozen=True)
class Frame:
    """One picture that came back.

    Attributes:
        i420: as it came: planes Y, U, V, uint8, shape (height * 3 // 2, width).
        time: seconds, on the clock of the source: of the picture that it was made of where the latency was measured,
            else since the first picture was sent.
        index: number of that picture in the source, from 0; -1 where it is not known.
    """

    i420: I420
    time: float
    index: int = -1

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """RGB, uint8, shape (height, width, 3), in memory of its own."""
        return np.asarray(cv2.cvtColor(self.i420, cv2.COLOR_YUV2RGB_I420), np.uint8)

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.i420.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.i420.shape[0]) * 2 // 3


class FrameQueue:
    """Frames in order. Of a live source only the newest waits; of another all, as far as memory allows."""

    def __init__(self, live: bool) -> None:
        self.dropped = 0
        self._live = live
        self._frames: deque[Frame] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._over = False
        self._error: ClientError | None = None

    def put(self, frame: Frame) -> None:
        """Add a frame, and drop the oldest ones where there is no room."""
        self._frames.append(frame)
        self._size += frame.i420.nbytes
        while len(self._frames) > 1 and (self._live or self._size > _MAX_BYTES):
            self._size -= self._frames.popleft().i420.nbytes
            self.dropped += 1
        self._changed.set()

    def end(self, error: ClientError | None = None) -> None:
        """Nothing more will come; only the first call counts."""
        if not self._over:
            self._over, self._error = True, error
            self._changed.set()

    async def get(self) -> Frame | None:
        """Return the next frame, or None after the last one. Raises the ClientError that ended it."""
        while not self._frames:
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._size -= frame.i420.nbytes
        return frame
