"""A process of nodes without media: they answer, count, and refuse what is over their capacity, if their gate is on."""

import asyncio
import os
import random
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec

from chaos.oracle import Of, Oracle
from chaos.wire import Ended, Wire

FIRST, ALL = 3, 6  # candidates with the answer, and in all; the last one is the end of the media
_REDIAL = 0.05  # seconds
_UNSENT = 1_000
_CONNECTING = 3.0  # seconds that media may take to come up
_LOOK = 0.05
_REMEMBERED = 2_000  # ended sessions


class Setting(msgspec.Struct):
    """What a process of nodes is told, as JSON."""

    urls: list[str]
    key: str
    pool: str
    nodes: list[str]
    rows: list[int]  # of the oracle: one a node, and then one of the process
    capacity: int
    claimed: int  # what they tell the bridge instead; 0: the same
    life: tuple[float, float]  # seconds of a session, at least and at most
    refusing: float  # probability that a node refuses a session
    gate: bool
    oracle: str
    log: str
    seed: int


class Node:
    """One node: as `rtcbridge node` in what it sends, keeps and refuses."""

    def __init__(self, setting: Setting, index: int, oracle: Oracle, log: int) -> None:
        self.setting, self.id = setting, setting.nodes[index]
        self.truth, self.counts = oracle.row(setting.rows[index]), oracle.row(setting.rows[-1])
        self.sessions: dict[str, int] = {}  # the number of the last candidate of each; with all of them media is up
        self._sent: dict[str, int] = {}
        self._tags: dict[str, str] = {}  # of the newest offer of each: its candidates have it, too
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._unsent: list[dict[str, Any]] = []
        self._due: list[str] = []  # sessions whose time is over while there is no bridge to tell
        self._wire: Wire | None = None
        self._log = log
        self._random = random.Random(f"{setting.seed} {self.id}")
        self.truth[Of.CAPACITY], self.truth[Of.NOW], self.truth[Of.UP] = setting.capacity, 0, 0

    async def run(self) -> None:
        """Dial one bridge after the other, for ever."""
        while True:
            url = self._random.choice(self.setting.urls)
            try:
                wire = await Wire.dial(f"{url}/node")
                await self._serve(wire)
            except OSError:
                self.counts[Of.REFUSED_DIAL] += 1
            self.truth[Of.UP] = 0
            await asyncio.sleep(_REDIAL * (1 + self._random.random()))

    async def _serve(self, wire: Wire) -> None:
        payload = {
            "credential": self.setting.key, "node": self.id, "pool": self.setting.pool,
            "capacity": self.setting.claimed or self.setting.capacity, "sessions": list(self.sessions),
        }  # fmt: skip
        wire.send(type="REGISTER", payload=payload)
        heart: asyncio.Task[None] | None = None
        try:
            while not isinstance(message := await wire.next(), Ended):
                if message["type"] == "registered":
                    self._registered(wire)
                    heart = asyncio.create_task(self._beat(wire, message["heartbeat"]))
                else:
                    self._take(message)
        finally:
            self._wire = None
            wire.drop()
            if heart is not None:
                heart.cancel()

    def _registered(self, wire: Wire) -> None:
        self._wire, self.truth[Of.UP] = wire, 1
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            if message["session"] in self.sessions:
                self._send(message)
        for session in self._connected():
            self._send({"type": "session_state", "session": session, "state": "connected"})
        due, self._due = self._due, []
        for session in due:
            self._finish(session, _CONNECTING)

    def _connected(self) -> list[str]:
        return [session for session, number in self.sessions.items() if number == ALL]

    async def _beat(self, wire: Wire, period: float) -> None:
        while True:
            wire.send(type="heartbeat", connected=self._connected())
            await asyncio.sleep(period)

    def _send(self, message: dict[str, Any]) -> None:
        if self._wire is not None and self._wire.open:
            self._wire.send(**message)
        elif message["type"] != "session_state" and len(self._unsent) < _UNSENT:
            self._unsent.append(message)

    def _take(self, message: dict[str, Any]) -> None:
        session = message.get("session", "")
        match message["type"]:
            case "offer":
                self._offer(session, message["sdp"])
            case "candidate" if session in self.sessions:
                self._candidate(session, message["candidate"]["candidate"])
            case "session_end":
                if session in self.sessions:
                    self._end(session, message["reason"])
                self._remember(session)

    def _offer(self, session: str, sdp: str) -> None:
        if session in self.sessions:
            self._offer_again(session, sdp)
            return
        self.truth[Of.OFFERS] += 1
        if (reason := self._refusal(session)) is not None:
            self._send({"type": "error", "session": session, "message": reason})
            return
        self.truth[Of.NOW] += 1
        self.truth[Of.PEAK] = max(self.truth[Of.PEAK], self.truth[Of.NOW])
        self.truth[Of.ACCEPTED_OVER] += self.truth[Of.NOW] > self.truth[Of.CAPACITY]
        self.sessions[session] = self._sent[session] = 0
        self._tags[session] = sdp
        self._note("+", session, "")
        self._send({"type": "answer", "session": session, "sdp": f"{sdp}|{session}"})
        self._trickle(session, FIRST)
        self._later(self._random.uniform(*self.setting.life), session, _CONNECTING)

    def _offer_again(self, session: str, sdp: str) -> None:
        """A client that was told anew that a node is waiting has offered anew; the same offer may not come twice."""
        if sdp == self._tags[session]:
            self.counts[Of.TWICE] += 1
            return
        self._tags[session], self.sessions[session], self._sent[session] = sdp, 0, 0
        self._send({"type": "answer", "session": session, "sdp": f"{sdp}|{session}"})
        self._trickle(session, FIRST)

    def _later(self, delay: float, session: str, patience: float) -> None:
        asyncio.get_running_loop().call_later(delay, self._finish, session, patience)

    def _refusal(self, session: str) -> str | None:
        if session in self._ended:
            return "the session has ended"
        if len(self.sessions) >= self.setting.capacity:
            self.truth[Of.OFFERED_OVER] += 1
            return "the node has no free slot" if self.setting.gate else None
        if self._random.random() < self.setting.refusing:
            self.truth[Of.REFUSED] += 1
            return "refused"
        return None

    def _candidate(self, session: str, text: str) -> None:
        tag, _, digits = text.rpartition("|")
        if tag != self._tags[session]:
            return  # of an offer that another has replaced
        number, last = int(digits), self.sessions[session]
        self.counts[Of.TO_NODE] += 1
        if number <= last:
            self.counts[Of.TWICE] += 1
        else:
            self.counts[Of.GAPS] += number - last - 1
            self.sessions[session] = number
            if number == ALL:
                self._send({"type": "session_state", "session": session, "state": "connected"})

    def _trickle(self, session: str, up_to: int) -> None:
        for number in range(self._sent[session] + 1, up_to + 1):
            candidate = {"candidate": f"{session}|{number}", "sdpMid": "0", "sdpMLineIndex": 0}
            self._send({"type": "candidate", "session": session, "candidate": candidate})
            self.counts[Of.TO_CLIENT] += 1
        self._sent[session] = up_to

    def _finish(self, session: str, patience: float) -> None:
        """The media has come to its end; one that never came up has so many seconds left."""
        if session not in self.sessions:
            return
        if self._wire is None or not self._wire.open:
            self._due.append(session)
            return
        up = self.sessions[session] == ALL
        if not up and patience > 0:
            self._later(_LOOK, session, patience - _LOOK)
            return
        self._trickle(session, ALL)
        self._send({"type": "session_state", "session": session, "state": "closed" if up else "failed"})
        self._end(session, "closed" if up else "failed")
        self._remember(session)

    def _end(self, session: str, why: str) -> None:
        self._note("-", session, f"{self.sessions[session]} {why}")
        del self.sessions[session], self._sent[session], self._tags[session]
        self.truth[Of.NOW] -= 1
        self.truth[Of.ENDS] += 1

    def _remember(self, session: str) -> None:
        self._ended[session] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _note(self, what: str, session: str, more: str) -> None:
        """A line of the log: "+" and "-" for the begin and the end of a session that it took."""
        os.write(self._log, f"{what} {session} {self.id} {time.time():.4f} {more}\n".encode())


async def main(setting: Setting) -> None:
    """Run until it is killed, or has come to its end."""
    log = os.open(setting.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    oracle = Oracle(Path(setting.oracle))
    nodes = [Node(setting, index, oracle, log) for index in range(len(setting.nodes))]
    await asyncio.gather(*[node.run() for node in nodes])


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setting)))
