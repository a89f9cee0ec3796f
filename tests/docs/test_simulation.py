"""The table and the picture of the page on simulation are what the program gives."""

import re
import shlex
from xml.etree import ElementTree

import msgspec
import pytest

from docs.pages import ROOT
from rtcbridge import cli
from rtcbridge.cli import simulate
from rtcbridge.sim.scenario import Sweep
from rtcbridge.sim.study import Study, sweep

PAGE = (ROOT / "docs" / "how-to" / "simulate.md").read_text()
TOOL = (ROOT / "tools" / "simulation.py").read_text()
SVG = "{http://www.w3.org/2000/svg}"
BLOCK = re.search(r"<!-- Written by make simulate -->\n```\n(.*?)```", PAGE, re.DOTALL)


def table() -> list[list[str]]:
    assert BLOCK is not None
    lines = [re.split(r"\s{2,}", line[1:].strip()) for line in BLOCK[1].splitlines()[1:]]
    return [line for line in lines if len(line) > 5]


def test_the_page_shows_the_command_that_wrote_its_table() -> None:
    command = re.search(r'COMMAND = "(.*)"', TOOL)
    assert command is not None
    assert f"rtcbridge {command[1]}" in PAGE


def test_the_mark_is_in_the_table() -> None:
    """At most 0.5 % of clients wait, at no more than 1.30 times the clairvoyant cost."""
    marked = re.search(r"^→.* (\d\.\d\d)% .* (\d\.\d{3}) +\d+%", BLOCK[1] if BLOCK else "", re.MULTILINE)
    assert marked is not None
    assert float(marked[1]) <= 0.5
    assert float(marked[2]) <= 1.30


def test_the_picture_has_the_policies_of_the_table() -> None:
    tips = [title.text or "" for title in ElementTree.parse(ROOT / "docs" / "trade.svg").iter(f"{SVG}title")]
    assert len(table()) > 10
    for beta, floor, idle, *_, waited, _, _, _, _, _, _, _ in table():
        start = f"β {beta}, floor {floor}, idle timeout {idle}"
        assert any(tip.startswith(start) and f" {waited} waited" in tip for tip in tips), (start, waited)


@pytest.mark.slow
def test_some_rows_of_the_table_are_simulated_again(capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(r"rtcbridge (simulate --waited-at-most .*)", PAGE)
    assert command is not None
    asked = simulate._scenario(cli._parser(["simulate"]).parse_args(shlex.split(command[1])))
    rows = table()
    chosen = [rows[0], next(row for row in rows if row[3] != "-" and float(row[0]) > 1), rows[-1]]
    study = Study(asked.world(), asked.cases())
    specs = []
    for beta, floor, idle, hold, window, *_ in chosen:
        values = [0.0 if text == "-" else float(text.removesuffix(" s")) for text in (beta, idle, hold, window)]
        only = Sweep(beta=(values[0],), min_ready=(int(floor),), idle_timeout=(values[1],), hold_beta=(values[2],),
                     demand_window=(values[3],))  # fmt: skip
        specs += msgspec.structs.replace(asked, sweep=only).policies()
    simulate._print(sweep(study, specs, 1), None, only_best=False, as_json=False)
    printed = [re.split(r"\s{2,}", line[1:].strip()) for line in capsys.readouterr().out.splitlines()[1:]]
    assert printed == chosen
