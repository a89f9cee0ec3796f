"""What concerns the tests of drivers: the contract, and what is skipped for want of a program."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.postgres_server import PostgresServer, postgres_server, programs

# A contract's failures show values, as those of a test module do.
pytest.register_assert_rewrite("drivers.contract")


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer]:
    if (bin := programs()) is None:
        pytest.skip("POSTGRESQL TESTS SKIPPED: not installed: apt-get install postgresql")
    with postgres_server(bin) as server:
        yield server


@pytest.fixture
def postgres(_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL server that runs, the same for all tests that ask for one."""
    if not _postgres.runs:
        _postgres.start()
    yield _postgres
    if _postgres.runs:
        _postgres.drop_databases()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store, one of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/x.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one loud line a program that tests are skipped for want of it."""
    skipped = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    for reason, count in Counter(reason for reason in skipped if "TESTS SKIPPED" in reason).items():
        terminalreporter.write_line(f"{reason.removeprefix('Skipped: ')}: {count} of them", red=True, bold=True)
