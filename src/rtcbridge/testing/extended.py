"""A client of the extension `rtcbridge.v2`, for tests."""

import contextlib
import json
from typing import Any

from websockets.exceptions import ConnectionClosed

from rtcbridge.testing import FakeClient, Message, Peer

_UNCOUNTED = frozenset({"auth_success", "session_resume", "ack", "reconnect"})


class ExtendedClient(FakeClient):
    """A client that counts what it takes, keeps what it sends, and can go on with its session on another socket.

    A message that is sent while there is no socket is kept, too, and goes out when the session is resumed.

    Args:
        url: The bridge, `ws://HOST:PORT`.
        credential: `sk_…`.
        options: As of `Peer`.

    Attributes:
        session: The bridge's name for the session.
        token: What it is resumed with.
        taken: How many of the bridge's messages have been taken, over all sockets.
        sent: How many messages have been sent, over all sockets.
    """

    subprotocols = ("rtcbridge.v2",)

    def __init__(self, url: str, credential: str, **options: Any) -> None:
        super().__init__(url, credential, **options)
        self.session = self.token = ""
        self.taken = self.sent = 0
        self._kept: list[str] = []
        self._unanswered = 0  # offers
        self._resuming = False
        self._fresh = ("", "")  # session and token of the new socket, in case it cannot resume

    async def connect(self) -> None:
        """Dial and send the key: with this, a session of its own begins."""
        self.taken = self.sent = 0
        self._kept, self._unanswered, self._resuming = [], 0, False
        await super().connect()

    async def resume(self, of: "ExtendedClient | None" = None) -> Message:
        """Dial and take the session up again; return the bridge's `session_resume`, or its `error`.

        Args:
            of: Another client, whose session it is; this one's own if it is left out.
        """
        of = of or self
        self._resuming = True
        self.session, self.token, self.taken = of.session, of.token, of.taken
        self._kept, self._unanswered, self.sent = list(of._kept), of._unanswered, of.sent
        await super().connect()
        with contextlib.suppress(ConnectionClosed):
            await self.send_uncounted("session_resume", resume=of.token, received=of.taken)

        def answered() -> Message | None:
            found = (m for m in self.inbox if m["type"] == "session_resume" or "resume_" in m.get("code", ""))
            return next(found, None)

        answer: Message = await self.until(lambda: answered() or self.code, "the answer to session_resume")
        if not isinstance(answer, dict):
            raise ConnectionError(f"closed before it was resumed: {self.code}")
        self.inbox.remove(answer)
        self._resuming = False
        if answer["type"] == "error":
            self.session, self.token = self._fresh
            self.taken, self.sent, self._kept, self._unanswered = 1, 0, [], 0
            return answer
        if answer.get("anew"):
            self._kept = self._to_say_again()
            self.taken, self.sent = 0, len(self._kept)
            await self.acknowledge()
        else:
            del self._kept[: len(self._kept) - (self.sent - answer["received"])]
        for frame in list(self._kept):
            await self._try(frame)
        return answer

    def _to_say_again(self) -> list[str]:
        """What was not acknowledged and is still of use to a bridge that does not know how the session began."""
        types = [json.loads(frame)["type"] for frame in self._kept]
        answered = types.count("offer") - self._unanswered
        again: list[str] = []
        for type, frame in zip(types, self._kept, strict=True):
            if type == "session_start":  # what is before it was said to another session
                again.clear()
            answered -= type == "offer"
            if type != "session_start" and (type != "offer" or answered < 0):
                again.append(frame)
        return again

    async def send_raw(self, frame: str | bytes) -> None:
        """Send a frame that counts, be it right or wrong; without a socket it is sent when the session is resumed."""
        text = frame if isinstance(frame, str) else frame.decode()
        self.sent += 1
        self._kept.append(text)
        self._unanswered += text.startswith('{"type": "offer"')
        await self._try(text)

    async def send_uncounted(self, type: str, **fields: Any) -> None:
        """Send a message that has no number. Raises ConnectionClosed."""
        await super().send_raw(json.dumps({"type": type, **fields}))

    async def acknowledge(self) -> None:
        """Say how many messages have been taken."""
        await self.send_uncounted("ack", received=self.taken)

    async def _try(self, frame: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await super().send_raw(frame)

    async def _present(self, credential: str) -> None:
        await self.send_uncounted("CREDENTIAL", payload={"credential": credential})

    async def _arrived(self, message: Message) -> None:
        match message["type"]:
            case "auth_success" if self._resuming:
                self._fresh = message["session"], message["resume"]
            case "auth_success":
                self.session, self.token = message["session"], message["resume"]
            case "ack":
                del self._kept[: len(self._kept) - (self.sent - message["received"])]
            case "answer":
                self._unanswered = max(0, self._unanswered - 1)
        self.taken += message["type"] not in _UNCOUNTED
        await Peer._arrived(self, message)
