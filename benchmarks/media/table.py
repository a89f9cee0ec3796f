"""From single results to medians, ratios to the bare peer, and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.media.measure import DISTURBED, Check, Result, Size, percentile
from benchmarks.media.programs import Contestant

Rounds = Mapping[str, Sequence[Result]]  # contestant → its results, one a round
Starts = Mapping[str, Sequence[Mapping[str, float]]]  # contestant → its sessions' times
PHASES = ("auth", "line", "answer", "ice", "frame")


@dataclass(frozen=True)
class Figure:
    """One row of a stream's figures."""

    title: str
    of: Callable[[Result], float]
    format: str


FIGURES = (
    Figure("frames a second, delivered", lambda result: result.fps, "{:.1f}"),
    Figure("glass to glass, p50", lambda result: result.p50, "{:.1f} ms"),
    Figure("glass to glass, p95", lambda result: result.p95, "{:.1f} ms"),
    Figure("processor of the node", lambda result: result.cpu, "{:.2f} s/s"),
)


def _cells(values: Mapping[str, tuple[float, float | None]], order: Sequence[str], form: str) -> list[str]:
    """Each contestant's value, behind its ratio where it has one."""
    cells = []
    for name in order:
        value, ratio = values[name]
        figure = form.format(value)
        cells.append(figure if ratio is None else f"{ratio:.2f} × ({figure})")
    return cells


def _stream_row(figure: Figure, rounds: Rounds, contestants: Sequence[Contestant]) -> list[str]:
    values: dict[str, tuple[float, float | None]] = {}
    for one in contestants:
        own = [figure.of(result) for result in rounds[one.name]]
        base = [figure.of(result) for result in rounds[f"bare {one.engine}"]]
        ratio = None if one.kind == "bare" else median(a / b for a, b in zip(own, base, strict=True))
        values[one.name] = median(own), ratio
    return _cells(values, [one.name for one in contestants], figure.format)


def _start_row(key: str, share: float, starts: Starts, contestants: Sequence[Contestant]) -> list[str]:
    at = {name: percentile([times[key] for times in sessions], share) for name, sessions in starts.items()}
    values = {
        one.name: (at[one.name], None if one.kind == "bare" else at[one.name] / at[f"bare {one.engine}"])
        for one in contestants
    }
    return _cells(values, [one.name for one in contestants], "{:.0f} ms")


def markdown(streams: Mapping[Size, Rounds], starts: Starts, contestants: Sequence[Contestant]) -> str:
    """The table: ratio to the bare peer of the same engine, and in brackets the figure itself."""
    heads = ["", *(one.name for one in contestants)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for size, rounds in streams.items():
        for figure in FIGURES:
            cells = [f"{size}: {figure.title}", *_stream_row(figure, rounds, contestants)]
            lines.append("| " + " | ".join(cells) + " |")
    for key, title in (("fromOffer", "offer sent"), ("fromOpen", "socket open")):
        for share in (0.5, 0.95):
            cells = [f"{title} → first frame, p{share * 100:.0f}", *_start_row(key, share, starts, contestants)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remarks(streams: Mapping[Size, Rounds], starts: Starts, checks: Mapping[str, Check]) -> list[str]:
    """What the reader must know beside the table, a sentence each."""
    found = []
    for name, sessions in starts.items():
        if "frame" in sessions[0]:
            parts = ", ".join(f"{phase} {median(times[phase] for times in sessions):.0f}" for phase in PHASES)
            found.append(f"{name}: the client's own account of the time to the first frame, medians in ms: {parts}.")
    for name, check in checks.items():
        found.append(f"{name}: {_check(check)}")
    for size, rounds in streams.items():
        found.append(f"{size}: {_browser(rounds)}")
    for size, rounds in streams.items():
        for name, results in rounds.items():
            found += [f"{name} at {size}: {text}." for text in _doubts(results)]
    return found


def _check(check: Check) -> str:
    if not check.errors:
        return "the client's latency figure never came on the moving clip."
    worst = max(check.errors, key=abs)
    silent = f", {check.silent} s without a figure" if check.silent else ""
    return (
        f"the client's latency figure was {median(check.errors):+.1f} ms off the barcodes' on the moving clip "
        f"(median; worst {worst:+.1f} ms, {len(check.errors)} s, true latency between the two elements "
        f"{check.truth:.1f} ms{silent})."
    )


def _browser(rounds: Rounds) -> str:
    """What of the latency is the browser's, whatever is at the other end."""
    parts = [result.browser for results in rounds.values() for result in results]
    named = ", ".join(f"{part} {median(one[part] for one in parts):.1f}" for part in parts[0])
    return f"of the latency, in the browser, in all columns, ms a frame: {named}."


def _doubts(results: Sequence[Result]) -> list[str]:
    texts = []
    unreadable = sum(result.unreadable for result in results)
    if unreadable:
        texts.append(f"{unreadable} presented frames had no readable code")
    overtaken = sum(result.overtaken for result in results)
    if overtaken > 0.02 * sum(len(result.latencies) for result in results):
        texts.append(f"the page came too late to read {overtaken} of the presented frames")
    small = min(result.full_size for result in results)
    if small < 1:
        texts.append(f"in one round only {small:.0%} of the frames had the full size")
    drawn = min(result.drawn_fps for result in results)
    if drawn < 0.98 * median(result.drawn_fps for result in results) or drawn < 29:
        texts.append(f"the browser drew only {drawn:.1f} frames a second in one round")
    disturbed = sum(result.others > DISTURBED for result in results)
    if disturbed:
        most = max(result.others for result in results)
        texts.append(f"other programs used up to {most:.0%} of the machine in {disturbed} of {len(results)} rounds")
    return texts
