"""What is in deploy/, read as the programs that it is for would read it."""

import re
from pathlib import Path
from typing import Any

import yaml

from docs.pages import ROOT
from rtcbridge import cli, config
from rtcbridge.cli.node import _ENVIRONMENT as NODE_VARIABLES
from rtcbridge.config import Config
from rtcbridge.node.models import BUILT_IN

DEPLOY = ROOT / "deploy"
FILES = sorted(file for file in DEPLOY.rglob("*") if file.is_file())
STOPPING = 5.0  # seconds that a bridge may take beside its timeouts, to write down how sessions ended

__all__ = ["DEPLOY", "FILES", "ROOT", "bridge_config", "check_command", "check_node", "read_yaml", "time_to_stop"]


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def check_command(arguments: list[str]) -> None:
    """Make sure that the command line `rtcbridge …` is one."""
    args = cli._parser(arguments).parse_args(arguments)
    assert callable(args.run)


def check_node(environment: dict[str, str]) -> None:
    """Make sure that a node reads these variables, and knows its model."""
    assert {name for name in environment if name.startswith("RTCBRIDGE_")} <= set(NODE_VARIABLES.values())
    assert environment.get("RTCBRIDGE_MODEL", "cartoon") in BUILT_IN


def bridge_config(text: str, environment: dict[str, str], folder: Path) -> Config:
    """Load a bridge's configuration. Raises ConfigError."""
    file = folder / "bridge.toml"
    file.write_text(text)
    return config.load(file, environment)


def time_to_stop(found: Config) -> float:
    """How long a supervisor must wait for a bridge before it kills it, in seconds."""
    return found.server.drain_timeout + 2 * found.server.shutdown_timeout + STOPPING


def seconds(text: str) -> float:
    """Of a time such as 45s."""
    match = re.fullmatch(r"(\d+)s?", text)
    assert match
    return float(match[1])
