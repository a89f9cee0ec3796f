#!/usr/bin/env python3
"""Nodes as pods of RunPod (REST API v1, https://rest.runpod.io/v1/docs), for `provider = "command"`.

Put it beside machines.py, which says how it is called. The bridge's environment has

    RUNPOD_API_KEY    with the right to read and write pods
    RUNPOD_IMAGE      whose command runs `rtcbridge node MODEL`: "registry.example/team/model:1"
    RUNPOD_GPUS       RunPod takes the first that it has: "NVIDIA L4,NVIDIA RTX A5000"
    RUNPOD_CLOUD      SECURE (default) or COMMUNITY
    RUNPOD_DISK       GB of the container's disk, which is emptied by a stop (default: 20)
    RUNPOD_VOLUME     GB that outlive a stop, in /workspace, and are paid while it is stopped (default: 0)
    RUNPOD_URL        another address of the API

A stopped pod keeps its host. When another tenant has taken the GPU meanwhile, RunPod refuses to start it; the bridge
then starts another stopped node, or makes a new one.
"""

import sys

from machines import Api, Machine, RefusedError, main, option, ours, several


class RunPod:
    """The pods of one account."""

    keeps_disks = True

    def __init__(self) -> None:
        url = option("RUNPOD_URL", "https://rest.runpod.io/v1")
        self.api = Api("RunPod", url, option("RUNPOD_API_KEY"))

    def machines(self) -> list[Machine]:
        """Return our pods. `desiredStatus` is RUNNING, EXITED or TERMINATED."""
        return [
            Machine(pod["id"], ours(pod["name"]), pod["desiredStatus"] == "RUNNING")
            for pod in self.api.get("/pods")
            if ours(pod.get("name")) and pod["desiredStatus"] != "TERMINATED"
        ]

    def create(self, node: str, name: str, env: dict[str, str]) -> None:
        """Make a pod."""
        pod = {
            "name": name,
            "imageName": option("RUNPOD_IMAGE"),
            "gpuTypeIds": several("RUNPOD_GPUS"),
            "gpuCount": 1,
            "cloudType": option("RUNPOD_CLOUD", "SECURE"),
            "containerDiskInGb": int(option("RUNPOD_DISK", "20")),
            "volumeInGb": int(option("RUNPOD_VOLUME", "0")),
            "env": env,
        }
        self.api.call("POST", "/pods", pod)

    def start(self, machine: Machine) -> None:
        """Start a stopped pod."""
        self.api.call("POST", f"/pods/{machine.id}/start")

    def stop(self, machine: Machine) -> None:
        """Stop a pod."""
        self.api.call("POST", f"/pods/{machine.id}/stop")

    def destroy(self, machine: Machine) -> None:
        """Delete a pod."""
        try:
            self.api.call("DELETE", f"/pods/{machine.id}", repeat=True)
        except RefusedError as error:
            if error.status != 404:
                raise


if __name__ == "__main__":
    sys.exit(main(RunPod))
