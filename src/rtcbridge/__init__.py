"""rtcbridge: any real-time video model behind one WebSocket.

A model is a decorated function or class:

    import rtcbridge

    @rtcbridge.model
    def invert(frame, params):
        return 255 - frame

Run it with `rtcbridge node app.py:invert --bridge ws://… --key nk_…`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcbridge.node.model import ModelError, model
    from rtcbridge.node.params import Bool, Choice, Float, Int, Params, Text

__all__ = ["Bool", "Choice", "Float", "Int", "ModelError", "Params", "Text", "model"]

_HOMES = {
    "Bool": "rtcbridge.node.params",
    "Choice": "rtcbridge.node.params",
    "Float": "rtcbridge.node.params",
    "Int": "rtcbridge.node.params",
    "ModelError": "rtcbridge.node.model",
    "Params": "rtcbridge.node.params",
    "Text": "rtcbridge.node.params",
    "model": "rtcbridge.node.model",
}


def __getattr__(name: str) -> Any:
    """Import an exported name on its first use (PEP 562), so that the bridge does not pay for the node."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rtcbridge' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
