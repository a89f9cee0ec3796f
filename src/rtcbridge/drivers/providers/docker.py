"""Nodes as containers of a Docker or Podman daemon, through its HTTP API (aiodocker).

A container bears its node's id in its name and in a label, and what it was made with is all that is known of
it: nothing is remembered here, so that a bridge that was killed at any moment finds its containers again.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from rtcbridge.config import DockerOptions
from rtcbridge.ports import Launch, Machine, ProviderError

NODE_LABEL = "rtcbridge.node"
POOL_LABEL = "rtcbridge.pool"
URL_LABEL = "rtcbridge.url"
_LONGEST = 400  # characters of the daemon's words that an error shows
# By the daemon's word for a container's state; each that is not here is one that does not run. "stopping" is Podman's
# alone: Docker says "running" to the end.
_MACHINES = {
    "initialized": Machine.COMING,
    "restarting": Machine.COMING,
    "running": Machine.RUNNING,
    "paused": Machine.RUNNING,
    "stopping": Machine.STOPPING,
}
_GONE = frozenset({"removing", "dead"})
_NODE = re.compile(r"[A-Za-z0-9_.-]{1,200}\Z")


class DockerProvider:
    """`Provider` of one pool's containers. Stopping a container keeps its file system.

    Attributes:
        list_interval: seconds between two looks.
    """

    def __init__(self, pool: str, options: DockerOptions) -> None:
        """Nothing is asked of the daemon yet.

        Args:
            pool: its name, a label of its containers.
            options: `[pools.docker]`.
        """
        self.list_interval = options.list_interval
        self._pool = pool
        self._options = options
        self._docker: Docker | None = None
        self._pulling = asyncio.Lock()

    async def create(self, launch: Launch) -> None:
        """Pull the image if that is due, make the container and start it. Raises ProviderError."""
        config = container_config(self._options, launch, os.environ)
        async with self._errors("create", launch) as docker:
            there = await self._find(docker, launch) is not None
        if not there:
            await self._pull(launch)
            async with self._errors("create", launch) as docker:
                await self._make(docker, launch, config)
        async with self._errors("create", launch) as docker:
            await docker.containers.container(_name(launch)).start()

    async def start(self, launch: Launch) -> None:
        """Start the stopped container of this node. Raises ProviderError."""
        async with self._errors("start", launch) as docker:
            labels = await self._existing(docker, launch)
            if labels.get(URL_LABEL) != launch.url:
                # A container's environment cannot be changed.
                raise ProviderError(
                    f"start: the container dials {labels.get(URL_LABEL)}, and the bridge now is at {launch.url}"
                )
            await docker.containers.container(_name(launch)).start()

    async def stop(self, launch: Launch) -> None:
        """Stop the container, by SIGKILL after `stop_grace`, and keep it. Raises ProviderError."""
        async with self._errors("stop", launch, self._options.stop_grace) as docker:
            await self._existing(docker, launch)
            await docker.containers.container(_name(launch)).stop(t=self._options.stop_grace)

    async def destroy(self, launch: Launch) -> None:
        """Kill and remove the container with its anonymous volumes. Raises ProviderError."""
        async with self._errors("destroy", launch) as docker:
            if await self._find(docker, launch) is None:
                return
            try:
                await docker.containers.container(_name(launch)).delete(force=True, v=True)
            except DockerError as error:
                if error.status == 404 or (error.status == 409 and "already in progress" in error.message):
                    return
                raise

    async def list(self) -> Mapping[str, Machine] | None:
        """Return how each container of the pool stands, by its node. Raises ProviderError."""
        wanted = msgspec.json.encode({"label": [f"{POOL_LABEL}={self._pool}"]}).decode()
        async with self._errors("list") as docker:
            found = await docker.containers.list(all=1, filters=wanted)
        machines = {}
        for container in found:
            node = container["Labels"].get(NODE_LABEL)
            if node and container["State"] not in _GONE:
                machines[node] = _MACHINES.get(container["State"], Machine.STOPPED)
        return machines

    async def close(self) -> None:
        """Close the connections; the containers go on."""
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()

    async def _pull(self, launch: Launch) -> None:
        """Get the image as `pull` says; several nodes at once wait for one pull. Raises ProviderError."""
        image = self._options.image
        if self._options.pull == "never":
            return
        async with self._pulling:
            if self._options.pull == "missing":
                async with self._errors("create", launch) as docker:
                    try:
                        await docker.images.inspect(image)
                    except DockerError as error:
                        if error.status != 404:
                            raise
                    else:
                        return
            # However long it takes: the node's own deadline ends it.
            async with self._errors(f"pull {image}", launch, None) as docker:
                async for _ in docker.images.pull(image, stream=True):
                    pass

    async def _make(self, docker: Docker, launch: Launch, config: dict[str, Any]) -> None:
        try:
            await docker.containers.create(config, name=_name(launch))
        except DockerError:
            # An earlier call, of which only the answer was lost, may have made it meanwhile.
            if await self._find(docker, launch) is None:
                raise

    async def _existing(self, docker: Docker, launch: Launch) -> Mapping[str, str]:
        labels = await self._find(docker, launch)
        if labels is None:
            raise DockerError(404, f"there is no container of node {launch.node}")
        return labels

    async def _find(self, docker: Docker, launch: Launch) -> Mapping[str, str] | None:
        """Return the labels of the node's container, or None. Raises ProviderError for another's container."""
        container: DockerContainer = docker.containers.container(_name(launch))
        try:
            data = await container.show()
        except DockerError as error:
            if error.status == 404:
                return None
            raise
        labels: Mapping[str, str] = data["Config"].get("Labels") or {}
        if (labels.get(NODE_LABEL), labels.get(POOL_LABEL)) != (launch.node, self._pool):
            raise ProviderError(f"the container {_name(launch)} is not of pool {self._pool}")
        return labels

    @asynccontextmanager
    async def _errors(self, verb: str, launch: Launch | None = None, more: float | None = 0) -> AsyncIterator[Docker]:
        """Give the daemon, and `timeout` and `more` seconds (None: for ever); failures become ProviderErrors."""
        seconds = None if more is None else self._options.timeout + more
        try:
            async with asyncio.timeout(seconds):
                yield self._connect()
        except TimeoutError:
            raise ProviderError(f"{verb}: Docker does not answer within {seconds:g} s") from None
        except DockerError as error:
            raise ProviderError(f"{verb}: {self._line(error.message, launch)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderError(f"{verb}: Docker cannot be reached: {self._line(error, launch)}") from None

    def _connect(self) -> Docker:
        if self._docker is None:
            try:
                self._docker = Docker(self._options.url or None)
            except (AssertionError, ValueError):  # as it says that it found none
                raise ProviderError("no Docker is found on this machine: set docker.url") from None
        return self._docker

    def _line(self, text: object, launch: Launch | None) -> str:
        """What the daemon says, on one line, without the node's token and the values of `env`."""
        line = " ".join(str(text).split())
        secrets = [variable.partition("=")[2] or os.environ.get(variable, "") for variable in self._options.env]
        for secret in [launch.token if launch else "", *secrets]:
            if len(secret) > 7:
                line = line.replace(secret, "…")
        return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def container_config(options: DockerOptions, launch: Launch, own: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of Docker's `POST /containers/create` for a node.

    Args:
        options: `[pools.docker]`.
        launch: the node.
        own: the bridge's environment, for variables of `env` without a value.

    Raises:
        ProviderError: such a variable is not in it.
    """
    variables = [*_variables(options.env, own), *(f"{name}={value}" for name, value in launch.env().items())]
    host: dict[str, Any] = {"Binds": list(options.volumes), "ShmSize": options.shm_size}
    if options.network:
        host["NetworkMode"] = options.network
    if options.gpus:
        host["DeviceRequests"] = [_device_request(options.gpus)]
    config = {
        "Image": options.image,
        "Env": variables,
        "Labels": {NODE_LABEL: launch.node, POOL_LABEL: launch.pool, URL_LABEL: launch.url},
        "HostConfig": host,
    }
    return config | ({"Cmd": list(options.command)} if options.command else {})


def _variables(env: Iterable[str], own: Mapping[str, str]) -> Iterable[str]:
    for variable in env:
        if "=" in variable:
            yield variable
        elif variable in own:
            yield f"{variable}={own[variable]}"
        else:
            raise ProviderError(f"create: docker.env: the bridge's environment has no {variable}")


def _device_request(gpus: str) -> dict[str, Any]:
    """The same as of `docker run --gpus`."""
    request: dict[str, Any] = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
    if gpus.startswith("device="):
        return request | {"DeviceIDs": gpus.removeprefix("device=").split(",")}
    return request | {"Count": -1 if gpus == "all" else int(gpus)}


def _name(launch: Launch) -> str:
    """The container's name. Raises ProviderError."""
    if not _NODE.match(launch.node):
        raise ProviderError(f"{launch.node!r} cannot be part of a container's name")
    return f"rtcbridge-{launch.node}"
