"""An HTTP proxy before a stand-in for EC2 that is too good: it adds what the real EC2 does and moto does not.

It keeps to ClientToken (moto ignores it), lets changes of state take a number of looks (moto's are instant),
leaves new machines out of the first lists, follows spot requests, and fails on demand: with an error, or with
a connection that drops before the request is done, or after. What it adds is written from EC2's documentation,
not observed on EC2.
"""

import asyncio
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

import httpx

PASSED = ("authorization", "content-type", "x-amz-date")
ON_THE_WAY = {"running": "pending", "stopped": "stopping"}

Params = dict[str, str]


@dataclass
class Fault:
    """What goes wrong, `times` times, with calls of `action` that have the parameters `where`."""

    action: str
    code: str = ""
    status: int = 400
    message: str = "this is a test"
    drop: str = ""  # "before" or "after" the request is done
    times: int = 1
    where: Params = field(default_factory=dict)


@dataclass
class Spot:
    """A persistent spot request. EC2 replaces its machine for as long as the request is not cancelled."""

    id: str
    request: Params
    instance: str
    tags: Params
    state: str = "active"
    status: str = "fulfilled"


class FaultProxy:
    """Serves in the running loop.

    Attributes:
        calls: what came in, in order: action and parameters.
        faults: those to come; the first that matches is used up first.
        lag: looks at a machine during which a change of its state is still under way.
        unseen: looks at the list in which a new machine is missing.
        boots: how often each instance has been started.
        spot: the spot requests, by id.
    """

    def __init__(self, upstream: str, state: Callable[[str], str]) -> None:
        """Proxy to `upstream`; `state` tells the true state of an instance."""
        self.calls: list[tuple[str, Params]] = []
        self.faults: list[Fault] = []
        self.lag = 0
        self.unseen = 0
        self.boots: Counter[str] = Counter()
        self.spot: dict[str, Spot] = {}
        self._state = state
        self._runs: dict[str, tuple[Params, bytes]] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._looks: Counter[str] = Counter()
        self._hidden: Counter[str] = Counter()
        self._writers: set[asyncio.StreamWriter] = set()
        self._upstream = httpx.AsyncClient(base_url=upstream, trust_env=False, verify=False)

    async def start(self) -> str:
        """Listen; return the address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await self._upstream.aclose()

    def count(self, action: str) -> int:
        """How many calls of an action came in."""
        return sum(each == action for each, _ in self.calls)

    # --- HTTP ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}
                params = dict(parse_qsl((await reader.readexactly(int(headers["content-length"]))).decode()))
                kept = {name: value for name, value in headers.items() if name in PASSED}
                reply = await self._answer(params.pop("Action"), params, kept)
                if reply is None:
                    writer.transport.abort()
                    return
                status, body = reply
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self._writers.discard(writer)

    async def _answer(self, action: str, params: Params, headers: dict[str, str]) -> tuple[int, bytes] | None:
        self.calls.append((action, params))
        fault = self._fault(action, params)
        if fault and fault.code:
            return error(fault.code, fault.message, fault.status)
        if fault and fault.drop == "before":
            return None
        reply = await self._act(action, params, headers)
        return None if fault else reply

    def _fault(self, action: str, params: Params) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.action == action and fault.where.items() <= params.items():
                fault.times -= 1
                return fault
        return None

    async def _pass(self, action: str, params: Params, headers: dict[str, str]) -> tuple[int, bytes]:
        reply = await self._upstream.post("/", content=urlencode({"Action": action, **params}), headers=headers)
        return reply.status_code, reply.content

    # --- what EC2 does ---

    async def _act(self, action: str, params: Params, headers: dict[str, str]) -> tuple[int, bytes]:
        ids = [value for key, value in params.items() if key.startswith("InstanceId.")]
        match action:
            case "RunInstances":
                async with self._locks[params["ClientToken"]]:
                    return await self._run(params, headers)
            case "DescribeSpotInstanceRequests":
                return self._describe_spot(params)
            case "CancelSpotInstanceRequests":
                return self._cancel_spot(params)
            case "StartInstances" | "StopInstances" | "TerminateInstances":
                return await self._change(action, params, headers, ids[0])
        status, body = await self._pass(action, params, headers)
        return status, self._shown(body) if action == "DescribeInstances" and status == 200 else body

    async def _run(self, params: Params, headers: dict[str, str]) -> tuple[int, bytes]:
        token = params["ClientToken"]
        if token in self._runs:
            before, body = self._runs[token]
            if before != params:
                return error("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent")
            return 200, self._shown(body, look=False)
        status, body = await self._pass("RunInstances", params, headers)
        if status == 200:
            instance = new_instance(body)
            self._runs[token] = params, body
            self._born(instance)
            if params.get("InstanceMarketOptions.MarketType") == "spot":
                id = f"sir-{len(self.spot):08x}"
                self.spot[id] = Spot(id, params, instance, spot_tags(params))
            body = self._shown(body, look=False)
        return status, body

    def _born(self, instance: str) -> None:
        self.boots[instance] += 1
        self._looks[instance] = self.lag
        self._hidden[instance] = self.unseen

    async def _change(self, action: str, params: Params, headers: dict[str, str], id: str) -> tuple[int, bytes]:
        state = self._state(id)
        under_way = self._looks[id] > 0
        if under_way and (action, state) in {("StartInstances", "stopped"), ("StopInstances", "running")}:
            return error("IncorrectInstanceState", f"The instance '{id}' is not in a state from which it can be …")
        status, body = await self._pass(action, params, headers)
        if status == 200 and self._state(id) != state:
            self._looks[id] = self.lag
            self.boots[id] += action == "StartInstances"
            await self._follow(action, headers, id)
        return status, body

    async def _follow(self, action: str, headers: dict[str, str], id: str) -> None:
        """A spot request follows its machine; one whose machine has gone gets another, without tags."""
        for spot in self.spot.values():
            if spot.instance != id or spot.state == "cancelled":
                continue
            spot.state = "disabled" if action == "StopInstances" else "active"
            if action == "TerminateInstances":
                left_out = ("ClientToken", "TagSpecification")
                again = {key: value for key, value in spot.request.items() if not key.startswith(left_out)}
                spot.instance = new_instance((await self._pass("RunInstances", again, headers))[1])
                self._born(spot.instance)

    def _shown(self, body: bytes, *, look: bool = True) -> bytes:
        """Answer with what EC2 would show of each machine."""
        root = ET.fromstring(body)
        for several in root.iter():
            if not several.tag.endswith("instancesSet"):
                continue
            for item in list(several):
                id = item.findtext("{*}instanceId") or ""
                if look and self._hidden[id] > 0:
                    self._hidden[id] -= 1
                    several.remove(item)
                    continue
                name = item.find("{*}instanceState/{*}name")
                assert name is not None
                name.text = self._state(id)
                if self._looks[id] > 0:
                    self._looks[id] -= look
                    name.text = ON_THE_WAY.get(name.text, name.text)
                for spot in self.spot.values():
                    if spot.instance == id:
                        ET.SubElement(item, "spotInstanceRequestId").text = spot.id
        return ET.tostring(root)

    def _describe_spot(self, params: Params) -> tuple[int, bytes]:
        wanted = filters(params)
        root = ET.Element("DescribeSpotInstanceRequestsResponse")
        items = ET.SubElement(root, "spotInstanceRequestSet")
        for spot in self.spot.values():
            known = {"state": spot.state} | {f"tag:{key}": value for key, value in spot.tags.items()}
            if not all(known.get(name) in values for name, values in wanted.items()):
                continue
            item = ET.SubElement(items, "item")
            ET.SubElement(item, "spotInstanceRequestId").text = spot.id
            ET.SubElement(item, "state").text = spot.state
            ET.SubElement(ET.SubElement(item, "status"), "code").text = spot.status
            ET.SubElement(item, "instanceId").text = spot.instance
            tags = ET.SubElement(item, "tagSet")
            for key, value in spot.tags.items():
                tag = ET.SubElement(tags, "item")
                ET.SubElement(tag, "key").text = key
                ET.SubElement(tag, "value").text = value
        return 200, ET.tostring(root)

    def _cancel_spot(self, params: Params) -> tuple[int, bytes]:
        for key, id in params.items():
            if key.startswith("SpotInstanceRequestId."):
                self.spot[id].state = "cancelled"
        return (
            200,
            b"<CancelSpotInstanceRequestsResponse><spotInstanceRequestSet/></CancelSpotInstanceRequestsResponse>",
        )


def error(code: str, message: str, status: int = 400) -> tuple[int, bytes]:
    text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
    return status, f"{text}<RequestID>r-1</RequestID></Response>".encode()


def new_instance(body: bytes) -> str:
    """The id of the machine that RunInstances answered with."""
    return ET.fromstring(body).findtext("{*}instancesSet/{*}item/{*}instanceId") or ""


def filters(params: Params) -> dict[str, list[str]]:
    """`Filter.1.Name`, `Filter.1.Value.1`, … as names and values."""
    found = {}
    for key, name in params.items():
        if key.startswith("Filter.") and key.endswith(".Name"):
            prefix = f"{key.removesuffix('Name')}Value."
            found[name] = [value for other, value in params.items() if other.startswith(prefix)]
    return found


def spot_tags(params: Params) -> Params:
    """The tags that RunInstances was told to give the spot request."""
    kinds = [key.removesuffix("ResourceType") for key, value in params.items() if value == "spot-instances-request"]
    return {
        params[key]: params[f"{key.removesuffix('Key')}Value"]
        for kind in kinds
        for key in params
        if key.startswith(f"{kind}Tag.") and key.endswith(".Key")
    }
