"""What EC2 is asked for a node: where it may run, its first boot, the request; and what a refusal means."""

import hashlib
import shlex
from typing import Any, NamedTuple

from rtcbridge.config import Ec2Options
from rtcbridge.ports import Launch

POOL_TAG, NODE_TAG = "rtcbridge:pool", "rtcbridge:node"
LIVES = 8  # machines one after another that a node may have had while EC2 remembers them

# Error codes, as in "Error codes for the Amazon EC2 API". Of these another zone or type may still be free …
CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "SpotMaxPriceTooLow",
        "Unsupported",  # this type is not to be had in this zone
    }
)
# … and of these another type or way of paying only, since the account's quota counts over all zones.
QUOTA = frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"})

_MARKETS = {"on-demand": (False,), "spot": (True,), "spot-then-on-demand": (True, False)}
_LONGEST_REASON = 300


class Place(NamedTuple):
    """One way to get a machine. What is empty is left to the launch template, or to EC2."""

    type: str
    subnet: str
    zone: str
    spot: bool

    def __str__(self) -> str:
        where = self.subnet or self.zone
        words = (self.type or "the template's type", where and f"in {where}", self.spot and "as spot")
        return " ".join(word for word in words if word)


def places(options: Ec2Options) -> tuple[Place, ...]:
    """Return what is to be tried, in order: each way of paying, of it each type, of it each subnet or zone."""
    where = [(subnet, "") for subnet in options.subnets] or [("", zone) for zone in options.zones] or [("", "")]
    return tuple(
        Place(type, subnet, zone, spot)
        for spot in _MARKETS[options.purchase]
        for type in options.instance_types or ("",)
        for subnet, zone in where
    )


def client_token(node: str, place: Place, life: int) -> str:
    """Return the token that makes a repeated request the same request: RunInstances is idempotent by it.

    EC2 answers a token whose machine was terminated with that dead machine, so that a node's next machine in
    the same place needs the next `life`.
    """
    text = "\0".join((node, *map(str, place[:3]), "spot" if place.spot else "", str(life)))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def user_data(options: Ec2Options, launch: Launch) -> str:
    """Return the script of the first boot: it writes `Launch.env()` to a file and into `boot`'s environment."""
    env = launch.env()
    lines = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
    file = shlex.quote(options.env_file)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    return f"#!/bin/sh\nset -eu\n(umask 077; printf '%s\\n' {lines} >{file})\n{exports}{options.boot}\n"


def run_request(options: Ec2Options, launch: Launch, place: Place, life: int) -> dict[str, Any]:
    """Return the arguments of RunInstances for one machine."""
    own = {"Name": launch.node, POOL_TAG: launch.pool, NODE_TAG: launch.node}
    tags = [{"Key": key, "Value": value} for key, value in (dict(pair(tag) for tag in options.tags) | own).items()]
    tagged = ("instance", "volume", "spot-instances-request") if place.spot else ("instance", "volume")
    wanted = {
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(launch.node, place, life),
        "UserData": user_data(options, launch),
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in tagged],
    }
    return wanted | {key: value for key, value in _optional(options, place).items() if value}


def pair(tag: str) -> tuple[str, str]:
    """Split `KEY=VALUE`."""
    key, _, value = tag.partition("=")
    return key, value


def short_reason(code: str, message: str, secrets: tuple[str, ...]) -> str:
    """Return EC2's refusal on one line, cut, and without any of `secrets`."""
    # What follows is base64 for the account's administrator, and may name what was asked for.
    text = f"{code}: {message}".partition("Encoded authorization failure message")[0]
    for secret in secrets:
        text = text.replace(secret, "…")
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def _optional(options: Ec2Options, place: Place) -> dict[str, Any]:
    template, profile = options.launch_template, options.instance_profile
    named = "LaunchTemplateId" if template.startswith("lt-") else "LaunchTemplateName"
    # Spot machines that can be stopped are those of a persistent request; an interruption stops them, too.
    spot = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"}
    return {
        "LaunchTemplate": template and {named: template, "Version": options.launch_template_version},
        "ImageId": options.image,
        "InstanceType": place.type,
        "SubnetId": place.subnet,
        "Placement": place.zone and {"AvailabilityZone": place.zone},
        "SecurityGroupIds": list(options.security_groups),
        "KeyName": options.key_name,
        "IamInstanceProfile": profile and {"Arn" if profile.startswith("arn:") else "Name": profile},
        "InstanceMarketOptions": place.spot and {"MarketType": "spot", "SpotOptions": spot},
        # Without a template of the operator's own: only programs on the machine can read its user data.
        "MetadataOptions": not template and {"HttpTokens": "required"},
    }
