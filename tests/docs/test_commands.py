"""Commands that the documents show: each is understood by the real parser, and each target is in the Makefile."""

import argparse
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, blocks, inline, prose
from rtcbridge import cli, config
from rtcbridge.cli.api import ENVIRONMENT as ADMIN_ENVIRONMENT
from rtcbridge.cli.conformance import ENVIRONMENT as CONFORMANCE_ENVIRONMENT
from rtcbridge.cli.node import _ENVIRONMENT
from rtcbridge.cli.send import ENVIRONMENT as SEND_ENVIRONMENT
from rtcbridge.ports import Launch

EXAMPLES = sorted(file for file in (ROOT / "examples").rglob("*") if "__pycache__" not in file.parts)
MAKE_VARIABLES = {"PORT", "HOST", "TLS"}


def shown() -> list[tuple[str, str]]:
    """Every command line in a block of shell or a unit of systemd, or in `code`, with the page that has it."""
    found = [
        (block.page.name, line.strip())
        for block in blocks("sh", "ini")
        for line in re.sub(r"\\\n", "", block.text).splitlines()
    ]
    found += [(page.name, text) for page in PAGES for text in inline(page)]
    found += [(file.name, text) for file in EXAMPLES if file.is_file() for text in file.read_text().splitlines()]
    return found


def commands(program: str) -> list[tuple[str, list[str]]]:
    """The arguments of each use of a program."""
    found = []
    for page, line in shown():
        match = re.search(rf"(?:^|[\s=:/]){program} (?=[a-zA-Z-])(.*)", line)
        if match and not re.match(r"\s*(#|//|\*)", line):
            try:
                found.append((page, shlex.split(re.sub(r" > \S+$", "", match[1]), comments=True)))
            except ValueError:
                continue  # prose with an apostrophe
    return found


RTCBRIDGE = [
    (page, arguments)
    for page, arguments in commands("rtcbridge")
    if arguments and (arguments[0] in cli.COMMANDS or arguments[0].startswith("-"))
]


def test_there_are_commands_to_check() -> None:
    assert {arguments[0] for _, arguments in RTCBRIDGE} == set(cli.COMMANDS)
    assert {"demo", "test", "help", "check"} <= {arguments[0] for _, arguments in commands("make")}


@pytest.mark.parametrize(("page", "arguments"), RTCBRIDGE, ids=[f"{page}: {' '.join(a)}" for page, a in RTCBRIDGE])
def test_the_parser_understands_it(page: str, arguments: list[str]) -> None:
    parser = cli._parser(arguments)
    if arguments == ["keys"]:
        return
    args = parser.parse_args(arguments)  # exits, and says why, if it does not
    assert callable(args.run)


def test_every_command_in_a_shell_block_is_one() -> None:
    """A misspelt sub-command must not pass as prose."""
    for block in blocks("sh"):
        for command in re.findall(r"^(?:\S+=\S+ )*rtcbridge (\S+)", block.text, re.MULTILINE):
            assert command in cli.COMMANDS, block.where


@cache
def options() -> frozenset[str]:
    """Every option of every command."""
    found: set[str] = set()
    waiting: list[argparse.ArgumentParser] = [cli._parser([])]
    while waiting:
        for action in waiting.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_options_named_in_the_text_exist(page: Path) -> None:
    named = {option for text in inline(page) for option in re.findall(r"^(--[a-z-]+)", text)}
    assert named <= options()


def test_every_make_target_exists() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make (\S+)", text, re.MULTILINE))
    for page, arguments in commands("make"):
        target, *variables = arguments
        if page in {file.name for file in EXAMPLES}:
            continue
        assert target in targets, (page, target)
        assert {variable.partition("=")[0] for variable in variables if "=" in variable} <= MAKE_VARIABLES
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{name} \?=", makefile, re.MULTILINE) for name in MAKE_VARIABLES)


def test_every_variable_of_the_environment_is_read() -> None:
    launch = Launch("", "", "", "").env()
    known = {
        *config.variables(),
        *_ENVIRONMENT.values(),
        *ADMIN_ENVIRONMENT.values(),
        *SEND_ENVIRONMENT.values(),
        *CONFORMANCE_ENVIRONMENT.values(),
        *launch,
    }
    for page in [*PAGES, *(file for file in EXAMPLES if file.is_file())]:
        named = set(re.findall(r"\bRTCBRIDGE_\w*[A-Z]\b(?!_)", page.read_text())) - {"RTCBRIDGE_SECTION__KEY"}
        assert named <= known, page.name


def test_every_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        for extras in re.findall(r"rtcbridge\[([\w,]+)\]", page.read_text()):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), page.name


def test_keys_of_the_configuration_named_in_the_text_exist() -> None:
    page = ROOT / "docs" / "how-to" / "run-the-service.md"
    keys = {key for table in ("Server", "Store", "Pool") for key in getattr(config, table).__struct_fields__}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", prose(page)))
    assert len(named) >= 5
    assert named <= keys
