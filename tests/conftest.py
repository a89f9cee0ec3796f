"""What concerns all tests: those that need a browser are skipped where there is none, and nobody overlooks it."""

import shutil

import pytest

_MISSING = "BROWSER TESTS SKIPPED: chromium is not installed (apt-get install chromium)"
_skipped = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if shutil.which("chromium") is not None:
        return
    browser = [item for item in items if item.get_closest_marker("browser")]
    for item in browser:
        item.add_marker(pytest.mark.skip(reason="chromium is not installed"))
    config.stash[_skipped] = len(browser)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_skipped, 0):
        terminalreporter.write_line(f"{_MISSING}: {count} of them", red=True, bold=True)
