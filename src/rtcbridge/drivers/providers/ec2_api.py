"""The calls of the EC2 API that the provider needs, through aiobotocore, and their answers as structs."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from rtcbridge.config import Ec2Options
from rtcbridge.drivers.providers.ec2_request import CAPACITY, NODE_TAG

_ATTEMPTS = 4  # of one call, when it is throttled, fails on EC2's side, or its answer is lost
_NO_INSTANCE = frozenset({"InvalidInstanceID.NotFound"})
_WRONG_STATE = frozenset({"IncorrectInstanceState", "IncorrectState"})

Filters = Mapping[str, str | Sequence[str]]


class Instance(msgspec.Struct, frozen=True):
    """One instance; `spot` is the id of its spot request, if any."""

    id: str
    node: str
    state: str
    launched: float
    spot: str = ""


class SpotRequest(msgspec.Struct, frozen=True):
    """One spot request of this pool's that can still hold, or bring, a machine."""

    id: str
    node: str
    status: str
    instance: str


class Ec2Api:
    """A client of EC2 that connects when it is first used. Its methods raise ClientError and BotoCoreError."""

    def __init__(self, options: Ec2Options) -> None:
        """Read the description of the API (0.2 s of work), once; nothing is asked of EC2 yet."""
        self._options = options
        self._session = get_session()
        self._session.register_component("data_loader", _description())
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        async with self._lock:
            self._client = None
            await self._stack.aclose()

    async def run(self, request: Mapping[str, Any]) -> Instance:
        """Run one instance, or return the one that an earlier request with this token has run."""
        return _machine((await self._call("run_instances", **request))["Instances"][0])

    async def change(self, machine: str, *, up: bool) -> bool:
        """Start or stop; false if its state has changed since it was looked at, or is not what EC2 told."""
        try:
            await self._call("start_instances" if up else "stop_instances", InstanceIds=[machine])
        except ClientError as error:
            if error_code(error) in _WRONG_STATE:
                return False
            raise
        return True

    async def end(self, machines: set[str], spot: set[str]) -> None:
        """Cancel spot requests, then terminate: the other way round, a request would bring a new machine."""
        if spot:
            await self._call("cancel_spot_instance_requests", SpotInstanceRequestIds=sorted(spot))
        for machine in sorted(machines):
            try:
                await self._call("terminate_instances", InstanceIds=[machine])
            except ClientError as error:
                if error_code(error) not in _NO_INSTANCE:
                    raise

    async def machines(self, wanted: Filters) -> list[Instance]:
        """Return the instances that match all filters, those included that are gone since less than an hour."""
        pages = await self._pages("describe_instances", "Reservations", wanted)
        return [_machine(each) for reservation in pages for each in reservation["Instances"]]

    async def requests(self, wanted: Filters) -> list[SpotRequest]:
        """Return the spot requests that match all filters and are not closed or cancelled."""
        wanted = {**wanted, "state": ["open", "active", "disabled"]}
        found = await self._pages("describe_spot_instance_requests", "SpotInstanceRequests", wanted)
        return [
            SpotRequest(
                each["SpotInstanceRequestId"],
                _tags(each).get(NODE_TAG, ""),
                each.get("Status", {}).get("Code", ""),
                each.get("InstanceId", ""),
            )
            for each in found
        ]

    async def _pages(self, method: str, key: str, wanted: Filters) -> list[dict[str, Any]]:
        filters = [
            {"Name": name, "Values": [values] if isinstance(values, str) else values} for name, values in wanted.items()
        ]
        pages = (await self._ec2()).get_paginator(method).paginate(Filters=filters)
        return [item async for page in pages for item in page.get(key, ())]

    async def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await getattr(await self._ec2(), method)(**arguments)
        return answer

    async def _ec2(self) -> Any:
        async with self._lock:
            if self._client is None:
                config = AioConfig(
                    connect_timeout=self._options.timeout,
                    read_timeout=self._options.timeout,
                    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                )
                client = self._session.create_client(
                    "ec2",
                    region_name=self._options.region or None,
                    endpoint_url=self._options.endpoint or None,
                    config=config,
                )
                self._client = await self._stack.enter_async_context(client)
                self._client.meta.events.register_first("needs-retry.ec2", _go_elsewhere)
            return self._client


@cache
def _description() -> Any:
    """Return botocore's loader, which keeps the long description of EC2's API once it is read."""
    loader = get_session().get_component("data_loader")
    loader.load_service_model("ec2", "service-2")
    return loader


def error_code(error: ClientError) -> str:
    """Return EC2's own code, such as RequestLimitExceeded."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", ())}


def _machine(item: Mapping[str, Any]) -> Instance:
    return Instance(
        item["InstanceId"],
        _tags(item).get(NODE_TAG, ""),
        item["State"]["Name"],
        item["LaunchTime"].timestamp(),
        item.get("SpotInstanceRequestId", ""),
    )


def _go_elsewhere(response: tuple[Any, dict[str, Any]] | None, **_: object) -> None:
    """Let a lack of capacity, which EC2 answers with status 500, not pass for a failure that a retry mends."""
    if response is not None and response[1].get("Error", {}).get("Code") in CAPACITY:
        response[0].status_code = 400
