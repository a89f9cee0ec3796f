"""What concerns the tests of drivers: the contract, and what is skipped for want of a program."""

from collections import Counter

import pytest

# A contract's failures show values, as those of a test module do.
pytest.register_assert_rewrite("rtcbridge.testing.provider_contract")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one loud line a program that tests are skipped for want of it."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    for reason, count in Counter(reason for reason in skipped if "TESTS SKIPPED" in reason).items():
        terminalreporter.write_line(f"{reason.removeprefix('Skipped: ')}: {count} of them", red=True, bold=True)
