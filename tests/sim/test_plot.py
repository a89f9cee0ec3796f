from xml.etree import ElementTree

import msgspec
import pytest

from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim import plot
from rtcbridge.sim.outcome import Outcome, Sample, summarize
from rtcbridge.sim.svg import Axes, Canvas, ticks

SVG = "{http://www.w3.org/2000/svg}"


def simulated(waits=(0.0, 5.0), usd=3.0, beta=1.0, span=604_800.0):
    spec = PoolSpec(name="p", beta=beta, min_ready=2)
    samples = [Sample(span * index / 10, index % 3, index % 3 + 2) for index in range(11)]
    outcome = Outcome(spec=spec, connect=0.5, seconds=span, usd=usd, samples=samples, lost=[span / 2])
    outcome.waits += [(0.0, wait) for wait in waits]
    return outcome, summarize([outcome], [2.0])


@pytest.mark.parametrize("span", [604_800.0, 36_000.0, 60.0])
def test_a_week_is_a_picture_with_its_figures(span):
    outcome, summary = simulated(span=span)
    root = ElementTree.fromstring(plot.week(outcome, summary))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Pool with β 1, floor 2, idle timeout 120 s" in texts
    assert any("66.67% waited" in text for text in texts)
    assert len(list(root.iter(f"{SVG}path"))) > 5


def test_a_trade_has_a_dot_a_policy_and_a_ring_for_the_chosen():
    one = simulated()[1]
    others = [
        msgspec.structs.replace(one, beta=beta, waited=0.1 / (1 + beta), ratio=1 + beta) for beta in (0.0, 1.0, 2.0)
    ]
    root = ElementTree.fromstring(plot.trade(others, 0.05, others[1]))
    tips = [title.text for title in root.iter(f"{SVG}title")]
    assert len(tips) == 3
    rings = [circle for circle in root.iter(f"{SVG}circle") if circle.get("fill") == "none"]
    dots = [circle for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None]
    assert [(ring.get("cx"), ring.get("cy")) for ring in rings] == [(dots[1].get("cx"), dots[1].get("cy"))]
    assert "at most 5 %" in [text.text for text in root.iter(f"{SVG}text")]


def test_nobody_waits_under_any_policy():
    one = msgspec.structs.replace(simulated()[1], waited=0.0)
    ElementTree.fromstring(plot.trade([one, one], None, None))


def test_values_become_pixels():
    axes = Axes(Canvas(100, 100), (0, 0, 100, 100), (0, 10), (0.01, 1.0), log=True)
    assert axes.at(5, 0.1) == (50, pytest.approx(50))
    assert axes.at(20, 0.0) == (100, 100)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (1.02, 1.31, [1.1, 1.2, 1.3]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_whole_things():
    assert ticks(0, 3, least=1) == [0, 1, 2, 3]
