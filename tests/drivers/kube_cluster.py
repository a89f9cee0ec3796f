"""What makes the fake Kubernetes API a cluster: Pods run as processes, claims are folders. A fake, too.

Scheduling, binding and starting happen at once. A container that fails is started again once, and then waits in
CrashLoopBackOff for ever. Requests, limits, selectors, taints and images change nothing, unless a test says so.
"""

import asyncio
import base64
import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from drivers.kube_api import NAMESPACE, TOKEN, KubeApi, Object, now
from rtcbridge.config import KubernetesOptions
from rtcbridge.drivers.providers.kubernetes import KubernetesProvider
from rtcbridge.ports import ProviderError
from rtcbridge.testing.provider_contract import launch

NAME = "rtcbridge-node-1"  # of the Pod, claim and secret of node-1
MACHINE = """
env > "$TEST_FOLDER/$RTCBRIDGE_NODE.env.new" && mv "$TEST_FOLDER/$RTCBRIDGE_NODE.env.new" \
    "$TEST_FOLDER/$RTCBRIDGE_NODE.env"
echo $$ >> "$TEST_FOLDER/$RTCBRIDGE_NODE.pids"
exec sleep 600
"""


class Kubelet:
    """Runs the Pods of the API as processes; a claim is a folder, and the working directory of its Pod.

    Attributes:
        unschedulable: why no machine is to be had for new Pods; empty if there is one.
        starts: how often a container of each Pod name was started.
    """

    def __init__(self, api: KubeApi, folder: Path, program: Sequence[str] = ()) -> None:
        self.api, self.folder, self.program = api, folder, program
        self.unschedulable = ""
        self.starts: Counter[str] = Counter()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        api.hooks.append(self._changed)

    async def close(self) -> None:
        for life in list(self._lives.values()):
            life.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)

    def volume(self, claim: str) -> Path:
        return self.folder / "volumes" / claim

    def evict(self, name: str, reason: str = "Evicted", message: str = "The node was low on resource: memory.") -> None:
        """End a Pod as a machine under pressure does: it stays, with the phase Failed."""
        pod = self.api.all("pods")[name]
        pod["status"] |= {"phase": "Failed", "reason": reason, "message": message}
        self.api.put("pods", pod)
        self._lives[pod["metadata"]["uid"]].cancel()

    def crash(self, name: str) -> None:
        self._processes[self.api.all("pods")[name]["metadata"]["uid"]].kill()

    def _changed(self, change: str, plural: str, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if plural == "persistentvolumeclaims" and change == "DELETED":
            shutil.rmtree(self.volume(item["metadata"]["name"]), ignore_errors=True)
        if plural != "pods":
            return
        if change == "ADDED":
            self._lives[uid] = asyncio.create_task(self._live(item), name=f"pod {item['metadata']['name']}")
            self._lives[uid].add_done_callback(lambda _: self._lives.pop(uid, None))
        elif change == "MODIFIED" and "deletionTimestamp" in item["metadata"]:
            if uid not in self._lives:
                self.api.remove("pods", item)
            elif uid in self._processes:
                self._processes[uid].send_signal(signal.SIGTERM)

    async def _live(self, pod: Object) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if self.unschedulable:
            pod["status"]["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": self.unschedulable}
            ]
            self.api.put("pods", pod)
            return
        claim = pod["spec"]["volumes"][-1]["persistentVolumeClaim"]["claimName"]
        bound = self.api.objects["persistentvolumeclaims", claim]
        if bound["status"]["phase"] == "Pending":
            bound["status"] = {"phase": "Bound"}
            self.api.put("persistentvolumeclaims", bound)
        self.volume(claim).mkdir(parents=True, exist_ok=True)
        pod["spec"]["nodeName"] = "machine-1"
        self.api.put("pods", pod)
        for _ in range(2):
            process = await self._start(pod, self.volume(claim))
            self._processes[uid] = process
            self.starts[name] += 1
            pod["status"] |= {"phase": "Running", "startTime": now()}
            self._say(pod, {"running": {"startedAt": now()}})
            if "deletionTimestamp" in pod["metadata"]:  # it came while the process was being started
                process.terminate()
            code = await self._end(pod, process)
            if "deletionTimestamp" in pod["metadata"]:
                self.api.remove("pods", pod)
                return
            if code == 0:
                pod["status"]["phase"] = "Succeeded"
                self._say(pod, {"terminated": {"exitCode": 0, "reason": "Completed"}})
                return
        del self._processes[uid]
        self._say(
            pod, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
        )

    async def _start(self, pod: Object, folder: Path) -> asyncio.subprocess.Process:
        container = pod["spec"]["containers"][0]
        env = {"PATH": os.environ["PATH"], "TEST_FOLDER": str(self.folder)}
        if "PYTHONPATH" in os.environ:
            env["PYTHONPATH"] = os.environ["PYTHONPATH"]
        for source in container.get("envFrom", ()):
            data = self.api.objects["secrets", source["secretRef"]["name"]]["data"]
            env |= {key: base64.b64decode(value).decode() for key, value in data.items()}
        command = [*self.program, *container.get("args", ())]
        with (self.folder / "pods.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, env=env, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _end(self, pod: Object, process: asyncio.subprocess.Process) -> int:
        """Wait for the end of a process, and kill it when its grace period is over, or this kubelet ends."""
        waiting = asyncio.ensure_future(process.wait())
        try:
            while True:
                ending = "deletionTimestamp" in pod["metadata"]
                grace = pod["metadata"]["deletionGracePeriodSeconds"] if ending else None
                done, _ = await asyncio.wait([waiting], timeout=grace if ending else 0.05)
                if done:
                    return process.returncode or 0
                if ending:
                    process.kill()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await waiting

    def _say(self, pod: Object, state: Object) -> None:
        restarts = self.starts[pod["metadata"]["name"]] - 1
        said = {"name": "node", "state": state, "image": "", "imageID": "", "ready": True, "restartCount": restarts}
        pod["status"]["containerStatuses"] = [said]
        self.api.put("pods", pod)


class Pods:
    """`Machines` as Pods of the fake cluster, each a process."""

    def __init__(self, folder: Path, api: KubeApi, url: str) -> None:
        self.folder, self.api, self.url = folder, api, url
        self.kubelet = Kubelet(api, folder, ("sh",))
        self.kubeconfig = kubeconfig(folder / "kubeconfig", url)
        (folder / "machine").write_text(MACHINE)
        self.made: list[KubernetesProvider] = []

    def options(self, **options) -> KubernetesOptions:
        here = {
            "kubeconfig": str(self.kubeconfig),
            "image": "registry.example/model:1",
            "command": (str(self.folder / "machine"),),
            "stop_grace": 5,
        }
        return KubernetesOptions(**here | options)

    def make(self, pool: str = "pool", **options) -> KubernetesProvider:
        self.made.append(KubernetesProvider(pool, self.options(**options), poll=0.01))
        return self.made[-1]

    def boots(self, node: str = "node-1") -> int:
        file = self.folder / f"{node}.pids"
        return file.read_text().count("\n") if file.exists() else 0

    def running(self, node: str = "node-1") -> int:
        file = self.folder / f"{node}.pids"
        pids = [int(pid) for pid in file.read_text().split()] if file.exists() else []
        return sum(runs(pid) for pid in pids)

    async def close(self) -> None:
        for provider in self.made:
            await provider.close()
        await self.kubelet.close()
        await self.api.close()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kubeconfig(file: Path, url: str, token: str = TOKEN) -> Path:
    """Write a kubeconfig file with one context, `test`."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "bridge", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "fake", "user": "bridge", "namespace": NAMESPACE}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@asynccontextmanager
async def pods_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pods]:
    """A fake cluster with its machines; calls that fail are repeated without a pause."""
    monkeypatch.setattr("rtcbridge.drivers.providers.kubernetes_api._BACKOFF", 0.01)
    api = KubeApi()
    pods = Pods(folder, api, await api.start())
    try:
        yield pods
    finally:
        await pods.close()


async def refusal(operation, *, node="node-1") -> str:
    with pytest.raises(ProviderError) as caught:
        await (operation() if operation.__name__ == "list" else operation(launch(node)))
    text = str(caught.value)
    assert "\n" not in text
    assert "nk_secret" not in text
    assert len(text) < 500
    return text
