"""A stand-in for the cloud of docs/how-to/write-a-provider.md: its HTTP API, with processes as machines."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp import web

MACHINE = 'env > "$FOLDER/$RTCBRIDGE_NODE.new" && mv "$FOLDER/$RTCBRIDGE_NODE.new" "$FOLDER/$RTCBRIDGE_NODE.env"; '


class Cloud:
    """Serves in the running loop; `program` is what a machine runs at each boot."""

    def __init__(self, folder: Path, program: Sequence[str] = ("sh", "-c", f"{MACHINE} exec sleep 600")) -> None:
        self.folder = folder
        self.boots: Counter[str] = Counter()
        self.calls: list[str] = []
        self._program = program
        self._machines: dict[str, dict[str, Any]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/machines", self._list)
        app.router.add_put("/machines/{node}", self._put)
        app.router.add_post("/machines/{node}/{verb}", self._post)
        app.router.add_delete("/machines/{node}", self._delete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self._machines:
            await self._halt(node)
        await self._runner.cleanup()

    def running(self, node: str) -> int:
        process = self._processes.get(node)
        return int(process is not None and process.returncode is None and (self.folder / f"{node}.env").exists())

    async def _list(self, request: web.Request) -> web.Response:
        pool = request.query["pool"]
        found = {node: machine for node, machine in self._machines.items() if machine["pool"] == pool}
        return web.json_response([{"name": node, "state": self._state(node)} for node in found])

    async def _put(self, request: web.Request) -> web.Response:
        node = request.match_info["node"]
        self.calls.append(f"PUT {node}")
        if node not in self._machines:
            self._machines[node] = await request.json()
        await self._boot(node)
        return web.json_response({})

    async def _post(self, request: web.Request) -> web.Response:
        node, verb = request.match_info["node"], request.match_info["verb"]
        self.calls.append(f"{verb} {node}")
        if node not in self._machines:
            return web.Response(status=404)
        await (self._boot(node) if verb == "start" else self._halt(node))
        return web.json_response({})

    async def _delete(self, request: web.Request) -> web.Response:
        node = request.match_info["node"]
        self.calls.append(f"DELETE {node}")
        if self._machines.pop(node, None) is None:
            return web.Response(status=404)
        await self._halt(node)
        return web.json_response({})

    def _state(self, node: str) -> str:
        process = self._processes.get(node)
        return "running" if process is not None and process.returncode is None else "stopped"

    async def _boot(self, node: str) -> None:
        if self._state(node) == "running":
            return
        env = {**os.environ, "FOLDER": str(self.folder), **self._machines[node]["env"]}
        self.boots[node] += 1
        with (self.folder / "machines.log").open("ab") as log:
            self._processes[node] = await asyncio.create_subprocess_exec(
                *self._program, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _halt(self, node: str) -> None:
        process = self._processes.get(node)
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
