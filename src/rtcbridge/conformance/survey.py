"""What a bridge and a pool are fit for, found out before anything is held against them."""

import asyncio
import dataclasses
import http.client
import json
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rtcbridge.conformance.foreign import Foreign, Target
from rtcbridge.conformance.replay import Ended, MismatchError
from rtcbridge.conformance.vectors import as_json

_V2 = "rtcbridge.v2"


class UnplayableError(Exception):
    """Nothing can be played: no bridge, no valid key, or a pool that others use. Its text is one line."""


@dataclass(frozen=True)
class Ground:
    """What there is to play on.

    Args:
        target: the bridge, with all values that are to be had.
        has_nodes: whether we may be the nodes of a pool that nobody else uses.
        extended: whether the bridge speaks the subprotocol rtcbridge.v2.
    """

    target: Target
    has_nodes: bool
    extended: bool


async def survey(target: Target) -> Ground:
    """Look. Raises UnplayableError."""
    world = Foreign(target, f"conformance-{secrets.token_hex(4)}")
    try:
        await _enter(world, "c1")
        if has_nodes := "node_key" in target.values:
            await _own_pool(world)
        extended = await _is_extended(target)
    except MismatchError as error:
        raise UnplayableError(str(error)) from None
    except TimeoutError:
        raise UnplayableError(f"no answer from {target.url} within {target.timeout:g} s") from None
    except OSError as error:
        raise UnplayableError(f"no bridge answers at {target.url}: {error.strerror or error}") from None
    finally:
        await world.finish()
    if "client_token" not in target.values and (token := await asyncio.to_thread(_client_token, target)):
        target = dataclasses.replace(target, values={**target.values, "client_token": token})
    return Ground(target, has_nodes, extended)


async def _enter(world: Foreign, actor: str) -> None:
    await world.connect(actor, "/client", "")
    key = world.values["client_key"]
    got = await _say(world, actor, {"type": "CREDENTIAL", "payload": {"credential": key}})
    if isinstance(got, Ended):
        raise UnplayableError("the bridge refused the key")
    if not isinstance(got, dict) or got.get("type") != "auth_success":
        raise UnplayableError(f"what answers at {world.target.url} is no bridge: {got}")


async def _say(world: Foreign, actor: str, message: dict[str, Any]) -> Any:
    await world.send(actor, [(True, as_json(message))])
    return await _hear(world, actor)


async def _hear(world: Foreign, actor: str) -> Any:
    got = await world.receive(actor, None)
    try:
        return got if isinstance(got, Ended) else json.loads(got)
    except ValueError:
        raise UnplayableError(f"what answers at {world.target.url} is no bridge: {got!r}") from None


async def _own_pool(world: Foreign) -> None:
    """See that no node and no client is there but ours."""
    pool = world.values["pool"]
    status = await _say(world, "c1", {"type": "session_start"})
    match status:
        case {"type": "node_status", "status": "full"}:
            pass
        case {"type": "node_status", "status": "waiting"}:
            raise UnplayableError(f"the pool has nodes already ({status}): give it one that only this command uses")
        case {"type": "node_status", "status": "pending"}:
            raise UnplayableError(f"the pool makes nodes itself ({status}): give it a static one, without nodes")
        case _:
            raise UnplayableError(f"session_start was answered with {status}")
    await world.connect("n1", "/node", "")
    payload = {"credential": world.values["node_key"], "node": world.node_id("n1"), "pool": pool, "capacity": 1}
    got = await _say(world, "n1", {"type": "REGISTER", "payload": payload})
    if isinstance(got, Ended):
        raise UnplayableError(f"the bridge refused the node key for the pool {pool!r}")
    try:
        status = await _hear(world, "c1")
    except MismatchError:
        status = None
    if not isinstance(status, dict) or status.get("status") != "waiting":
        came = "nothing" if status is None else status
        raise UnplayableError(
            f"a client of the key was sent {came} when a node came to the pool {pool!r}: "
            "others wait in it, or the keys are not for the same pool"
        )


async def _is_extended(target: Target) -> bool:
    world = Foreign(target, "")
    try:
        await world.connect("c1", "/client", _V2)
    except MismatchError:
        return False
    finally:
        await world.finish()
    return True


def _client_token(target: Target) -> str:
    """A client token for the key, or nothing if the bridge makes none."""
    parts = urlsplit(target.url)
    if target.tls is not None:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=target.timeout, context=target.tls
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=target.timeout)
    headers = {"Authorization": f"Bearer {target.values['client_key']}", "Content-Type": "application/json"}
    try:
        connection.request("POST", f"{parts.path}/v1/tokens", b"{}", headers)
        answer = json.loads(connection.getresponse().read(65536))
        token = answer.get("token") if isinstance(answer, dict) else None
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()
    return token if isinstance(token, str) else ""
