"""From single results to medians, ratios, the printed table and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.relay.measure import Result, is_disturbed
from benchmarks.relay.scenarios import Scenario

BRIDGE, YARDSTICK = "rtcbridge", "ws"
GENERATOR_LIMIT = 0.9
SATURATED = 0.9

Rounds = Mapping[str, Sequence[Result]]  # server → its results, one a round


@dataclass(frozen=True)
class Row:
    """One scenario, summed up.

    Attributes:
        figures: server → median of its figure.
        ratios: server → median of its ratios to Node `ws`, each taken within one round.
        loads: server → the generator's highest load, a share of its core.
        remarks: what the reader must know about this row.
    """

    scenario: Scenario
    figures: dict[str, float]
    ratios: dict[str, float]
    loads: dict[str, float]
    remarks: list[str]

    @property
    def reached(self) -> bool | None:
        """Whether the bridge reached its target; None where there is no target or nothing to compare."""
        target = self.scenario.target
        value = (self.figures if self.scenario.absolute else self.ratios).get(BRIDGE)
        if target is None or value is None:
            return None
        return value <= target if self.scenario.lower_is_better else value >= target


def _remarks(scenario: Scenario, rounds: Rounds) -> list[str]:
    remarks = []
    for server, results in rounds.items():
        loads = [result.get("generator_load", 0.0) for result in results]
        if max(loads) > GENERATOR_LIMIT:
            remarks.append(f"{server}: the generator was at {max(loads):.0%} of its core, the figure is a lower bound")
        if scenario.closed_loop and median(result["server_load"] for result in results) < SATURATED:
            remarks.append(f"{server}: the server was not saturated")
        disturbed = sum("others" in result and is_disturbed(result) for result in results)
        if disturbed:
            remarks.append(f"{server}: other programs disturbed {disturbed} of {len(results)} rounds")
    return remarks


def summarise(scenario: Scenario, rounds: Rounds) -> Row:
    """Medians over the rounds, and the medians of the ratios taken round by round."""
    figures = {server: [result[scenario.figure] for result in results] for server, results in rounds.items()}
    ratios = {}
    if YARDSTICK in figures:
        for server, values in figures.items():
            ratios[server] = median(value / base for value, base in zip(values, figures[YARDSTICK], strict=True))
    return Row(
        scenario=scenario,
        figures={server: median(values) for server, values in figures.items()},
        ratios=ratios,
        loads={server: max(r.get("generator_load", 0.0) for r in results) for server, results in rounds.items()},
        remarks=_remarks(scenario, rounds),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _target(row: Row) -> str:
    scenario = row.scenario
    if scenario.target is None:
        return "–"
    sign = "≤" if scenario.lower_is_better else "≥"
    unit = f" {scenario.unit}" if scenario.absolute else " ×"
    verdict = {True: " ✓", False: " ✗", None: ""}[row.reached]
    return f"{sign} {scenario.target:g}{unit}{verdict}"


def _cell(row: Row, server: str) -> str:
    if server not in row.figures:
        return "–"
    figure = f"{_number(row.figures[server])} {row.scenario.unit}".replace(" /s", "/s")
    return f"{row.ratios[server]:.2f} × ({figure})" if server in row.ratios and server != YARDSTICK else figure


def markdown(rows: Sequence[Row], servers: Sequence[str]) -> str:
    """The table: ratio to Node `ws`, and in brackets the figure itself."""
    titles = {"rtcbridge": "rtcbridge", "ws": "Node ws", "peerserver": "PeerServer"}
    head = ["", *(titles[server] for server in servers), "target", "generator's load"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        load = " / ".join(f"{row.loads[server]:.0%}" for server in servers if server in row.loads)
        cells = [row.scenario.title, *(_cell(row, server) for server in servers), _target(row)]
        cells.append(load if any(row.loads.values()) else "–")
        lines.append("| " + " | ".join(cells) + " |")
    remarks = [f"- {row.scenario.name}: {remark}." for row in rows for remark in row.remarks]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])
