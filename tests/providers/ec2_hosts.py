"""What moto lacks: machines. For each instance a process of this machine stands in, booted as EC2 would boot it."""

import base64
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from drivers.ec2_cloud import everything, state, tags
from gateway.programs import PATIENCE, environment


class Ec2Hosts:
    """`Machines`; a thread of its own switches them on and off, as moto's states say.

    At the first boot an instance's user data is run, as cloud-init does; at each later one, the file `unit` of its
    folder, which stands for what the user data has enabled for good.

    Attributes:
        boots: how often each instance was switched on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boots: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hosts")
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(PATIENCE)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def there(self) -> list[str]:
        return [tags(each).get("rtcbridge:node", "?") for each in everything() if state(each) != "terminated"]

    def running(self) -> list[str]:
        """Those whose agent runs."""
        nodes = {each.id: tags(each).get("rtcbridge:node", "?") for each in everything()}
        return [nodes[id] for id, process in list(self._processes.items()) if process.poll() is None]

    def _run(self) -> None:
        while not self._ending.wait(0.02):
            for instance in everything():
                process = self._processes.get(instance.id)
                if state(instance) == "running" and process is None:
                    self._boot(instance.id, base64.b64decode(str(instance.user_data)).decode())
                elif state(instance) in ("stopped", "terminated") and process is not None:
                    self._halt(instance.id, process)

    def _boot(self, id: str, user_data: str) -> None:
        folder = self.folder / id
        folder.mkdir(exist_ok=True)
        first = not self.boots.get(id)
        self.boots[id] = self.boots.get(id, 0) + 1
        with (folder / "log").open("ab") as log:
            self._processes[id] = subprocess.Popen(
                ["sh", "-c", user_data if first else ". ./unit"],
                cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _halt(self, id: str, process: subprocess.Popen[bytes]) -> None:
        """Shut down as a machine does: ask, then switch off."""
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
        del self._processes[id]
