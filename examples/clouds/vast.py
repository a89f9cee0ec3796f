#!/usr/bin/env python3
"""Nodes as instances of Vast.ai (API v0, https://docs.vast.ai/api-reference), for `provider = "command"`.

Put it beside machines.py, which says how it is called. The bridge's environment has

    VAST_API_KEY      with the rights to search offers and to read and write instances
    VAST_IMAGE        whose command runs `rtcbridge node MODEL`: "registry.example/team/model:1"
    VAST_GPUS         "RTX 4090,RTX 3090"; of all offers the cheapest is taken
    VAST_MAX_PRICE    the most that an offer may cost, in $ an hour
    VAST_DISK         GB of its disk, which outlives a stop and is paid while it is stopped (default: 20)
    VAST_RELIABILITY  the least reliability of a host, from 0 to 1 (default: 0.98)
    VAST_URL          another address of the API

A stopped instance keeps its host. When another tenant has rented the GPU meanwhile, it cannot be started; the bridge
then starts another stopped node, or makes a new one.
"""

import sys
from typing import Any

from machines import Api, Machine, RefusedError, main, option, ours, several

OFFERS = 5  # that are tried: the cheapest may be rented by somebody else in the meantime
TAKEN = ("no_such_ask", "ask_unavailable", "not_rentable")


class Vast:
    """The instances of one account."""

    keeps_disks = True

    def __init__(self) -> None:
        url = option("VAST_URL", "https://console.vast.ai/api/v0")
        self.api = Api("Vast.ai", url, option("VAST_API_KEY"))

    def machines(self) -> list[Machine]:
        """Return our instances. `actual_status` lags behind what was asked for, so `intended_status` counts."""
        return [
            Machine(str(instance["id"]), ours(instance["label"]), instance["intended_status"] == "running")
            for instance in self.api.get("/instances/")["instances"]
            if ours(instance.get("label"))
        ]

    def create(self, node: str, name: str, env: dict[str, str]) -> None:
        """Rent the cheapest offer that is still free."""
        instance = {
            "image": option("VAST_IMAGE"),
            "label": name,
            "disk": float(option("VAST_DISK", "20")),
            "runtype": "args",  # the image's own command, and no ssh server in its place
            "env": env,
            "cancel_unavail": True,  # refuse, instead of making an instance that waits for its GPU
        }
        for offer in self.offers():
            try:
                return self.change("PUT", f"/asks/{offer}/", instance)
            except RefusedError as error:
                if error.code not in TAKEN:
                    raise
        raise RefusedError(
            f"Vast.ai has no free offer of {option('VAST_GPUS')} for {option('VAST_MAX_PRICE')} $/h or less"
        )

    def offers(self) -> list[int]:
        """Return the ids of the cheapest offers."""
        wanted = {
            "gpu_name": {"in": several("VAST_GPUS")},
            "num_gpus": {"eq": 1},
            "dph_total": {"lte": float(option("VAST_MAX_PRICE"))},
            "disk_space": {"gte": float(option("VAST_DISK", "20"))},
            "reliability": {"gte": float(option("VAST_RELIABILITY", "0.98"))},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "type": "on-demand",
            "order": [["dph_total", "asc"]],
            "limit": OFFERS,
        }
        return [offer["id"] for offer in self.api.call("POST", "/bundles/", wanted, repeat=True)["offers"]]

    def start(self, machine: Machine) -> None:
        """Start a stopped instance, now or not at all."""
        try:
            self.change("PUT", f"/instances/{machine.id}/", {"state": "running"})
        except RefusedError as error:
            # Vast.ai goes on to wait for the GPU, and would start it, and bill it, when nobody needs it any more.
            if error.code == "resources_unavailable":
                self.stop(machine)
            raise

    def stop(self, machine: Machine) -> None:
        """Stop an instance."""
        self.change("PUT", f"/instances/{machine.id}/", {"state": "stopped"})

    def destroy(self, machine: Machine) -> None:
        """Delete an instance."""
        try:
            self.api.call("DELETE", f"/instances/{machine.id}/", repeat=True)
        except RefusedError as error:
            if error.status != 404:
                raise

    def change(self, method: str, path: str, body: Any) -> None:
        """Do a call whose refusal may come with status 200."""
        answer = self.api.call(method, path, body)
        if answer.get("success") is False:
            code, text = str(answer.get("error", "")), str(answer.get("msg", ""))
            raise RefusedError(f"Vast.ai refuses {method} {path}: {code}: {text}", 200, code)


if __name__ == "__main__":
    sys.exit(main(Vast))
