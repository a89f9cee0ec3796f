"""The machines that moto keeps for the tests of the ec2 provider, seen past the provider and the proxy."""

import base64
import os
import subprocess
from pathlib import Path

import pytest
from moto.ec2.models import ec2_backends

from drivers.fault_proxy import FaultProxy
from rtcbridge.config import Ec2Options
from rtcbridge.drivers.providers.ec2 import Ec2Provider
from rtcbridge.ports import Provider, ProviderError
from rtcbridge.testing.provider_contract import launch

REGION = "eu-central-1"
IMAGE = "ami-12c6146b"  # one that moto knows


class Cloud:
    """The machines of moto, seen past the provider and the proxy."""

    def __init__(self, folder: Path, proxy: FaultProxy, url: str) -> None:
        self.folder, self.proxy, self.url = folder, proxy, url
        self.made: list[Ec2Provider] = []

    def options(self, **options) -> Ec2Options:
        here = {
            "region": REGION,
            "endpoint": self.url,
            "image": IMAGE,
            "instance_types": ("g6.xlarge",),
            "env_file": str(self.folder / "agent.env"),
            "boot": f'env >"{self.folder}/$RTCBRIDGE_NODE.env"',
        }
        return Ec2Options(**(here | options))

    def make(self, **options) -> Provider:
        provider = Ec2Provider("pool", self.options(**options), poll=0.01)
        self.made.append(provider)
        return provider

    def instances(self, node="node-1"):
        """What there is of a node, dead or alive."""
        return [each for each in everything() if tags(each).get("rtcbridge:node") == node]

    def boots(self, node="node-1") -> int:
        return sum(self.proxy.boots[each.id] for each in self.instances(node))

    def running(self, node="node-1") -> int:
        """Count them, after letting those of them boot that have not yet."""
        up = [each for each in self.instances(node) if state(each) == "running"]
        for each in up:
            if not (self.folder / f"{node}.env").exists():
                script = base64.b64decode(str(each.user_data))
                subprocess.run(["sh"], input=script, env={"PATH": os.environ["PATH"]}, check=True)
        return len(up)

    @property
    def alive(self) -> int:
        """All that costs money, with tags or without."""
        return sum(state(each) != "terminated" for each in everything())

    def wanted(self, name: str) -> list[str]:
        """One parameter of each RunInstances, in order."""
        return [params.get(name, "") for action, params in self.proxy.calls if action == "RunInstances"]


def backend():
    return ec2_backends["123456789012"][REGION]


def everything():
    return [each for reservation in backend().reservations.values() for each in reservation.instances]


def tags(instance) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}


def state(instance) -> str:
    return instance._state.name


def state_of(id: str) -> str:
    return next((state(each) for each in everything() if each.id == id), "")


def run_by_hand(labels: dict[str, str]) -> None:
    backend().run_instances(IMAGE, 1, None, [], is_instance_type_default=True, tags={"instance": labels})


async def refusal(operation, node="node-1") -> str:
    """Why an operation is refused: one line, without secrets."""
    with pytest.raises(ProviderError) as caught:
        await operation(launch(node))
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    return text
