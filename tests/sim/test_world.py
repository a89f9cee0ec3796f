import random
from statistics import fmean

import pytest

from rtcbridge.sim.world import Fixed, Lognormal, Uniform, World, distribution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40", Fixed(40.0)),
        ("20-60", Uniform(20.0, 60.0)),
        ("0.5-0.5", Uniform(0.5, 0.5)),
        ("lognormal:480:1.1", Lognormal(480.0, 1.1)),
    ],
)
def test_a_distribution_is_what_its_text_says_and_has_that_mean(text, expected):
    found = distribution(text)
    assert found == expected
    draw = random.Random(1)
    assert fmean(found.draw(draw) for _ in range(40_000)) == pytest.approx(found.mean, rel=0.03)


@pytest.mark.parametrize(
    "text", ["", "x", "-5", "60-20", "nan", "inf", "lognormal:480", "lognormal:0:1", "lognormal:1:9"]
)
def test_what_is_no_distribution(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whoever asks says what is expected
        distribution(text)


def test_money():
    assert World(running=1.0, disk=0.5).cost(7200, 3600) == 2.5
