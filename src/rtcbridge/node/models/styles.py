"""The demo's model: every style there is, behind one choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from rtcbridge.node.model import model
from rtcbridge.node.models import neural
from rtcbridge.node.models.classical import CLASSICAL, STRENGTH, blend
from rtcbridge.node.params import Choice

if TYPE_CHECKING:
    from rtcbridge.node.model import Picture
    from rtcbridge.node.params import Params

log = structlog.get_logger()

_NONE = [("none", "None")]
_FILTERS = [(name, title) for name, (title, _) in CLASSICAL.items()]
_HAS_NEURAL = neural.available()


@model(name="styles", title="Styles")
class Styles:
    """Filters, and painting styles where their packages are installed."""

    style = Choice(
        "cartoon",
        choices={"Plain": _NONE, "Filters": _FILTERS}
        | ({"Paintings (neural)": neural.PAINTINGS} if _HAS_NEURAL else {}),
        help="" if _HAS_NEURAL else "Neural styles are not installed on this node.",
    )
    strength = STRENGTH
    detail = neural.DETAIL

    def setup(self) -> None:
        """Load the network, if it is installed."""
        self._painter = neural.Painter() if _HAS_NEURAL else None
        self._index = {value: index for index, (value, _) in enumerate(neural.PAINTINGS)}
        if self._painter is None:
            log.warning("no_neural_styles", install="pip install 'rtcbridge[styles]'")

    def process(self, frame: Picture, params: Params) -> Picture:
        """Apply the style that is chosen."""
        if params.style == "none" or params.strength <= 0:
            return frame
        if params.style in CLASSICAL:
            styled = CLASSICAL[params.style][1](frame)
        else:
            assert self._painter is not None
            styled = self._painter.paint(frame, self._index[params.style], params.detail)
        return blend(frame, styled, params.strength)
