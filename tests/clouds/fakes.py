"""What each of the three clouds answers, as far as the scripts ask. Fakes: see `fake_cloud.py`."""

import json
import re
import sys
from typing import Any

from clouds.fake_cloud import KEY, NODE, FakeCloud, FakeMachine, Reply
from gateway.programs import environment

NO_POD = "There are no longer any instances available with the requested specifications. Please refresh and try again."
NO_GPU = "There are not enough free GPUs on the host machine to start this pod."


class FakeRunPod(FakeCloud):
    """RunPod's REST API, v1."""

    script, toml = "runpod.py", "runpod.toml"
    running, going = "RUNNING", ("TERMINATED",)
    make, begin, halt, end = "POST /pods", r"POST /pods/\w+/start", r"POST /pods/\w+/stop", r"DELETE /pods/\w+"
    look = "GET /pods"
    no_capacity: Reply = (500, {"error": f"create pod: {NO_POD}", "status": 500})
    no_start: Reply = (500, {"error": f"start pod: {NO_GPU}", "status": 500})

    def options(self) -> dict[str, str]:
        return {"RUNPOD_URL": self.url, "RUNPOD_API_KEY": KEY, "RUNPOD_IMAGE": "team/model:1", "RUNPOD_GPUS": "L4, A10"}

    def unauthorized(self) -> Reply:
        return 401, {"error": "unauthorized", "status": 401}

    def answer(self, method: str, path: str, body: Any) -> Reply:
        if (method, path) == ("GET", "/pods"):
            pods = [{"id": pod.id, "name": pod.name, "desiredStatus": pod.state} for pod in self.machines.values()]
            return 200, [*pods, {"id": "ffff", "name": "somebody's own", "desiredStatus": "RUNNING"}]
        if (method, path) == ("POST", "/pods"):
            assert (body["imageName"], body["gpuTypeIds"]) == ("team/model:1", ["L4", "A10"])
            return 201, {"id": self._make(body["name"], body).id}
        _, _, id, *verb = path.split("/")
        pod = self.machines.get(id)
        if pod is None or pod.state == "TERMINATED":
            return 404, {"error": "pod not found", "status": 404}
        return self._change(pod, method, verb)

    def _change(self, pod: FakeMachine, method: str, verb: list[str]) -> Reply:
        match method, verb:
            case "POST", ["start"] if pod.state == "EXITED":
                pod.state = "RUNNING"
                self._boot(pod)
                return 200, {"id": pod.id}
            case "POST", ["stop"] if pod.state == "RUNNING":
                self._halt(pod)
                pod.state = "EXITED"
                return 200, {"id": pod.id}
            case "DELETE", []:
                self._halt(pod)
                pod.state = "TERMINATED"
                return 204, ""
        return 400, {"error": f"pod is {pod.state}", "status": 400}


class FakeVast(FakeCloud):
    """Vast.ai's API, v0: offers, and instances that come of them."""

    script, toml = "vast.py", "vast.toml"
    running, going = "running", ("gone",)
    make, begin, halt, end = (
        r"PUT /asks/\d+/",
        r"PUT /instances/\w+/",
        r"PUT /instances/\w+/",
        r"DELETE /instances/\w+/",
    )
    look = "GET /instances/"
    no_capacity: Reply = (400, {"success": False, "error": "no_such_ask", "msg": "error 404/3603: no_such_ask"})
    no_start: Reply = (200, {"success": False, "error": "resources_unavailable", "msg": "state change queued."})

    def options(self) -> dict[str, str]:
        asked = {"VAST_IMAGE": "team/model:1", "VAST_GPUS": "RTX 4090", "VAST_MAX_PRICE": "0.6"}
        return {"VAST_URL": self.url, "VAST_API_KEY": KEY} | asked

    def unauthorized(self) -> Reply:
        return 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}

    def answer(self, method: str, path: str, body: Any) -> Reply:
        if (method, path) == ("GET", "/instances/"):
            known = [(each.id, each.name, each.state) for each in self.there()]
            rows = [{"id": int(id, 16), "label": name, "intended_status": state} for id, name, state in known]
            return 200, {"instances": [*rows, {"id": 65535, "label": None, "intended_status": "running"}]}
        if (method, path) == ("POST", "/bundles/"):
            assert body["gpu_name"] == {"in": ["RTX 4090"]}
            return 200, {"offers": [{"id": 1001}, {"id": 1002}]}
        if method == "PUT" and path.startswith("/asks/"):
            assert (body["image"], body["runtype"], body["cancel_unavail"]) == ("team/model:1", "args", True)
            return 200, {"success": True, "new_contract": int(self._make(body["label"], body).id, 16)}
        found = self.machines.get(f"{int(path.split('/')[2]):04x}")
        if found is None or found.state == "gone":
            return 404, {"success": False, "error": "no_such_instance", "msg": f"{path} not found"}
        self._change(found, "gone" if method == "DELETE" else body["state"])
        return 200, {"success": True}

    def _change(self, machine: FakeMachine, state: str) -> None:
        if state == "running" != machine.state:
            self._boot(machine)
        elif state != "running":
            self._halt(machine)
        machine.state = state


class FakeLambda(FakeCloud):
    """Lambda's Cloud API, v1: machines are launched and terminated, and never stopped."""

    script, toml = "lambda_cloud.py", "lambda_cloud.toml"
    running, going = "active", ("terminating", "terminated")
    keeps_disks = False
    make, end = "POST /instance-operations/launch", "POST /instance-operations/terminate"
    begin, halt = make, end
    look = "GET /instances"
    no_capacity: Reply = (
        400,
        {
            "error": {
                "code": "instance-operations/launch/insufficient-capacity",
                "message": "Not enough capacity to fulfill launch request.",
                "suggestion": "Choose an instance type with more availability, or try again later.",
            }
        },
    )
    no_start = no_capacity

    def options(self) -> dict[str, str]:
        boot = f"set -a; . ./agent.env; exec {sys.executable} {NODE}"
        asked = {"LAMBDA_TYPES": "gpu_1x_a10", "LAMBDA_SSH_KEY": "mine", "LAMBDA_BOOT": boot}
        return {"LAMBDA_URL": self.url, "LAMBDA_API_KEY": KEY, "LAMBDA_ENV_FILE": "./agent.env"} | asked

    def unauthorized(self) -> Reply:
        return 401, {
            "error": {"code": "global/invalid-api-key", "message": "API key was invalid, expired, or deleted."}
        }

    def answer(self, method: str, path: str, body: Any) -> Reply:
        match method, path:
            case "GET", "/instances":
                rows = [{"id": each.id, "name": each.name, "status": each.state} for each in self.machines.values()]
                return 200, {"data": [*rows, {"id": "ffff", "name": "somebody-s-own", "status": "active"}]}
            case "GET", "/instance-types":
                regions = [{"name": "us-west-1"}, {"name": "us-east-1"}]
                return 200, {"data": {"gpu_1x_a10": {"regions_with_capacity_available": regions}}}
            case "POST", "/instance-operations/launch":
                assert (body["ssh_key_names"], body["region_name"]) == (["mine"], "us-west-1")
                assert len(body["name"]) <= 64
                return 200, {"data": {"instance_ids": [self._make(body["name"], body).id]}}
            case "POST", "/instance-operations/terminate":
                return self._terminate(body["instance_ids"])
        return 404, {"error": {"code": "global/object-does-not-exist", "message": path}}

    def _terminate(self, ids: list[str]) -> Reply:
        if any(id not in self.machines or self.machines[id].state in self.going for id in ids):
            return 404, {
                "error": {"code": "global/object-does-not-exist", "message": "Specified instance does not exist."}
            }
        for id in ids:
            self._halt(self.machines[id])
            self.machines[id].state = "terminating"
        return 200, {"data": {"terminated_instances": [{"id": id} for id in ids]}}

    def image(self, machine: FakeMachine) -> tuple[list[str], dict[str, str]]:
        """What cloud-init does at the first boot: it runs the script."""
        script = machine.asked["user_data"]
        assert re.match(r"#!/bin/sh\n", script)
        return ["sh", "-c", script], environment()


CLOUDS = (FakeRunPod, FakeVast, FakeLambda)
BROKEN: Reply = (500, json.dumps({"error": "internal server error"}))
BUSY: Reply = (429, "API requests too frequent")
