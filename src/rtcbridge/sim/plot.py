"""The two pictures of a simulation: a week of one policy, and the trade between cost and waiting of many."""

from collections import Counter
from collections.abc import Sequence

from rtcbridge.sim.outcome import Outcome, Summary
from rtcbridge.sim.study import frontier
from rtcbridge.sim.svg import COLOURS, FAINT, INK, Axes, Canvas, ticks

_DAY, _HOUR = 86_400.0, 3600.0
_BLUE, _AREA, _ORANGE, _RED = COLOURS[0], "#c9dcf7", COLOURS[1], COLOURS[4]


def _policy(summary: Summary) -> str:
    text = f"β {summary.beta:g}, floor {summary.floor}, idle timeout {summary.idle_timeout:g} s"
    text += f", hold {summary.hold_beta:g}" if summary.hold_beta else ""
    return text + (f", window {summary.demand_window:g} s" if summary.demand_window else "")


def _figures(summary: Summary) -> str:
    return (
        f"{summary.sessions:,} sessions · {summary.waited:.2%} waited · {summary.abandoned:.2%} left · "
        f"first frame p50 {summary.p50:.1f} s, p95 {summary.p95:.1f} s, p99 {summary.p99:.1f} s · "
        f"${summary.usd_a_day:,.0f} a day, {summary.ratio:.2f} × clairvoyant"
    )


def week(outcome: Outcome, summary: Summary) -> str:
    """Draw one simulation as an SVG document: machines and sessions over time, and who waited."""
    canvas = Canvas(1100, 620)
    canvas.text(70, 34, f"Pool with {_policy(summary)}", size=18, weight="600")
    canvas.text(70, 56, _figures(summary), colour=FAINT)
    samples = outcome.samples
    span = (samples[0].time, max(samples[-1].time, samples[0].time + 1))
    most = max(1, *(max(sample.running, sample.served) for sample in samples))
    top = Axes(canvas, (70, 100, 1070, 380), span, (0.0, most * 1.05))
    days = _days(span)
    top.grid(days, ticks(0, most, least=1), _day, lambda value: f"{value:g}")
    top.area([(sample.time, sample.served) for sample in samples], _AREA)
    top.steps([(sample.time, sample.served) for sample in samples], _BLUE, width=1)
    top.steps([(sample.time, sample.running) for sample in samples], _ORANGE, width=1.2)
    top.titles("", "sessions, machines")
    _key(canvas, 84, [("sessions served", _BLUE), ("machines that are paid for", _ORANGE)])
    _waiting(canvas, outcome, span, days)
    return canvas.svg()


def _waiting(canvas: Canvas, outcome: Outcome, span: tuple[float, float], days: Sequence[float]) -> None:
    late = [arrival for arrival, wait in outcome.waits if wait > 1.0]
    waited, lost = (Counter(int(time // _HOUR) for time in times) for times in ([*late, *outcome.lost], outcome.lost))
    hours = range(int(span[0] // _HOUR), int(span[1] // _HOUR) + 2)
    most = max([4, *waited.values()])
    axes = Axes(canvas, (70, 430, 1070, 570), span, (0.0, most * 1.05))
    axes.grid(days, ticks(0, most, 4, least=1), _day, lambda value: f"{value:g}")
    axes.area([(hour * _HOUR, waited[hour]) for hour in hours], "#f3b9b9")
    axes.area([(hour * _HOUR, lost[hour]) for hour in hours], _RED)
    axes.titles("days from the beginning", "clients an hour")
    _key(canvas, 418, [("waited", "#f3b9b9"), ("left without being served", _RED)])


def _days(span: tuple[float, float]) -> list[float]:
    if span[1] - span[0] < 2 * _DAY:
        return [hour * _HOUR for hour in ticks(span[0] / _HOUR, span[1] / _HOUR, 8, least=1)]
    return [day * _DAY for day in ticks(span[0] / _DAY, span[1] / _DAY, 8, least=1)]


def _day(time: float) -> str:
    return f"{time / _DAY:g}" if time % _DAY == 0 else f"{time / _DAY:.2f}"


def _key(canvas: Canvas, y: float, entries: Sequence[tuple[str, str]]) -> None:
    x = 72.0
    for text, colour in entries:
        canvas.path([(x, y - 4), (x + 16, y - 4)], colour, width=4)
        canvas.text(x + 22, y, text, colour=INK)
        x += 40 + 7.2 * len(text)


def trade(summaries: Sequence[Summary], goal: float | None, chosen: Summary | None) -> str:
    """Draw many policies as an SVG document: cost to the right, the share that waited upwards.

    Args:
        summaries: one a policy.
        goal: the share that may wait, drawn as a line.
        chosen: the policy to be pointed out.
    """
    canvas = Canvas(1100, 640)
    canvas.text(70, 34, "What fewer waiting clients cost", size=18, weight="600")
    canvas.text(70, 56, f"{len(summaries)} policies, {summaries[0].sessions:,} sessions each", colour=FAINT)
    ratios = [summary.ratio for summary in summaries]
    width = (max(ratios) - min(ratios)) or 0.1
    x = (min(ratios) - 0.05 * width, max(ratios) + 0.05 * width)
    shares = [summary.waited for summary in summaries] + ([goal] if goal else [])
    y = (max(1e-5, min(shares) / 2), min(1.0, max(1e-4, *shares) * 1.5))
    axes = Axes(canvas, (80, 80, 900, 570), x, y, log=True)
    marks = [mark for ten in range(-5, 1) for mark in (10.0**ten, 3 * 10.0**ten) if y[0] <= mark <= y[1]]
    axes.grid(ticks(*x, 8), marks, lambda value: f"{value:.2f}", lambda value: f"{value * 100:.3g} %")
    axes.titles("cost, as a multiple of the clairvoyant cost", "clients that waited")
    if goal:
        left, right = axes.at(x[0], goal), axes.at(x[1], goal)
        canvas.path([left, right], _RED, width=1.2, dash="6 4")
        canvas.text(right[0] - 4, right[1] - 6, f"at most {goal * 100:.4g} %", colour=_RED, anchor="end", size=11)
    canvas.path([axes.at(one.ratio, one.waited) for one in frontier(summaries)], "#9aa5b1", width=1.2)
    _dots(canvas, axes, summaries)
    if chosen:
        at = axes.at(chosen.ratio, chosen.waited)
        canvas.dot(*at, 11, INK, ring=True)
        # Nothing is below and to the left of the best ones.
        canvas.path([(at[0], at[1] + 11), (at[0], 518), (96, 518)], FAINT, width=1)
        canvas.text(96, 536, _policy(chosen), weight="600")
        canvas.text(96, 554, _figures(chosen), colour=FAINT)
    return canvas.svg()


def _dots(canvas: Canvas, axes: Axes, summaries: Sequence[Summary]) -> None:
    betas = sorted({one.beta for one in summaries})
    idles = sorted({one.idle_timeout for one in summaries})
    colours = {beta: COLOURS[index % len(COLOURS)] for index, beta in enumerate(betas)}
    sizes = {idle: 3.0 + min(index, 4) * 1.3 for index, idle in enumerate(idles)}
    for one in summaries:
        tip = f"{_policy(one)}\n{_figures(one)}"
        at = axes.at(one.ratio, one.waited)
        canvas.dot(*at, sizes[one.idle_timeout], colours[one.beta], hollow=not one.hold_beta, tip=tip)
    y = 96.0
    for beta in betas:
        canvas.dot(930, y - 4, 5, colours[beta])
        canvas.text(944, y, f"β {beta:g}")
        y += 20
    y += 12
    for idle in idles:
        canvas.dot(930, y - 4, sizes[idle], FAINT)
        canvas.text(944, y, f"idle timeout {idle:g} s")
        y += 20
    for hollow in sorted({not one.hold_beta for one in summaries}):
        canvas.dot(930, y + 8, 5, FAINT, hollow=hollow)
        canvas.text(944, y + 12, "without hold" if hollow else "with hold")
        y += 20
    canvas.path([(922, y + 8), (938, y + 8)], "#9aa5b1", width=1.2)
    canvas.text(944, y + 12, "the best of them")
