"""The client from Python against a real bridge with a real node."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.service import CLIP, number_in, numbered, service
from drivers.tcp_proxy import TcpProxy
from gateway.programs import Home, until
from rtcbridge.client import Client, ClientError, File, Pictures, Session, State, connect
from rtcbridge.client.sync import Client as SyncClient

pytestmark = pytest.mark.slow
PATIENCE = 60.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with service(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.client_key()


def free(home: Home) -> bool:
    return all(row.ended is not None for row in home.sessions())


@pytest.mark.parametrize("engine", ["wrtc", "aiortc"])
async def test_each_frame_is_told_what_it_was_made_of(home: Home, key: str, engine: str) -> None:
    states: list[State] = []
    client = Client(home.url, key, engine=engine)
    source = Pictures((numbered(number) for number in range(150)), fps=30)
    async with asyncio.timeout(PATIENCE), client.connect(source, on_state=lambda s: states.append(s.state)) as session:
        assert session.state is State.LIVE
        assert session.model is not None
        assert session.model.name == "invert"
        frames = [frame async for frame in session]
        assert session.latency is not None
        assert 0.0005 < session.latency < 1
    assert session.state is State.ENDED
    assert session.error is None
    assert states[-2:] == [State.LIVE, State.ENDED]
    assert len(frames) >= 135
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    off = [frame.index - number_in(frame.image) for frame in frames]
    assert sum(abs(each) <= 1 for each in off) >= 0.95 * len(off), off
    assert abs(np.median(off)) <= 1
    assert all(frame.time == pytest.approx(frame.index / 30) for frame in frames)
    assert frames[0].image.dtype == np.uint8
    assert frames[-1].image.shape == (180, 320, 3)


async def test_a_file_comes_back_styled_in_order(home: Home, key: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(home.url, key).connect(CLIP, model="invert") as session:
        frames = [frame async for frame in session]
    assert len(frames) >= 0.95 * 360
    wanted = {timed.time: timed for timed in read(CLIP)}
    for frame in frames[60::30]:
        source = min(wanted, key=lambda at: abs(at - frame.time))
        assert abs(source - frame.time) < 0.02
        luma, inverted = wanted[source].i420[:360].astype(int), frame.i420[:360].astype(int)
        assert np.abs(16 + 235 - luma - inverted).mean() < 12


def read(path: Path) -> list:
    file = File(path)
    file.open()
    try:
        return list(file.pictures())
    finally:
        file.close()


async def test_parameters_are_in_force_before_the_first_frame_and_can_be_changed(home: Home, key: str) -> None:
    grey = np.full((180, 320, 3), 55, np.uint8)
    client = Client(home.url, key)
    async with (
        asyncio.timeout(PATIENCE),
        client.connect(itertools.repeat(grey), params={"level": 155}, sync=False) as session,
    ):
        assert session.values == {"level": 155}
        async for frame in session:
            assert abs(frame.image.mean() - 100) < 20
            break
        assert await session.update(level=255) == {"level": 255}
        async for frame in session:
            if abs(frame.image.mean() - 200) < 10:
                break
        with pytest.raises(ClientError, match="level: expected a whole number from 0 to 255") as refused:
            await session.update({"level": 256})
        assert (refused.value.code, refused.value.retryable) == ("rejected", False)
        assert session.values == {"level": 255}
    with pytest.raises(ClientError) as over:
        await session.update(level=1)
    assert over.value.code == "closed"


async def test_parameters_that_are_refused_end_it_before_anything_is_sent(home: Home, key: str) -> None:
    with pytest.raises(ClientError, match="sytle") as refused:
        async with asyncio.timeout(PATIENCE), Client(home.url, key).connect(CLIP, params={"sytle": "candy"}):
            pass
    assert refused.value.code == "rejected"


async def test_another_model_than_expected_is_one_error(home: Home, key: str) -> None:
    with pytest.raises(ClientError, match="The node runs the model 'invert', not 'styles'") as wrong:
        async with asyncio.timeout(PATIENCE), Client(home.url, key).connect(CLIP, model="styles"):
            pass
    assert wrong.value.code == "wrong_model"


async def test_a_wrong_key_is_one_error(home: Home) -> None:
    with pytest.raises(ClientError) as refused:
        async with Client(home.url, "sk_TEST01_wrong").connect(CLIP):
            pass
    assert (refused.value.code, refused.value.retryable) == ("auth_failed", False)


async def test_no_free_slot_is_one_error_or_a_place_in_the_line(home: Home, key: str) -> None:
    client = Client(home.url, key)
    grey = itertools.repeat(np.full((180, 320, 3), 55, np.uint8))
    in_line = asyncio.Event()

    def on_state(session: Session) -> None:
        if session.state is State.FULL and session.place is not None and session.place.position == 1:
            in_line.set()

    async with asyncio.timeout(PATIENCE):
        async with client.connect(grey, sync=False):
            with pytest.raises(ClientError, match="No slot is free, number 1 in line") as full:
                async with client.connect(CLIP, wait=0):
                    pass
            assert (full.value.code, full.value.retryable) == ("pool_full", True)
            with pytest.raises(ClientError, match="No slot is free"):
                async with client.connect(CLIP, wait=0.5):
                    pass
            waiting = client.connect([numbered(1)] * 30, sync=False, on_state=on_state)
            second = asyncio.create_task(waiting.start())
            await in_line.wait()
        await second
        assert waiting.state is State.LIVE
        assert [frame async for frame in waiting]
        await waiting.close()


async def test_the_socket_is_cut_while_the_video_goes_on(home: Home, key: str) -> None:
    """As in a browser: no frame is missed for it, and commands go on, those over the socket too."""
    until(lambda: free(home), "the slot is free")
    with TcpProxy(home.port) as proxy:
        client = Client(f"ws://127.0.0.1:{proxy.port}", key)
        source = Pictures((numbered(number % 1024) for number in itertools.count()), fps=30)
        async with asyncio.timeout(PATIENCE), client.connect(source, sync=False) as session:
            await take(session, 30)
            (row,) = [row for row in home.sessions() if row.ended is None]
            proxy.refuse()
            proxy.cut()
            await take(session, 90)  # three seconds
            assert (await session.update(level=254))["level"] == 254
            proxy.accept()
            await asyncio.to_thread(until, lambda: proxy_has_client(proxy), "it has come back")
            await take(session, 60)
            assert session.state is State.LIVE
            assert session.error is None
            assert [each.id for each in home.sessions() if each.ended is None] == [row.id]
        until(lambda: free(home), "a Close frame has ended it")


def proxy_has_client(proxy: TcpProxy) -> bool:
    return bool(proxy._pairs)


async def take(session: Session, count: int) -> None:
    async for _ in session:
        count -= 1
        if count == 0:
            return


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Home]:
    with service(tmp_path, nodes=2) as made:
        yield made


async def test_a_node_that_is_lost_is_followed_by_another(two_nodes: Home) -> None:
    home = two_nodes
    errors: list[str] = []
    source = Pictures((numbered(number % 1024) for number in itertools.count()), fps=30)
    client = Client(home.url, home.client_key())
    async with (
        asyncio.timeout(PATIENCE),
        client.connect(source, sync=False, params={"level": 200}, on_error=lambda e: errors.append(e.code)) as session,
    ):
        await take(session, 15)
        (node,) = {row.node for row in home.sessions()}
        assert node is not None
        kill_node(home, node)
        while {row.node for row in home.sessions() if row.ended is None} <= {node, None, ""}:
            await take(session, 1)
        await take(session, 15)
        assert session.values == {"level": 200}
        assert errors
        assert session.state is State.LIVE


def kill_node(home: Home, node: str) -> None:
    (file,) = (home.folder / "nodes").glob(f"**/{node}/process.json")
    os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)


def test_without_async(home: Home, key: str) -> None:
    until(lambda: free(home), "the slot is free")
    with SyncClient(home.url, key).connect([numbered(n) for n in range(60)], params={"level": 254}) as session:
        assert session.state is State.LIVE
        assert session.model is not None
        assert session.update(level=255) == {"level": 255}
        frames = list(session)
    assert len(frames) >= 54
    assert session.state is State.ENDED
    session.close()
    with pytest.raises(RuntimeError, match="not open"):
        session.update(level=1)
    with pytest.raises(ClientError) as refused, connect(home.url, "sk_TEST01_wrong", CLIP):
        pass
    assert refused.value.code == "auth_failed"
