"""The models that come with rtcbridge."""

from __future__ import annotations

from importlib import import_module

from rtcbridge.node.model import ModelError, ModelSpec, spec_of

BUILT_IN = {
    "passthrough": "passthrough:passthrough",
    "styles": "styles:Styles",
    "sketch": "classical:sketch_model",
    "cartoon": "classical:cartoon_model",
    "neon": "classical:neon_model",
    "neural": "neural:Neural",
}
"""Names of the command line, and where each lies in this package."""


def built_in(name: str) -> ModelSpec:
    """Return a built-in model. Raises ModelError if what it needs is not installed."""
    module, _, attribute = BUILT_IN[name].partition(":")
    try:
        spec = spec_of(getattr(import_module(f"{__name__}.{module}"), attribute))
    except ImportError as error:
        extra = "styles" if name == "neural" else "node"
        raise ModelError(f"model {name}: {error}: pip install 'rtcbridge[{extra}]'") from None
    assert spec is not None
    return spec
