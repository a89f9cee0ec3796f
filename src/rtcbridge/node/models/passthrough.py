"""The model that changes nothing: for measuring, and for testing a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtcbridge.node.model import model

if TYPE_CHECKING:
    from rtcbridge.node.model import Picture


@model(name="passthrough", format="i420")
def passthrough(frame: Picture) -> Picture:
    """Return the picture as it came."""
    return frame
