"""Chromium and a node that cannot reach each other: all they have is the bridge, and a real coturn."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from e2e.conftest import ARGS
from e2e.page import OBSERVE, LivePage
from gateway.programs import RTCBRIDGE, Home, Program, environment, until
from turn.networks import SERVICE, Networks, networks
from turn.server import Coturn, coturn, needs_coturn, secret

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_coturn]

PORT, TURN_PORT = 8080, 3478
CONFIG = f"""
[server]
host = "0.0.0.0"
port = {PORT}
[sessions]
connect_timeout = 8
[[pools]]
name = "default"
provider = "static"
slots = 1
"""
ICE = (
    '[ice]\npolicy = "{policy}"\n[ice.coturn]\nurls = ["turn:' + SERVICE + ':3478"]\nsecret = "{secret}"\nttl = {ttl}\n'
)
# Keeps the page's connections, and what they were told of credentials.
KEEP = """
window.connections = [];
window.names = [];
const Made = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Made {
  constructor(...args) { super(...args); window.connections.push(this); }
  setConfiguration(configuration) {
    super.setConfiguration(configuration);
    for (const { username } of configuration.iceServers ?? []) window.names.push(username);
  }
};
"""
_PAIR = """async () => {
  const report = await window.connections.at(-1).getStats();
  const all = [...report.values()];
  const { selectedCandidatePairId: id } = all.find(({ type, selectedCandidatePairId }) =>
    type === "transport" && selectedCandidatePairId) ?? {};
  const pair = report.get(id);
  if (!pair) return null;
  const local = report.get(pair.localCandidateId), remote = report.get(pair.remoteCandidateId);
  return { id, local: local.candidateType, remote: remote.candidateType, remotes: all
    .filter(({ type }) => type === "remote-candidate").map(({ candidateType }) => candidateType) };
}"""
_LOCAL = "() => window.connections.at(-1).localDescription.sdp"


@dataclass
class World:
    """A bridge and a coturn in the middle, a node on one side, and on the other a browser with one page."""

    networks: Networks
    home: Home
    turn: Coturn | None
    node: Program
    page: LivePage

    def open(self) -> None:
        self.page.page.goto(f"http://{SERVICE}:{PORT}/?autostart=clip#key={self.home.client_key()}")

    def start(self) -> None:
        self.open()
        self.page.is_in("live")

    def pair(self) -> dict[str, Any]:
        """The pair of candidates in use, as Chromium has it."""
        return dict(until(lambda: self.page.page.evaluate(_PAIR), "a selected pair"))

    def names(self) -> list[str]:
        """The names in the credentials that the page's connection was given."""
        return list(self.page.page.evaluate("() => window.names"))

    def relayed(self) -> list[str]:
        assert self.turn is not None
        return self.turn.relayed_for()


Build = Callable[..., World]


@pytest.fixture
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


def browser_in(playwright: Playwright, place: Networks, folder: Path) -> Browser:
    """Start Chromium in the client's network. Playwright talks to it through pipes."""
    start = folder / "chromium.sh"
    start.write_text(f'#!/bin/sh\nexec {" ".join(place.inside(place.client))} {shutil.which("chromium")} "$@"\n')
    start.chmod(0o755)
    secure = f"--unsafely-treat-insecure-origin-as-secure=http://{SERVICE}:{PORT}"
    return playwright.chromium.launch(executable_path=start, args=[*ARGS, secure])


@pytest.fixture
def build(tmp_path: Path, playwright: Playwright) -> Iterator[Build]:
    with ExitStack() as stack:

        def make(engine: str = "wrtc", ttl: float = 600, policy: str = "all", turn: bool = True) -> World:
            place = stack.enter_context(networks())
            ice = ICE.format(policy=policy, secret=secret(), ttl=ttl) if turn else ""
            home = Home(tmp_path, CONFIG + ice)
            service = place.inside(place.service)
            bridge = Program(
                *service, *RTCBRIDGE, "serve", "--config", str(home.file), cwd=tmp_path,
                env=environment(RTCBRIDGE_LOG__FORMAT="json"),
            )  # fmt: skip
            stack.callback(bridge.dispose)
            bridge.event("listening")
            server = None
            if turn:
                server = stack.enter_context(coturn(tmp_path, SERVICE, port=TURN_PORT, inside=service))
            node = Program(
                *place.inside(place.node), *RTCBRIDGE, "node", "sketch", "--engine", engine,
                "--bridge", f"ws://{SERVICE}:{PORT}", "--key", home.node_key(),
            )  # fmt: skip
            stack.callback(node.dispose)
            node.line("registered")
            browser = browser_in(playwright, place, tmp_path)
            stack.callback(browser.close)
            context = browser.new_context(viewport={"width": 1000, "height": 800})
            context.add_init_script(OBSERVE + KEEP)
            page: Page = context.new_page()
            return World(place, home, server, node, LivePage(page))

        yield make


def reaches(place: Networks, network: str, address: str, listener: str) -> bool:
    """Whether a datagram from this network arrives at the address, which is in the network `listener`."""
    hear = "import socket; s=socket.socket(2,2); s.bind(('0.0.0.0',4444)); s.settimeout(2); print('up',flush=True); "
    heard = subprocess.Popen(
        [*place.inside(listener), sys.executable, "-c", hear + "print(s.recv(9))"], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert heard.stdout is not None
    heard.stdout.readline()
    say = f"import socket; socket.socket(2,2).sendto(b'hello',('{address}',4444))"
    subprocess.run([*place.inside(network), sys.executable, "-c", say], check=True, capture_output=True)
    return "hello" in heard.communicate()[0]


def test_client_and_node_have_no_way_to_each_other_but_both_one_to_the_service() -> None:
    with networks() as place:
        assert reaches(place, place.client, SERVICE, place.service)
        assert reaches(place, place.node, SERVICE, place.service)
        assert not reaches(place, place.client, "203.0.113.2", place.node)
        assert not reaches(place, place.node, "198.51.100.2", place.client)


def test_without_a_turn_server_there_is_no_video(build: Build) -> None:
    world = build(turn=False)
    world.open()
    world.page.says("No video got through to the node.")
    assert "live" not in world.page.states()


@pytest.mark.parametrize("engine", ["wrtc", "aiortc"])
def test_video_through_coturn(build: Build, engine: str) -> None:
    world = build(engine)
    world.start()
    world.page.advance(30)
    pair = world.pair()
    assert "relay" in (pair["local"], pair["remote"])
    watched = world.page.watch()
    assert watched.result.motion > 1
    users = {name.partition(":")[2] for name in world.relayed()}
    (session,) = [row.id for row in world.home.sessions()]
    assert {session, f"{session}-node"} <= users, "each side relays with the credentials of its own"


@pytest.mark.parametrize("engine", ["wrtc", "aiortc"])
def test_with_the_policy_relay_neither_side_learns_the_others_address(build: Build, engine: str) -> None:
    world = build(engine, policy="relay")
    world.start()
    world.page.advance(30)
    pair = world.pair()
    assert (pair["local"], set(pair["remotes"])) == ("relay", {"relay"})
    sdp = until(lambda: (text := world.page.page.evaluate(_LOCAL)) and "typ relay" in text and text, "candidates")
    assert set(re.findall(r"candidate:.* typ (\w+)", sdp)) == {"relay"}
    assert "198.51.100." not in sdp


@pytest.mark.parametrize("engine", ["wrtc", "aiortc"])
def test_the_client_moves_to_another_address_after_its_first_credentials_have_expired(
    build: Build, engine: str
) -> None:
    world = build(engine, ttl=6)
    world.start()
    world.page.advance(30)
    first = min(int(name.partition(":")[0]) for name in world.relayed())
    began = len(world.relayed())
    before = world.pair()
    # Two renewals later what it was told at first has expired, while the video goes on.
    until(lambda: len(set(world.names())) >= 3, "two renewals", 60)
    world.page.advance(30)
    assert (world.pair()["id"], len(world.relayed())) == (before["id"], began), "a renewal alone interrupts nothing"
    world.page.watch_gaps()

    live = len(world.page.states())
    world.networks.move()
    until(
        lambda: world.page.states()[live:][-1:] == ["live"] and world.pair()["id"] != before["id"], "another path", 60
    )
    assert world.page.states()[live:][0] == "reconnecting"
    world.page.advance(60)
    assert world.page.peers() == 1, "the same connection, whose ICE was restarted"
    later = world.relayed()[began:]
    assert {name.partition(":")[2].endswith("-node") for name in later} == {True, False}
    assert min(int(name.partition(":")[0]) for name in later) > first, "with credentials that are still good"
    (row,) = world.home.sessions()
    assert row.ended is None, "the same session"
    frames, longest = world.page.gaps()
    print(json.dumps({"frames": frames, "longest gap, s": round(longest, 1)}))
    assert longest < 20
    assert world.page.page.evaluate("(params) => window.session.update(params)", {"strength": 0.5})["strength"] == 0.5
