"""The Autobahn testsuite, strict, against an echo application on the same protocol class."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.socket import autobahn
from gateway.socket.tools import Recorder, Server
from rtcbridge.gateway.socket_group import Limits

Serve = Callable[..., Awaitable[Server]]

ALL = 301  # cases, without those on compression
LIMITS = Limits(max_message=32 * 1024 * 1024, max_outbox=64 * 1024 * 1024, binary=True)


class Echo(Recorder):
    __slots__ = ()

    def received(self, data: bytes) -> None:
        self.send(data)

    def received_binary(self, data: bytes) -> None:
        self.send_binary(data)


@pytest.mark.slow
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_every_case_strictly(serve: Serve, tmp_path: Path) -> None:
    python = await asyncio.to_thread(autobahn.python2)
    if python is None:
        why = "the Autobahn testsuite did NOT run: it needs Python 2.7 (set RTCBRIDGE_PYTHON2)"
        pytest.skip(why)
    server = await serve(LIMITS, make=Echo)
    spec = autobahn.write_spec(tmp_path, f"ws://127.0.0.1:{server.listener.port}/ws", ["*"])
    command = await asyncio.to_thread(autobahn.command, python, spec)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 300)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()[-2000:]
    verdicts = autobahn.verdicts(tmp_path)
    wrong = {case: verdict for case, verdict in verdicts.items() if not set(verdict) <= {"OK", "INFORMATIONAL"}}
    assert wrong == {}
    assert len(verdicts) == ALL
