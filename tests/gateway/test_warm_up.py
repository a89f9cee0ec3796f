"""The bridge, its local provider and real nodes: READY is a node that has registered, and it registers warm."""

import asyncio
from pathlib import Path

import pytest

from gateway.programs import home, until
from rtcbridge.drivers.providers import sweep
from rtcbridge.testing import FakeClient

pytestmark = pytest.mark.slow

CONFIG = """
[[pools]]
provider = "local"
max_nodes = 1
failed_timeout = 60.0
boot_timeout = 600.0
[pools.local]
model = "app.py:gated"
"""
GATED = """
import pathlib, time
import rtcbridge

@rtcbridge.model(size=(96, 64))
def gated(frame):
    pathlib.Path("at-the-gate").touch()
    while not pathlib.Path("open").exists():
        time.sleep(0.02)
    return frame
"""
FAILING = """
import rtcbridge

@rtcbridge.model
def gated(frame):
    raise RuntimeError("no kernel image")
"""


async def test_a_client_gets_a_node_when_the_model_is_warm(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(GATED)
    with home(tmp_path, CONFIG) as place:
        try:
            bridge = place.serve()
            async with FakeClient(place.url, place.client_key()) as client:
                await client.send("session_start")
                await client.expect("node_status", status="pending")
                await asyncio.to_thread(until, (tmp_path / "at-the-gate").exists, "the first frame is in the model")
                (node,) = place.nodes().values()
                assert node.state == "booting", "the process runs, and the provider says so"
                await client.send("session_start")  # answered at once, behind all that was sent before
                await client.expect("node_status", status="pending")
                assert [message["type"] for message in client.inbox] == ["auth_success"]
                (tmp_path / "open").touch()
                await client.expect("node_status", status="waiting")
            assert place.nodes()[node.id].state == "ready"
            assert [e["state"] for e in bridge.events() if e["event"] == "node"] == ["provisioning", "booting"]
        finally:
            place.dispose()
            await sweep(tmp_path / "rtcbridge-nodes")


async def test_a_model_that_fails_its_first_frame_is_a_failed_boot_at_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FAILING)
    with home(tmp_path, CONFIG) as place:
        try:
            bridge = place.serve()
            async with FakeClient(place.url, place.client_key()) as client:
                await client.send("offer", sdp="one")
                await client.expect("server_provisioning")
                # Long before boot_timeout: the provider sees that the process has ended.
                await client.expect("error", message="Maximum pool size reached. Cannot assign a new node.")
            failed = await asyncio.to_thread(lambda: bridge.event("node", state="failed"))
            assert failed["reason"] == "its machine has stopped"
            log = tmp_path / "rtcbridge-nodes" / "default" / failed["node"] / "node.log"
            assert log.read_text().splitlines()[-1] == (
                "rtcbridge node: model gated fails on its first frame: RuntimeError: no kernel image"
            )
        finally:
            place.dispose()
            await sweep(tmp_path / "rtcbridge-nodes")
