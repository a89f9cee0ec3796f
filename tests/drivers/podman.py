"""Podman's Docker API, in a store of its own, with runc. The image is busybox alone: no registry is asked."""

import io
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

IMAGE = "localhost/rtcbridge-test:1"
BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "env", "sleep", "mkfifo", "mv", "df", "test")
CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def podman_missing() -> str:
    """Why there can be no containers here, in words; empty if they can."""
    lacking = [name for name in ("podman", "runc") if shutil.which(name) is None]
    if not BUSYBOX.exists():
        lacking.append("busybox-static")
    if lacking:
        return f"not installed: apt-get install {' '.join(lacking)}"
    return "" if os.geteuid() == 0 else "this is not root"


MISSING = podman_missing()
needs_podman = pytest.mark.skipif(bool(MISSING), reason=f"DOCKER TESTS SKIPPED: {MISSING}")


class Podman:
    """A daemon with its own store below one folder."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/docker.sock"
        (folder / "containers.conf").write_text(CONTAINERS)
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        (folder / "storage.conf").write_text(storage)
        self.env = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }
        subprocess.run(["podman", "import", "-", IMAGE], env=self.env, input=image(), check=True, capture_output=True)
        self.log = (folder / "podman.log").open("wb")
        service = ["podman", "system", "service", "--time=0", self.url]
        self.process = subprocess.Popen(service, env=self.env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while not (folder / "docker.sock").exists():
            assert time.monotonic() < deadline, "podman does not serve"
            time.sleep(0.02)

    def command(self, *arguments: str) -> str:
        return subprocess.run(["podman", *arguments], env=self.env, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        self.command("rm", "--all", "--force", "--time=0")


def image() -> bytes:
    """A root file system with busybox alone, as a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX.resolve(), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()
