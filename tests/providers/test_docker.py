"""A whole bridge whose nodes are real agents in real containers.

The image is busybox alone. What the agent needs of this machine (Python, its packages, this repository) is mounted
into the containers, and they have the host's network.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import ROOT
from drivers.podman import IMAGE, Podman, needs_podman
from gateway.programs import home
from providers.site import Life, Site, config

pytestmark = [pytest.mark.slow, needs_podman]

NEEDED = {"/usr", "/lib", "/lib64", "/etc", str(ROOT), sys.base_prefix, str(Path(sys.prefix).resolve())}


class Containers:
    """`Machines` as the containers of one daemon."""

    def __init__(self, podman: Podman) -> None:
        self.podman = podman

    def there(self) -> list[str]:
        return self._nodes("--all")

    def running(self) -> list[str]:
        return self._nodes("--filter", "status=running")

    def _nodes(self, *which: str) -> list[str]:
        listed = json.loads(self.podman.command("ps", "--format", "json", *which) or "[]")
        return [container["Labels"]["rtcbridge.node"] for container in listed]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    daemon = Podman(tmp_path_factory.mktemp("podman"))
    yield daemon
    daemon.close()


@pytest.fixture
def site(podman: Podman, tmp_path: Path) -> Iterator[Site]:
    volumes = [f"{Path(path).resolve()}:{path}:ro" for path in sorted(NEEDED) if Path(path).exists()]
    options = f"""
[pools.docker]
url = "{podman.url}"
image = "{IMAGE}"
pull = "never"
command = ["{sys.executable}", "-m", "rtcbridge", "node", "passthrough"]
env = ["PYTHONPATH={ROOT}/src", "PYTHONDONTWRITEBYTECODE=1"]
volumes = {json.dumps(volumes)}
network = "host"
list_interval = 0.5
"""
    try:
        with home(tmp_path, config('provider = "docker"', options)) as place:
            yield Site(place, Containers(podman))
    finally:
        podman.command("rm", "--all", "--force", "--time=0")


class TestDocker(Life):
    """Nothing of its own."""
