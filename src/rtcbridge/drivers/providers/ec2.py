"""Nodes as machines of Amazon EC2, through aiobotocore.

A node's machine is what bears its id in the tag `rtcbridge:node`; nothing else is remembered, so that a bridge
that was killed at any moment finds its machines again. A lost answer never makes a second machine: RunInstances
gets a token that is the same each time (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html).
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from rtcbridge.config import Ec2Options
from rtcbridge.drivers.providers.ec2_api import Ec2Api, Instance, SpotRequest, error_code
from rtcbridge.drivers.providers.ec2_request import (
    CAPACITY,
    LIVES,
    NODE_TAG,
    POOL_TAG,
    QUOTA,
    Place,
    places,
    run_request,
    short_reason,
)
from rtcbridge.ports import Launch, Machine, ProviderError

_RUNNING = frozenset({"pending", "running"})
_DOWN = frozenset({"stopping", "stopped"})
_LIVE = _RUNNING | _DOWN  # the rest is shutting-down and terminated: as good as gone
_PATIENCE = 900.0  # seconds that a machine may take from pending to running, or from stopping to stopped
_UNSEEN = 60.0  # seconds that EC2's own lists may lag behind what it has accepted
_MACHINES = {
    "pending": Machine.COMING,
    "running": Machine.RUNNING,
    "stopping": Machine.STOPPING,
    "stopped": Machine.STOPPED,
}
_UP = frozenset({Machine.COMING, Machine.RUNNING})
# Status codes of a spot request whose machine EC2 will take back within two minutes.
_MARKED = frozenset({"marked-for-stop", "marked-for-termination", "marked-for-hibernation"})


class Ec2Provider:
    """`Provider` of one pool's EC2 instances.

    Attributes:
        list_interval: seconds between two looks.
    """

    def __init__(self, pool: str, options: Ec2Options, *, poll: float = 3.0) -> None:
        """Nothing is asked of EC2 yet.

        Args:
            pool: its name, a tag of its machines.
            options: `[pools.ec2]`.
            poll: seconds between two looks at a machine whose state must change first.
        """
        self.list_interval = options.list_interval
        self._pool = pool
        self._options = options
        self._poll = poll
        self._places = places(options)
        self._spot = any(place.spot for place in self._places)
        self._recent: dict[str, tuple[str, float]] = {}  # node: its new machine, and when that was made
        self._changing: dict[str, tuple[bool, float]] = {}  # node: whether it was started or stopped, and when
        self._api = Ec2Api(options)

    async def create(self, launch: Launch) -> None:
        """Run a machine in the first place that has one; start the one that is there. Raises ProviderError."""
        with _errors("create", launch):
            if await self._of(launch.node):
                await self._bring("create", launch, up=True)
            else:
                await self._run(launch)

    async def start(self, launch: Launch) -> None:
        """Start the machine, as soon as it has stopped. Raises ProviderError."""
        with _errors("start", launch):
            await self._bring("start", launch, up=True)

    async def stop(self, launch: Launch) -> None:
        """Stop the machine, as soon as it runs; return when EC2 begins to. Raises ProviderError."""
        with _errors("stop", launch):
            await self._bring("stop", launch, up=False)

    async def destroy(self, launch: Launch) -> None:
        """Terminate all machines of the node, and cancel its spot request. Raises ProviderError."""
        with _errors("destroy", launch):
            requests = await self._api.requests({f"tag:{NODE_TAG}": launch.node}) if self._spot else []
            machines = await self._of(launch.node)
            ids = {each.id for each in machines} | {each.instance for each in requests if each.instance}
            if launch.node in self._recent:
                ids.add(self._recent[launch.node][0])
            await self._api.end(ids, {each.spot for each in machines if each.spot} | {each.id for each in requests})
            self._recent.pop(launch.node, None)
            self._changing.pop(launch.node, None)

    async def list(self) -> Mapping[str, Machine] | None:
        """Return how the machines with this pool's tag stand, by their nodes.

        Those that are being terminated are left out; LEAVING is what EC2 will interrupt within two minutes. Of
        several machines of one node, one is kept.

        Raises:
            ProviderError: EC2 did not answer.
        """
        with _errors("list"):
            wanted = {f"tag:{POOL_TAG}": self._pool}
            requests = await self._api.requests(wanted) if self._spot else []
            machines = await self._api.machines(wanted)
            seen = {machine.id for machine in machines}
            machines += await self._untagged([each for each in requests if each.instance not in seen])
            nodes: dict[str, list[Instance]] = defaultdict(list)
            for machine in machines:
                if machine.state in _LIVE and machine.node:
                    nodes[machine.node].append(machine)
            for same in nodes.values():
                await self._keep_one(same)
            # A request without a machine may still bring one, so its node is there until it is destroyed.
            found = {each.node: Machine.STOPPED for each in requests if each.node} | self._unseen(seen)
            found |= {node: self._told(node, _MACHINES[_best(same).state]) for node, same in nodes.items()}
            marked = {each.node for each in requests if each.status in _MARKED}
            return {node: Machine.LEAVING if node in marked and how in _UP else how for node, how in found.items()}

    async def close(self) -> None:
        """Close the connections to EC2; the machines go on."""
        await self._api.close()

    async def _of(self, node: str) -> Sequence[Instance]:
        """Return the live machines of a node."""
        found = await self._api.machines({f"tag:{NODE_TAG}": node})
        return [each for each in found if each.state in _LIVE and each.node == node]

    # --- running machines ---

    async def _run(self, launch: Launch) -> None:
        """Try each place. Raises ProviderError, ClientError."""
        refused: list[str] = []
        full: set[tuple[str, bool]] = set()
        for place in self._places:
            if (place.type, place.spot) in full:
                continue
            try:
                return await self._run_at(launch, place)
            except ClientError as error:
                code = error_code(error)
                if code not in CAPACITY | QUOTA:
                    raise
                if code in QUOTA:
                    full.add((place.type, place.spot))
                refused.append(f"{place}: {code}")
        raise ProviderError(f"create: no machine is to be had: {'; '.join(refused)}")

    async def _run_at(self, launch: Launch, place: Place) -> None:
        for life in range(LIVES):
            machine = await self._api.run(run_request(self._options, launch, place, life))
            if machine.state in _LIVE:
                self._recent[launch.node] = (machine.id, time.monotonic())
                return
        raise ProviderError(f"create: node {launch.node} has had {LIVES} machines within the hour")

    async def _bring(self, verb: str, launch: Launch, *, up: bool) -> None:
        """Start or stop the machine, once it is in a state that allows it. Raises ProviderError."""
        there, before = (_RUNNING, "stopped") if up else (_DOWN, "running")
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            machines = await self._of(launch.node)
            if machines:
                machine = _best(machines)
                if machine.state in there or (machine.state == before and await self._api.change(machine.id, up=up)):
                    self._changing[launch.node] = up, time.monotonic()
                    return
            elif launch.node not in self._unseen(set()):
                raise ProviderError(f"{verb}: there is no machine with the tag {NODE_TAG}={launch.node}")
            await asyncio.sleep(self._poll)
        raise ProviderError(f"{verb}: the machine has not changed its state within {_PATIENCE:g} s")

    # --- machines that need care ---

    async def _keep_one(self, machines: Sequence[Instance]) -> None:
        """Terminate the second machine of a node: an answer was lost, and EC2's own lists were behind."""
        kept = _best(machines)
        extra = [each for each in machines if each is not kept]
        if extra:
            spot = {each.spot for each in extra} - {kept.spot, ""}
            await self._api.end({each.id for each in extra}, spot)

    async def _untagged(self, requests: Sequence[SpotRequest]) -> Sequence[Instance]:
        """Return the machines that spot requests have brought by themselves: these bear no tags."""
        nodes = {each.instance: each.node for each in requests if each.instance}
        if not nodes:
            return []
        found = await self._api.machines({"instance-id": sorted(nodes)})
        return [msgspec.structs.replace(each, node=nodes[each.id]) for each in found]

    def _told(self, node: str, machine: Machine) -> Machine:
        """Return how a machine stands, given that EC2's list may be from before it was started or stopped."""
        up, when = self._changing.get(node, (machine in _UP, 0.0))
        if up is (machine in _UP) or time.monotonic() - when >= _UNSEEN:
            self._changing.pop(node, None)
            return machine
        return Machine.COMING if up else Machine.STOPPING

    def _unseen(self, seen: set[str]) -> dict[str, Machine]:
        """Return the nodes whose machines are so new that EC2's lists may not have them yet."""
        now = time.monotonic()
        self._recent = {
            node: (machine, made)
            for node, (machine, made) in self._recent.items()
            if machine not in seen and now - made < _UNSEEN
        }
        return dict.fromkeys(self._recent, Machine.COMING)


@contextmanager
def _errors(verb: str, launch: Launch | None = None) -> Iterator[None]:
    """Turn what EC2 or the way to it refuses into a ProviderError of one line."""
    secrets = (launch.token,) if launch and launch.token else ()
    try:
        yield
    except ClientError as error:
        message = error.response.get("Error", {}).get("Message", "")
        raise ProviderError(f"{verb}: {short_reason(error_code(error), message, secrets)}") from None
    except BotoCoreError as error:
        raise ProviderError(f"{verb}: {short_reason(type(error).__name__, str(error), secrets)}") from None


def _best(machines: Iterable[Instance]) -> Instance:
    """Return the machine that stands for the node: one that runs, else the oldest, else by its id."""
    return min(machines, key=lambda each: (each.state not in _RUNNING, each.launched, each.id))
