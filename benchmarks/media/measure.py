"""One measurement each: a window of a running stream, a fresh session, the client's own latency figure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.media.browser import Bench
from benchmarks.media.programs import Contestant

SETTLE_S = 3.0  # from the first frame until the bit rate has risen and the picture has its full size
DISTURBED = 0.1  # of the machine: more than this, used by programs that are not ours, and the figures are doubtful


@dataclass(frozen=True)
class Size:
    """The size of the pictures, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class Result:
    """One window of one stream.

    Attributes:
        fps: frames a second that the browser presented.
        drawn_fps: frames a second that were drawn.
        latencies: for each frame that was read, milliseconds from drawing to presentation.
        cpu: processor seconds a second of the process that decodes and encodes.
        unreadable: presented frames whose code could not be read.
        overtaken: frames that the page came too late to read, beside those that it read.
        full_size: share of the frames that came back in the size that was sent.
        others: share of the machine's processors that other programs used.
        browser: milliseconds that a frame spent in the browser's encoder, jitter buffer and decoder.
    """

    fps: float
    drawn_fps: float
    latencies: list[float]
    cpu: float
    unreadable: int
    overtaken: int
    full_size: float
    others: float
    browser: dict[str, float]

    @property
    def p50(self) -> float:
        """Median latency, milliseconds."""
        return percentile(self.latencies, 0.5)

    @property
    def p95(self) -> float:
        """95th percentile of the latency, milliseconds."""
        return percentile(self.latencies, 0.95)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie, by linear interpolation between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


class _Clock:
    """Processor seconds since it was made: of one process, of all ours, of the machine."""

    def __init__(self, pid: int) -> None:
        self._node = psutil.Process(pid)
        self._begin = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        own = psutil.Process()
        ours = sum(_spent(process) for process in [own, *own.children(recursive=True)])
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        return time.monotonic(), _spent(self._node), ours, busy

    def shares(self) -> tuple[float, float]:
        """Processor seconds a second of the process; share of the machine that was used by others."""
        now = self._read()
        seconds, node, ours, busy = (after - before for after, before in zip(now, self._begin, strict=True))
        return node / seconds, max(0.0, busy - ours) / seconds / (psutil.cpu_count() or 1)


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def stream(bench: Bench, contestant: Contestant, size: Size, seconds: float) -> Result:
    """A fresh session, let settle, then watched for `seconds`."""
    bench.call("draw", size.width, size.height)
    bench.call("open", contestant.target)
    bench.wait(SETTLE_S)
    bench.call("begin")
    clock = _Clock(contestant.pid)
    bench.wait(seconds)
    cpu, others = clock.shares()
    window = bench.call("end")
    bench.call("close")
    seen = window["seen"]
    if not seen:
        raise RuntimeError(f"{contestant.name}: no frame with a code that can be read came back at {size}")
    return Result(
        fps=window["presented"] / window["seconds"],
        drawn_fps=window["drawn"] / window["seconds"],
        latencies=[frame["latency"] for frame in seen],
        cpu=cpu,
        unreadable=window["unreadable"],
        overtaken=window["overtaken"],
        full_size=sum(frame["width"] == size.width for frame in seen) / len(seen),
        others=others,
        browser=_parts(window["counters"]),
    )


def _parts(counters: dict[str, float]) -> dict[str, float]:
    """Means over the frames of a window, from the browser's own counters (W3C webrtc-stats)."""

    def each(total: str, count: str) -> float:
        return 1000 * counters.get(total, 0.0) / max(1.0, counters.get(count, 0.0))

    return {
        "encoder": each("out.totalEncodeTime", "out.framesEncoded"),
        "jitter buffer": each("in.jitterBufferDelay", "in.jitterBufferEmittedCount"),
        "decoder": each("in.totalDecodeTime", "in.framesDecoded"),
    }


def first_frame(bench: Bench, contestant: Contestant) -> dict[str, float]:
    """A fresh session up to its first frame: milliseconds from `offer`, from `open`, and the client's phases."""
    times: dict[str, float] = bench.call("firstFrame", contestant.target)
    return times


@dataclass(frozen=True)
class Check:
    """The client's own latency figure against the barcodes, on the moving clip.

    Attributes:
        errors: milliseconds that the figure was above the truth, one a second.
        truth: milliseconds, the mean of what the barcodes said.
        silent: seconds in which the client did not tell.
    """

    errors: list[float]
    truth: float
    silent: int


def latency_check(bench: Bench, contestant: Contestant, seconds: int) -> Check:
    """Compare for `seconds`, once the client's figure has had the pictures that it looks back on."""
    found: list[dict[str, Any]] = bench.call("latencyCheck", contestant.target, "/clip.webm", seconds)
    told = [entry for entry in found if entry["said"] is not None]
    return Check(
        errors=[entry["said"] - entry["truth"] for entry in told],
        truth=sum(entry["truth"] for entry in found) / len(found),
        silent=len(found) - len(told),
    )
