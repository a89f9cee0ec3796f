"""A real PostgreSQL server of the tests' own, in a temporary directory. It can be killed and started again."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

USER = "rtcbridge"
PASSWORD = "s/e@c:r?t #1"  # most of it must be escaped in a URL
PATIENCE = 30.0  # seconds
SETTINGS = {
    "fsync": "off",  # a killed process loses nothing by it, and no test cuts the power
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of initdb and postgres, where they are installed; Debian has them outside the PATH."""
    newest = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda folder: float(folder.split("/")[4]))
    for folder in [*reversed(newest), *os.environ["PATH"].split(os.pathsep)]:
        if all(shutil.which(name, path=folder) for name in ("initdb", "postgres")):
            return Path(folder)
    return None


class PostgresServer:
    """One cluster, run by a user other than root, who may not run it."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self._bin = bin
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, object] = {}
        self._databases: list[str] = []
        self._made = 0
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres" if "postgres" in {user.pw_name for user in pwd.getpwall()} else "nobody")
            self._as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        # C: what the machine's locale happens to be changes nothing, and no locale need be installed.
        command = [bin / "initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}"]
        command += ["--no-sync", "--locale=C", "--encoding=UTF8"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, **self._as_user)
        assert made.returncode == 0, made.stdout + made.stderr
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{name} = '{value}'\n" for name, value in {**SETTINGS, "port": self.port}.items())

    def url(self, database: str = "postgres", port: int = 0, host: str = "127.0.0.1") -> str:
        """The address of a database, by way of a proxy if there is one."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{host}:{port or self.port}/{database}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        with (self._data / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._data,
                **self._as_user,  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            assert self._process.poll() is None, (self._data / "log").read_text()
            assert time.monotonic() < deadline, (self._data / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End every process of it at once, as a power cut does."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while any(lives(process) for process in processes[1:]):  # they share memory with the next start
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it in good order, and roll back what its clients are in the midst of."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(PATIENCE)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let every process of it stand still: connections stay, and nobody answers."""
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # connections come and go
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def new_database(self) -> str:
        """Make an empty database; return its address."""
        self._made += 1
        name = f"test{self._made}"
        self._databases.append(name)
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_databases(self) -> None:
        """Remove the databases, whoever is still connected: each has megabytes, and hundreds of files."""
        while self._databases:
            self._execute(f"DROP DATABASE {self._databases.pop()} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def postgres_server(bin: Path) -> Iterator[PostgresServer]:
    """Run a server; nothing is left of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rtcbridge-postgres-"))  # where another user than this one may look
    server = None
    try:
        server = PostgresServer(bin, folder)
        server.start()
        yield server
    finally:
        if server is not None and server.runs:
            server.stop(signal.SIGQUIT)  # at once, but it removes its shared memory
        shutil.rmtree(folder)
