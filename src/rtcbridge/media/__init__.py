"""The engine port: what a peer needs of a WebRTC library, and the choice between the two that provide it.

Only the modules `wrtc_…` and `aiortc_…` import a WebRTC library; everything else knows `port`.
"""

from __future__ import annotations

from collections.abc import Callable

from rtcbridge.media.port import (
    AudioFrame,
    Engine,
    EngineConfig,
    EngineError,
    EngineUnavailableError,
    IceServer,
    Peer,
    VideoFrame,
)

__all__ = [
    "ENGINES",
    "AudioFrame",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineUnavailableError",
    "IceServer",
    "Peer",
    "VideoFrame",
    "create_engine",
]


def _wrtc(config: EngineConfig) -> Engine:
    from rtcbridge.media.wrtc_engine import WrtcEngine

    return WrtcEngine(config)


def _aiortc(config: EngineConfig) -> Engine:
    from rtcbridge.media.aiortc_engine import AiortcEngine

    return AiortcEngine(config)


ENGINES: dict[str, Callable[[EngineConfig], Engine]] = {"wrtc": _wrtc, "aiortc": _aiortc}
"""The engines by name, in the order in which `auto` tries them."""


def create_engine(name: str = "auto", config: EngineConfig | None = None) -> Engine:
    """Return the engine called `name`; `auto` is the first of `ENGINES` that can be imported.

    Raises:
        EngineUnavailableError: the library is not installed, or `name` is not an engine.
    """
    config = config or EngineConfig()
    if name != "auto":
        if name not in ENGINES:
            raise EngineUnavailableError(f"engine: expected auto, {' or '.join(ENGINES)}, not {name!r}")
        try:
            return ENGINES[name](config)
        except ImportError as error:
            raise EngineUnavailableError(f"engine {name}: the library cannot be imported: {error}") from None
    for make in ENGINES.values():
        try:
            return make(config)
        except ImportError:
            continue
    raise EngineUnavailableError("no WebRTC library is installed: pip install 'rtcbridge[node]'")
