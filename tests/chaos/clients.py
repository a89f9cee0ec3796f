"""A process of clients of the documented dialect, which come, reserve, offer, leave and come again."""

import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from chaos.nodes import ALL, FIRST
from chaos.oracle import Of, Oracle
from chaos.wire import Ended, Wire

_STUCK = 30.0  # seconds without a word, longer than any outage of a run
_REDIAL = 0.05
_NODE_LOST = "The node was lost."


class Setting(msgspec.Struct):
    """What a process of clients is told, as JSON."""

    urls: list[str]
    key: str
    clients: int
    row: int  # of the oracle
    leaving: float  # probability that a client goes when it has a slot, before its offer
    closing: float  # … that it ends the session, and not the node
    dropping: float  # … that it goes without a Close frame
    thinking: float  # seconds between the slot and the offer, at most
    visits: int  # sessions over one socket at most
    oracle: str
    log: str
    seed: int


class GoneError(Exception):
    """The socket has ended; `code` is that of the Close frame."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """One client."""

    def __init__(self, setting: Setting, number: int, oracle: Oracle, log: int) -> None:
        self.setting, self.oracle, self.counts = setting, oracle, oracle.row(setting.row)
        self._random = random.Random(f"{setting.seed} {number}")
        self._name, self._number, self._log = f"c{setting.row}.{number}", 0, log
        self._wire: Wire
        self._session = ""  # as its node calls it in the answer
        self._heard = 0  # the number of the node's last candidate

    async def run(self) -> None:
        """Come again and again, until it is to be quiet."""
        while self.oracle.phase == Oracle.RUNNING:
            try:
                self._wire = await Wire.dial(f"{self._random.choice(self.setting.urls)}/client")
                await self._visit()
            except OSError:
                self.counts[Of.REFUSED_DIAL] += 1
            except GoneError:
                pass
            await asyncio.sleep(_REDIAL * self._random.random())

    async def _visit(self) -> None:
        wire, chance = self._wire, self._random.random
        try:
            wire.send(type="CREDENTIAL", payload={"credential": self.setting.key})
            for _ in range(self._random.randint(1, self.setting.visits)):
                if self.oracle.phase != Oracle.RUNNING or not await self._meet():
                    break
        finally:
            if chance() < self.setting.dropping:
                wire.drop()
            else:
                wire.close()

    async def _meet(self) -> bool:
        """One session; return whether another may follow over this socket."""
        self._session, self._heard, self._begun = "", 0, 0.0
        self._number, self._offers = self._number + 1, 0
        self.counts[Of.ASKED] += 1
        self._wire.send(type="session_start")
        closing = self._random.random() < self.setting.closing
        how, self._trace = "error", list[str]()
        try:
            how = await self._follow(closing)
        except GoneError as gone:
            state = Of.LIVE_CUT if self._session else Of.CUT if self._begun else Of.TURNED_AWAY
            self.counts[state] += 1
            how = f"{state.name} {gone.code}"
            raise
        except TimeoutError:
            self.counts[Of.STUCK] += 1
            how = "stuck"
        finally:
            if self._begun:
                where = self._session or "?"
                line = f"{where} {self._begun:.4f} {time.time():.4f} {self._heard} {how} {' '.join(self._trace)}\n"
                os.write(self._log, line.encode())
        return how.startswith("error")  # what has ended well is not known to have ended at the bridge

    async def _follow(self, closing: bool) -> str:
        """Go on until the session has come to some end; return to which."""
        while True:
            message = await self._next()
            match message["type"]:
                case "node_status" if message["status"] == "waiting":
                    self.counts[Of.RESERVED] += 1
                    self._begun = time.time()
                    if self._random.random() < self.setting.leaving:
                        self.counts[Of.LEFT] += 1
                        return "left"
                    if self.setting.thinking:
                        await asyncio.sleep(self._random.random() * self.setting.thinking)
                    self._session, self._heard, self._offers = "", 0, self._offers + 1
                    self._wire.send(type="offer", sdp=self._tag)
                    self._trickle(1, FIRST)
                case "answer":
                    self._answered(message["sdp"])
                case "candidate":
                    if self._candidate(message["candidate"]["candidate"], closing):
                        return "closing" if closing else "finished"
                case "error":
                    lost = message["message"] == _NODE_LOST
                    self.counts[Of.LOST if lost else Of.ERRORS] += 1
                    if not lost:
                        return f"error {message['message']}"

    async def _next(self) -> dict[str, Any]:
        message = await self._wire.next(_STUCK)
        if isinstance(message, Ended):
            raise GoneError(message.code)
        if message["type"] != "candidate":
            self._trace.append(f"{time.time():.3f}:{message.get('status') or message['type']}")
        return message

    @property
    def _tag(self) -> str:
        return f"{self._name}.{self._number}.{self._offers}"

    def _answered(self, sdp: str) -> None:
        tag, _, session = sdp.partition("|")
        if tag != self._tag:
            mine, _, offer = tag.rpartition(".")
            self.counts[Of.FOREIGN] += mine != self._tag.rpartition(".")[0] or int(offer) > self._offers
            return  # to an offer that another has replaced
        self._session = session
        self.counts[Of.ANSWERED] += 1
        self._trickle(FIRST + 1, ALL)

    def _trickle(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            candidate = {"candidate": f"{self._tag}|{number}", "sdpMid": "0", "sdpMLineIndex": 0}
            self._wire.send(type="candidate", candidate=candidate)
            self.counts[Of.TO_NODE] += 1

    def _candidate(self, text: str, closing: bool) -> bool:
        """Count one of the node; return whether the session has come to its end."""
        session, _, number = text.partition("|")
        if session != self._session:
            self.counts[Of.FOREIGN] += bool(self._session)  # else it is of a session whose answer has been replaced
            return False
        self.counts[Of.TO_CLIENT] += 1
        if int(number) <= self._heard:
            self.counts[Of.TWICE] += 1
            return False
        self.counts[Of.GAPS] += int(number) - self._heard - 1
        self._heard = int(number)
        if self._heard >= (FIRST if closing else ALL):
            self.counts[Of.FINISHED] += 1
            return True
        return False


async def main(setting: Setting) -> None:
    """Run until it is killed, or has come to its end."""
    log = os.open(setting.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    oracle = Oracle(Path(setting.oracle))
    await asyncio.gather(*[Client(setting, number, oracle, log).run() for number in range(setting.clients)])


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setting)))
