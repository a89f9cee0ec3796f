"""The units: what they start is a command, what they say is understood, and they wait long enough."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.files import DEPLOY, check_command, seconds, time_to_stop
from rtcbridge.config import Config

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/rtcbridge/bin/rtcbridge"


def value(unit: str, key: str) -> str:
    (found,) = re.findall(rf"^{key}=(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("unit", [unit.name for unit in UNITS])
def test_a_unit_starts_a_command(unit: str) -> None:
    program, *arguments = value(unit, "ExecStart").split()
    assert program == PROGRAM
    check_command(arguments)


@pytest.mark.parametrize("unit", UNITS, ids=[unit.name for unit in UNITS])
def test_systemd_understands_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))  # it looks for the program
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_waits_for_both() -> None:
    assert seconds(value("rtcbridge.service", "TimeoutStopSec")) >= time_to_stop(Config())
    name, _, drain = value("rtcbridge-node.service", "Environment").partition("=")
    assert name == "RTCBRIDGE_NODE_DRAIN"
    assert seconds(value("rtcbridge-node.service", "TimeoutStopSec")) > seconds(drain)
