#!/usr/bin/env python3
"""Nodes as instances of Lambda (Cloud API v1, https://docs.lambda.ai/api/cloud), for `provider = "command"`.

Put it beside machines.py, which says how it is called. The bridge's environment has

    LAMBDA_API_KEY    of the Cloud API
    LAMBDA_IMAGE      a container image whose command runs `rtcbridge node MODEL`: "registry.example/team/model:1"
    LAMBDA_TYPES      tried in order: "gpu_1x_a10,gpu_1x_a100"
    LAMBDA_REGIONS    tried in order; every region that has the type, if it is not set: "us-west-1,us-east-1"
    LAMBDA_SSH_KEY    the name of a key of the account: Lambda makes no instance without one
    LAMBDA_BOOT       what starts the agent, in place of `docker run` with LAMBDA_IMAGE
    LAMBDA_ENV_FILE   where the machine keeps the node's variables (default: /etc/rtcbridge.env)
    LAMBDA_URL        another address of the API

Lambda cannot stop an instance, only end it. So `stop` ends it here, and `start` makes a new one; with `list`, the
bridge forgets the node as soon as its machine has gone, and creates another when it needs one.
"""

import shlex
import sys
from collections.abc import Iterator

from machines import Api, Machine, RefusedError, main, option, ours, several

CAPACITY = "instance-operations/launch/insufficient-capacity"
GOING = ("terminating", "terminated", "preempted")
LONGEST_NAME = 64


class Lambda:
    """The instances of one account."""

    keeps_disks = False

    def __init__(self) -> None:
        url = option("LAMBDA_URL", "https://cloud.lambda.ai/api/v1")
        self.api = Api("Lambda", url, option("LAMBDA_API_KEY"))

    def machines(self) -> list[Machine]:
        """Return our instances: all that are there run."""
        return [
            Machine(instance["id"], ours(instance["name"]), True)
            for instance in self.api.get("/instances")["data"]
            if ours(instance.get("name")) and instance["status"] not in GOING
        ]

    def create(self, node: str, name: str, env: dict[str, str]) -> None:
        """Launch an instance of the first type that a region has."""
        if len(name) > LONGEST_NAME:
            raise RefusedError(f"{name}: Lambda takes names of at most {LONGEST_NAME} characters: rename the pool")
        asked = {"ssh_key_names": [option("LAMBDA_SSH_KEY")], "name": name, "user_data": first_boot(env)}
        for type, region in self.places():
            try:
                where = {"instance_type_name": type, "region_name": region}
                self.api.call("POST", "/instance-operations/launch", asked | where)
            except RefusedError as error:
                if error.code != CAPACITY:
                    raise
            else:
                return
        raise RefusedError(
            f"Lambda has no capacity for {option('LAMBDA_TYPES')} in {option('LAMBDA_REGIONS', 'any region')}"
        )

    def places(self) -> Iterator[tuple[str, str]]:
        """Yield each type with each region that says that it has capacity."""
        known = self.api.get("/instance-types")["data"]
        for type in several("LAMBDA_TYPES"):
            if type not in known:
                raise RefusedError(f"LAMBDA_TYPES: Lambda has no {type}")
            free = [region["name"] for region in known[type]["regions_with_capacity_available"]]
            for region in several("LAMBDA_REGIONS", ",".join(free)):
                if region in free:
                    yield type, region

    def start(self, machine: Machine) -> None:
        """Nothing can be there that does not run."""

    def stop(self, machine: Machine) -> None:
        """End an instance."""
        self.destroy(machine)

    def destroy(self, machine: Machine) -> None:
        """End an instance; its disk goes with it."""
        try:
            self.api.call("POST", "/instance-operations/terminate", {"instance_ids": [machine.id]}, repeat=True)
        except RefusedError as error:
            if error.status != 404:
                raise


def first_boot(env: dict[str, str]) -> str:
    """Return the script that cloud-init runs as root. The token in it is this node's own and good for nothing else."""
    file = shlex.quote(option("LAMBDA_ENV_FILE", "/etc/rtcbridge.env"))
    lines = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
    run = f"docker run -d --restart=always --network=host --gpus=all --env-file={file}"
    boot = option("LAMBDA_BOOT", "") or f"{run} {shlex.quote(option('LAMBDA_IMAGE'))}"
    return f"#!/bin/sh\nset -eu\n(umask 077; printf '%s\\n' {lines} >{file})\n{boot}\n"


if __name__ == "__main__":
    sys.exit(main(Lambda))
