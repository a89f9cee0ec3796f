"""The examples run and do what they say."""

from pathlib import Path

import numpy as np

from rtcbridge.node.loader import load_model
from rtcbridge.node.model import Model
from rtcbridge.node.params import defaults, update

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_invert() -> None:
    model = Model(load_model(f"{EXAMPLES}/invert.py:invert"))
    model.setup()
    frame = np.full((4, 4, 3), 200, np.uint8)
    assert (model.process(frame, defaults({}), None) == 55).all()


def test_trails() -> None:
    model = Model(load_model(f"{EXAMPLES}/trails.py:Trails"))
    model.setup()
    values, state, other = defaults(model.spec.params), model.open_session(), model.open_session()
    dark = np.full((40, 60, 3), 20, np.uint8)
    bright = dark.copy()
    bright[10:20, 10:20] = 90
    assert (model.process(dark, values, state) == dark).all()
    lit = model.process(bright, values, state)
    assert lit[15, 15, 1] == 255
    assert (lit[30, 30] == 20).all()
    fading = model.process(bright, values, state)
    assert 90 < fading[15, 15, 1] < 255 or fading[15, 15, 1] == 255
    assert (model.process(bright, values, other) == bright).all()
    mirrored = model.process(bright, update(model.spec.params, values, {"mirror": True}), model.open_session())
    assert (mirrored == bright[:, ::-1]).all()
