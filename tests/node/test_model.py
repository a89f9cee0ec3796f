"""The models API and the loader."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcbridge
from rtcbridge.node.loader import load_model
from rtcbridge.node.model import Model, ModelError, OutputError, spec_of
from rtcbridge.node.params import defaults

FRAME = np.zeros((4, 6, 3), np.uint8)


def running(target: Any) -> Model:
    spec = spec_of(target)
    assert spec is not None
    model = Model(spec)
    model.setup()
    return model


def once(target: Any, state: Any = None) -> Any:
    model = running(target)
    return model.process(FRAME.copy(), defaults(model.spec.params), state)


def test_a_function_stays_a_function() -> None:
    @rtcbridge.model
    def invert(frame: np.ndarray, params: Any) -> np.ndarray:
        return 255 - frame

    assert invert(FRAME, None).min() == 255
    assert once(invert).min() == 255
    spec = spec_of(invert)
    assert spec is not None
    assert (spec.name, spec.title, spec.format, dict(spec.params)) == ("invert", "Invert", "rgb", {})


def test_a_function_may_take_the_frame_alone() -> None:
    @rtcbridge.model
    def one(frame: np.ndarray) -> np.ndarray:
        return frame + 1

    @rtcbridge.model
    def with_default(frame: np.ndarray, params: Any, gain: int = 7) -> np.ndarray:
        return frame + gain

    @rtcbridge.model
    def any_number(*args: Any) -> np.ndarray:
        assert len(args) == 2
        return args[0]

    assert once(one).max() == 1
    assert once(with_default).max() == 7
    once(any_number)


def test_a_function_with_parameters_and_a_format() -> None:
    @rtcbridge.model(params={"gain": rtcbridge.Int(2)}, name="louder", title="Louder!", format="bgr")
    def gain(frame: np.ndarray, params: Any) -> np.ndarray:
        return frame + params.gain

    assert once(gain).max() == 2
    spec = spec_of(gain)
    assert spec is not None
    assert spec.format == "bgr"
    assert spec.describe() == {
        "name": "louder",
        "title": "Louder!",
        "params": [{"name": "gain", "kind": "int", "title": "Gain", "default": 2}],
    }


def test_a_class_has_setup_parameters_and_state() -> None:
    closed = []

    class Counter:
        def __init__(self) -> None:
            self.frames = 0

        def close(self) -> None:
            closed.append(self.frames)

    @rtcbridge.model
    class Counting:
        """Counts."""

        step = rtcbridge.Int(3)

        def setup(self) -> None:
            self.base = 10

        def session(self) -> Counter:
            return Counter()

        def process(self, frame: np.ndarray, params: Any, state: Counter) -> np.ndarray:
            state.frames += params.step
            return frame + self.base + state.frames

    model = running(Counting)
    values = defaults(model.spec.params)
    one, two = model.open_session(), model.open_session()
    assert model.process(FRAME, values, one).max() == 13
    assert model.process(FRAME, values, one).max() == 16
    assert model.process(FRAME, values, two).max() == 13
    model.close_session(one)
    model.close_session(None)
    assert closed == [6]


def test_a_class_may_be_callable_and_inherit_parameters() -> None:
    class Base:
        gain = rtcbridge.Int(1)

    @rtcbridge.model
    class Called(Base):
        def __call__(self, frame: np.ndarray, params: Any) -> np.ndarray:
            return frame + params.gain

    class Undecorated(Called):
        pass

    assert once(Called).max() == 1
    assert spec_of(Undecorated) is None


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (None, "None"),
        ([[1]], "a list"),
        (FRAME.astype(np.float32), "an array of float32"),
        (FRAME[:, :, 0], r"an array of shape \(4, 6\)"),
        (np.zeros((4, 6, 4), np.uint8), r"an array of shape \(4, 6, 4\)"),
        (np.zeros((0, 6, 3), np.uint8), r"an array of shape \(0, 6, 3\)"),
    ],
)
def test_a_wrong_result_says_what_it_was(result: Any, got: str) -> None:
    @rtcbridge.model
    def wrong(frame: np.ndarray) -> Any:
        return result

    with pytest.raises(OutputError, match=rf"^the model returned {got}; expected a uint8 array of shape \(height"):
        once(wrong)


def test_wrong_declarations() -> None:
    async def asynchronous(frame: Any) -> Any: ...
    def none() -> Any: ...
    def three(frame: Any, params: Any, state: Any) -> Any: ...
    def keyword(frame: Any, *, gain: Any) -> Any: ...

    class Empty: ...

    class Bad:
        a = rtcbridge.Float(2, max=1)

        def process(self, frame: Any) -> Any: ...

    for target, message in (
        (asynchronous, "must not be async"),
        (none, "expected a function of frame and params"),
        (three, "expected a function of frame and params"),
        (keyword, "expected a function of frame and params"),
        (Empty, "has no method process"),
        (Bad, "a, default: expected a number of at most 1"),
        (7, "belongs on a function or a class"),
    ):
        with pytest.raises(ModelError, match=message):
            rtcbridge.model(target)
    with pytest.raises(ModelError, match="format: expected rgb, bgr, i420"):
        rtcbridge.model(format="yuv")(none)  # type: ignore[call-overload]


GOOD = "import helper_beside\nimport rtcbridge\n\n@rtcbridge.model\ndef invert(frame):\n    return 255 - frame\n"


def test_loads_from_a_file_and_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_beside.py").write_text("x = 1\n")
    (tmp_path / "app_of_test.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_model("app_of_test.py:invert").name == "invert"
    assert load_model(f"{tmp_path}/app_of_test.py:invert").name == "invert"
    assert load_model("app_of_test:invert").name == "invert"


@pytest.mark.parametrize("name", ["passthrough", "styles", "sketch", "cartoon", "neon", "neural"])
def test_loads_what_is_built_in(name: str) -> None:
    assert load_model(name).name == name


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("missing.py:f", "model: there is no file missing.py"),
        ("no.such.module:f", "model: there is no module no.such.module"),
        ("nonsense", "model 'nonsense': expected module:function, file.py:function, or one of passthrough, "),
        ("app.py:", "model 'app.py:': expected module:function or file.py:function"),
        (":f", "model ':f': expected module:function or file.py:function"),
        ("good.py:f", "model 'good.py:f': good.py has no 'f'; it has invert"),
        ("good.py:plain", "model 'good.py:plain': plain is not a model: put @rtcbridge.model on it"),
        ("broken.py:f", "model: broken.py cannot be imported: ZeroDivisionError: division by zero"),
        ("syntax.py:f", "model: syntax.py cannot be imported: SyntaxError: "),
        ("wants.py:f", "model: wants.py cannot be imported: ModuleNotFoundError: No module named 'torch_of_test'"),
        ("exits.py:f", "model: exits.py cannot be imported: SystemExit: 3"),
        ("declares.py:f", "model: declares.py cannot be imported: model f: a, default: expected a number"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    reference: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("import rtcbridge\n@rtcbridge.model\ndef invert(f): ...\ndef plain(f): ...\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "wants.py").write_text("import torch_of_test\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "declares.py").write_text(
        "import rtcbridge\n@rtcbridge.model(params={'a': rtcbridge.Float('x')})\ndef f(frame): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("good", "broken", "syntax", "wants", "exits", "declares"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModelError) as caught:
        load_model(reference)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_importing_rtcbridge_imports_no_runtime() -> None:
    code = (
        "import sys, rtcbridge; rtcbridge.model, rtcbridge.Float, rtcbridge.Params; dir(rtcbridge);"
        "print([m for m in ('numpy', 'cv2', 'webrtc', 'aiortc', 'websockets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_exported() -> None:
    assert set(rtcbridge.__all__) == {"Bool", "Choice", "Float", "Int", "ModelError", "Params", "Text", "model"}
    for name in rtcbridge.__all__:
        assert getattr(rtcbridge, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rtcbridge.nothing
