"""The agent against a small bridge over a real WebSocket, with a real WebRTC client behind it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import rtcbridge
from node.bridge import Bridge
from node.clients import TIMEOUT, AiortcClient, WrtcClient, grey
from rtcbridge.media import create_engine
from rtcbridge.node import peer
from rtcbridge.node.agent import Agent, AgentConfig, ExitStatus
from rtcbridge.node.link import LinkConfig
from rtcbridge.node.model import spec_of
from rtcbridge.node.worker import Worker


@rtcbridge.model(params={"level": rtcbridge.Float(1.0, min=0, max=1)})
def invert(frame: np.ndarray, params: Any) -> np.ndarray:
    return (frame + (255 - 2 * frame.astype(np.int16)) * params.level).astype(np.uint8)


@asynccontextmanager
async def running(
    bridge: Bridge, model: Callable[..., Any] = invert, slots: int | None = 2, engine: str = "wrtc"
) -> AsyncIterator[tuple[Agent, asyncio.Task[ExitStatus]]]:
    spec = spec_of(model)
    assert spec is not None
    link = LinkConfig(bridge.url, refused_retry=0.02)
    config = AgentConfig(link=link, credential="nk_TEST01_secret", node="node-1", slots=slots)
    agent = Agent(config, create_engine(engine), Worker(spec))
    task = asyncio.create_task(agent.run())
    try:
        yield agent, task
    finally:
        await agent.stop()
        await asyncio.wait_for(task, TIMEOUT)


@pytest.fixture
async def client() -> AsyncIterator[WrtcClient]:
    client = WrtcClient()
    yield client
    await client.close()


async def said(client: Any, type: str) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT):
        while True:
            message = json.loads(await client.messages.get())
            if message["type"] == type:
                return dict(message)


async def test_registers_with_the_declaration_of_its_model() -> None:
    async with Bridge() as bridge, running(bridge, slots=3):
        payload = await bridge.registered()
        assert payload["credential"] == "nk_TEST01_secret"
        assert (payload["node"], payload["pool"], payload["capacity"]) == ("node-1", "default", 3)
        assert payload.get("sessions", []) == []
        assert payload["labels"]["engine"] == "wrtc"
        assert payload["labels"]["model"] == {
            "name": "invert",
            "title": "Invert",
            "params": [{"name": "level", "kind": "float", "title": "Level", "default": 1.0, "min": 0, "max": 1}],
        }
        heartbeat = await bridge.expect("heartbeat")
        assert heartbeat["connected"] == []
        assert 0 <= heartbeat["load"] <= 1


async def test_serves_a_session_and_its_parameters(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        declared = await said(client, "model")
        assert declared["values"] == {"level": 1.0}
        client.show = grey(60)
        await client.until_luma(170, 215)
        await bridge.until(lambda: any("s1" in m["connected"] for m in bridge.find("heartbeat")))
        client.say(json.dumps({"type": "update", "id": 1, "params": {"level": 0}}))
        assert await said(client, "updated") == {"type": "updated", "id": 1, "values": {"level": 0.0}}
        await client.until_luma(45, 75)
        client.say(json.dumps({"type": "update", "id": 2, "params": {"level": 2}}))
        error = await said(client, "error")
        assert error == {"type": "error", "id": 2, "message": "level: expected a number from 0 to 1"}
        stats = await said(client, "stats")
        assert set(stats) == {"type", "fps_in", "fps_out", "model_ms", "dropped"}
        await bridge.send("session_end", session="s1", reason="done")
        await bridge.until(lambda: bridge.find("heartbeat") and bridge.find("heartbeat")[-1]["connected"] == [])
        assert agent.sessions == []


async def test_parameters_can_come_with_the_offer(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge):
        await bridge.registered()
        await bridge.connect(client, "s1", params={"level": 0.0})
        assert (await said(client, "model"))["values"] == {"level": 0.0}


async def test_parameters_can_come_from_the_bridge(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge):
        assert (await bridge.registered())["labels"]["updates"] is True
        await bridge.connect(client, "s1")
        await bridge.send("update", session="s1", params={"level": 0}, id=1)
        assert await bridge.expect("updated") == {"type": "updated", "session": "s1", "values": {"level": 0.0}, "id": 1}
        client.show = grey(60)
        await client.until_luma(45, 75)
        await bridge.send("update", session="s1", params={"level": 2}, id="x")
        refused = await bridge.expect("updated")
        assert (refused["id"], refused["error"]) == ("x", "level: expected a number from 0 to 1")
        await bridge.send("update", session="gone", params={})
        gone = await bridge.expect("updated")
        assert gone == {"type": "updated", "session": "gone", "error": "the session has ended"}


async def test_two_sessions_share_the_model_each_with_its_own_parameters(client: WrtcClient) -> None:
    other = AiortcClient()
    async with Bridge() as bridge, running(bridge) as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await bridge.connect(other, "s2", params={"level": 0.0})
        assert agent.sessions == ["s1", "s2"]
        await client.until_luma(170, 215)
        await other.until_luma(45, 75)
        heartbeat = await bridge.until(lambda: [m for m in bridge.find("heartbeat") if len(m["connected"]) == 2])
        assert heartbeat[0]["connected"] == ["s1", "s2"]
        await bridge.send("session_end", session="s1", reason="done")
        await other.until_more(5)
    await other.close()


async def test_sound_comes_back() -> None:
    client = AiortcClient(audio=True)
    async with Bridge() as bridge, running(bridge):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await client.until(lambda: client.loudest > 3000)
        await client.until_luma(170, 215)
    await client.close()


async def test_no_candidate_overtakes_the_answer(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge):
        await bridge.registered()
        await bridge.send("offer", session="s1", sdp=await client.offer())
        await bridge.until(lambda: any(m["candidate"] is None for m in bridge.find("candidate")))
        types = [m["type"] for m in bridge.inbox if m.get("session") == "s1"]
        assert types[0] == "answer"
        assert types.count("candidate") >= 2


async def test_an_offer_above_the_capacity_is_refused(client: WrtcClient) -> None:
    second = WrtcClient()
    async with Bridge() as bridge, running(bridge, slots=1) as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await bridge.send("offer", session="s2", sdp=await second.offer())
        refusal = await bridge.expect("error")
        assert refusal == {"type": "error", "session": "s2", "message": "the node has no free slot"}
        assert agent.sessions == ["s1"]
        # The slot is free as soon as the first session ends.
        await bridge.send("session_end", session="s1", reason="done")
        await bridge.connect(second, "s3")
    await second.close()


async def test_the_client_closing_ends_the_session(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge, engine="aiortc") as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await client.close()
        await bridge.expect("session_state", session="s1", state="closed")
        assert agent.sessions == []
        await bridge.send("offer", session="s1", sdp="v=0")
        assert (await bridge.expect("error"))["message"] == "the session has ended"


async def test_a_bad_offer_is_answered_with_an_error() -> None:
    async with Bridge() as bridge, running(bridge) as (agent, _):
        await bridge.registered()
        await bridge.send("offer", session="s1", sdp="v=0")
        error = await bridge.expect("error", session="s1")
        assert error["message"].startswith("the offer cannot be applied")
        assert agent.sessions == []


async def test_bad_ice_servers_are_answered_with_an_error(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, _):
        await bridge.registered()
        servers = [{"urls": "http://example.org"}]
        await bridge.send("offer", session="s1", sdp=await client.offer(), ice_servers=servers)
        assert (await bridge.expect("error", session="s1"))["message"].startswith("ice_servers")
        assert agent.sessions == []


async def test_what_the_bridge_garbles_is_passed_over(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge):
        await bridge.registered()
        for frame in (
            "{",
            "[]",
            '{"type":"nonsense"}',
            '{"type":"offer"}',
            b"\xff\x00",
            '{"type":"offer","session":1}',
        ):
            await bridge.send_raw(frame)
        await bridge.send("candidate", session="unknown", candidate={"candidate": ""})
        await bridge.send("candidate", session="s1", candidate=None)
        await bridge.send("session_end", session="unknown", reason="late")
        await bridge.connect(client, "s1")
        await bridge.send("candidate", session="s1", candidate={"candidate": "candidate:rubbish", "sdpMid": "0"})
        await client.until_luma(170, 215)


async def test_a_dropped_socket_leaves_the_media_and_is_dialled_again(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        dropped = time.monotonic()
        assert bridge.socket is not None
        bridge.socket.transport.abort()
        again = await bridge.registered()
        assert time.monotonic() - dropped < 2
        assert again["sessions"] == ["s1"]
        await bridge.expect("session_state", session="s1", state="connected")
        assert agent.epoch == 2
        seen = client.count
        await client.until(lambda: client.count > seen + 5)
        # The same session can be renegotiated over the new socket.
        await bridge.send("offer", session="s1", sdp=await client.offer(restart=True))
        await client.accept((await bridge.expect("answer", session="s1"))["sdp"])


async def test_an_answer_made_while_the_link_is_down_is_sent_when_it_is_back(client: WrtcClient) -> None:
    bridge = Bridge()
    await bridge.listen()
    async with running(bridge) as (agent, _):
        await bridge.registered()
        offer = await client.offer()
        await bridge.send("offer", session="s1", sdp=offer)
        await bridge.until(lambda: bridge.find("answer"))
        bridge.inbox.clear()
        await bridge.shut()
        agent.answer("s1", "v=0 of a later answer")
        agent.answer("gone", "of a session that is no more")
        await bridge.listen()
        assert (await bridge.registered())["sessions"] == ["s1"]
        assert (await bridge.expect("answer"))["sdp"] == "v=0 of a later answer"
        await bridge.expect("heartbeat")
        assert bridge.find("answer") == []
    await bridge.shut()


async def test_a_node_that_was_never_accepted_gives_up() -> None:
    async with Bridge(accept=lambda _payload: False) as bridge, running(bridge) as (_, task):
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.REFUSED
        assert bridge.registers.qsize() == 5


async def test_a_node_that_was_accepted_before_goes_on_trying() -> None:
    tries = []

    def accept(payload: dict[str, Any]) -> bool:
        tries.append(payload)
        return len(tries) == 1 or len(tries) > 8

    async with Bridge(accept=accept) as bridge, running(bridge) as (_, task):
        await bridge.registered()
        assert bridge.socket is not None
        bridge.socket.transport.abort()
        await bridge.until(lambda: len(tries) > 8 and bridge.socket is not None)
        assert not task.done()


async def test_drain_ends_the_node_with_its_last_session(client: WrtcClient) -> None:
    second = WrtcClient()
    async with Bridge() as bridge, running(bridge) as (_, task):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await bridge.send("drain")
        await bridge.send("offer", session="s2", sdp=await second.offer())
        assert (await bridge.expect("error", session="s2"))["message"] == "the node is draining"
        assert not task.done()
        await bridge.send("session_end", session="s1", reason="done")
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK
        assert await asyncio.wait_for(bridge.closed.get(), TIMEOUT) == (1000, "")
    await second.close()


async def test_drain_of_an_idle_node_ends_it() -> None:
    async with Bridge() as bridge, running(bridge) as (_, task):
        await bridge.registered()
        await bridge.send("drain")
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK


async def test_a_node_that_is_to_leave_offers_no_slot_and_ends_with_its_last_session(client: WrtcClient) -> None:
    second, third = WrtcClient(), WrtcClient()
    async with Bridge() as bridge, running(bridge, slots=3) as (agent, task):
        assert (await bridge.registered())["capacity"] == 3
        await bridge.connect(client, "s1")
        await bridge.connect(second, "s2")
        await agent.drain(TIMEOUT)
        again = await bridge.registered()
        assert (again["capacity"], sorted(again["sessions"])) == (2, ["s1", "s2"])
        await bridge.send("session_end", session="s1", reason="done")
        again = await bridge.registered()
        assert (again["capacity"], again["sessions"]) == (1, ["s2"])
        await bridge.send("offer", session="s3", sdp=await third.offer())
        assert (await bridge.expect("error", session="s3"))["message"] == "the node is draining"
        await second.until(lambda count=second.count: second.count > count + 5)
        assert not task.done()
        await bridge.send("session_end", session="s2", reason="done")
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK
    for one in (second, third):
        await one.close()


async def test_a_node_that_is_to_leave_does_not_wait_for_ever(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, task):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await agent.drain(0.2)
        await bridge.registered()
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK
        await bridge.expect("session_state", session="s1", state="closed")


@pytest.mark.parametrize("what", ["no session", "no bridge", "asked again"])
async def test_a_node_that_is_to_leave_stops_at_once(client: WrtcClient, what: str) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, task):
        await bridge.registered()
        if what != "no session":
            await bridge.connect(client, "s1")
        if what == "no bridge":
            await bridge.shut()
            async with asyncio.timeout(TIMEOUT):
                while agent._link.up:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.01)
        await agent.drain(600)
        if what == "asked again":
            await bridge.registered()
            await agent.drain(600)
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK


async def test_stop_ends_sessions_and_says_goodbye(client: WrtcClient) -> None:
    async with Bridge() as bridge, running(bridge) as (agent, task):
        await bridge.registered()
        await bridge.connect(client, "s1")
        began = time.monotonic()
        await agent.stop()
        assert await asyncio.wait_for(task, TIMEOUT) is ExitStatus.OK
        assert time.monotonic() - began < 2
        await bridge.expect("session_state", session="s1", state="closed")
        assert await asyncio.wait_for(bridge.closed.get(), TIMEOUT) == (1000, "")


async def test_a_model_that_never_returns_stops_nothing_else(
    client: WrtcClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_STALLED", 0.2)
    release = threading.Event()
    calls = []

    @rtcbridge.model
    def stuck(frame: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > 1:  # the first is the warm-up
            release.wait(30)
        return frame

    async with Bridge() as bridge, running(bridge, stuck) as (agent, _):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await bridge.until(lambda: len(calls) > 1)
        bridge.inbox.clear()
        await bridge.until(lambda: len(bridge.find("heartbeat")) >= 2)
        assert bridge.find("heartbeat")[-1]["load"] > 0.5
        assert bridge.find("heartbeat")[-1]["stats"]["model_busy"] > 0
        told = await said(client, "error")
        assert told == {"type": "error", "message": "the model has not returned for 0.2 seconds"}
        client.say(json.dumps({"type": "ping", "id": "a"}))
        assert await said(client, "pong") == {"type": "pong", "id": "a"}
        began = time.monotonic()
        await agent.stop()
        assert time.monotonic() - began < 2
        release.set()


async def test_a_model_that_raises_shows_the_raw_picture_and_tells_why(client: WrtcClient) -> None:
    calls = []

    @rtcbridge.model
    def broken(frame: np.ndarray) -> np.ndarray | None:
        calls.append(1)
        if len(calls) == 1:
            return frame
        if len(calls) % 2:
            return None
        raise ZeroDivisionError("by the model")

    async with Bridge() as bridge, running(bridge, broken):
        await bridge.registered()
        await bridge.connect(client, "s1")
        await client.until_luma(45, 75)
        first = await said(client, "error")
        second = await said(client, "error")
        assert {first["message"].split(":")[0], second["message"].split(":")[0]} == {"ZeroDivisionError", "OutputError"}
        assert "id" not in first
        await client.until(lambda: client.count > 20)
        await said(client, "stats")
        await said(client, "stats")
        assert client.messages.empty()
