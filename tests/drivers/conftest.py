"""What concerns the tests of drivers: the contract, and what is skipped for want of a program."""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.postgres_server import PostgresServer, postgres_server, programs
from drivers.processes import MACHINE, running

# A contract's failures show values, as those of a test module do.
pytest.register_assert_rewrite("rtcbridge.testing.provider_contract")


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where machines that are processes note what they do; they end with the test."""
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    (tmp_path / "machine").write_text(MACHINE)
    yield tmp_path
    for file in tmp_path.glob("*.pids"):
        for pid in running(tmp_path, file.stem):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
async def ec2_machines(moto: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Moto without machines, behind a proxy, and an environment in which AWS's programs find nothing else."""
    from drivers.ec2_cloud import Cloud, backend, state_of
    from drivers.fault_proxy import FaultProxy

    # All that these tests make; a reset of moto reads its lists of images again.
    backend().reservations.clear()
    backend().volumes.clear()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0
    )  # seconds between attempts
    proxy = FaultProxy(moto, state_of)
    cloud = Cloud(tmp_path, proxy, await proxy.start())
    yield cloud
    for provider in cloud.made:
        await provider.close()
    await proxy.close()
