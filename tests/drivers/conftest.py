"""What concerns the tests of drivers: the contract, and what is skipped for want of a program."""

import os
import signal
from collections import Counter

import pytest

from drivers.processes import MACHINE, running

# A contract's failures show values, as those of a test module do.
pytest.register_assert_rewrite("drivers.contract")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one loud line a program that tests are skipped for want of it."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    for reason, count in Counter(reason for reason in skipped if "TESTS SKIPPED" in reason).items():
        terminalreporter.write_line(f"{reason.removeprefix('Skipped: ')}: {count} of them", red=True, bold=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where machines that are processes note what they do; they end with the test."""
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    (tmp_path / "machine").write_text(MACHINE)
    yield tmp_path
    for file in tmp_path.glob("*.pids"):
        for pid in running(tmp_path, file.stem):
            os.kill(pid, signal.SIGKILL)
