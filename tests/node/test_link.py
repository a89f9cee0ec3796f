"""How long the node waits before it dials again, what a socket leaves unsent, and what its SDP helpers do."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidState

from rtcbridge.core.messages import NodeAnswer, Register, Registered, RegisterPayload, encode, raw
from rtcbridge.media import sdp
from rtcbridge.node.link import Link, LinkConfig, retry_delay


def test_the_first_retry_is_fast_and_the_last_are_bounded() -> None:
    assert retry_delay(0, 1.0) < 0.5
    assert retry_delay(0, 0.0) > 0
    waits = [retry_delay(n, 1.0) for n in range(2000)]
    assert waits == sorted(waits)
    assert max(waits) == 5.0
    assert retry_delay(50, 0.0) == 2.5


async def test_what_a_socket_leaves_unsent_is_handed_back_in_order() -> None:
    """The bridge closes; what the agent says meanwhile goes out on no socket."""
    closed, messages = asyncio.Event(), [NodeAnswer("s", raw(f"answer {number}")) for number in range(3)]
    unsent: list[Any] = []

    async def bridge(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(encode(Registered("n", 1, 5.0)), text=True)
        await socket.close(1012)
        closed.set()

    def keep(left: Sequence[Any]) -> None:
        unsent.extend(left)
        done.set()

    def registered(_: Registered) -> None:
        with contextlib.suppress(InvalidState):  # the bridge's Close frame has come already
            link._socket.protocol.send_close(1001)  # type: ignore[union-attr]  # as if it had
        for message in messages:
            assert link.send(message)

    done = asyncio.Event()
    async with serve(bridge, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hello = Register(RegisterPayload(credential="nk", node="n", pool="p"))
        link = Link(LinkConfig(f"ws://127.0.0.1:{port}/node"), lambda: hello, registered, lambda message: None, keep)
        running = asyncio.create_task(link.run())
        async with asyncio.timeout(10):
            await done.wait()
            await closed.wait()
            await link.close()
            await running
    assert unsent == messages


SDP = "\r\n".join(
    [
        "v=0",
        "a=group:BUNDLE 0 1",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:secret",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "a=mid:0",
        "a=recvonly",
        "a=rtpmap:111 opus/48000/2",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99",
        "a=mid:1",
        "a=ice-ufrag:efgh",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=rtpmap:98 VP9/90000",
        "a=fmtp:98 profile-id=0",
        "a=rtpmap:99 H264/90000",
        "a=fmtp:99 x-google-start-bitrate=700",
        "",
    ]
)


def test_sections_take_from_the_session_what_they_lack() -> None:
    assert sdp.media_sections(SDP) == [
        sdp.MediaSection("audio", "0", "recvonly", "abcd", "secret"),
        sdp.MediaSection("video", "1", "sendrecv", "efgh", "secret"),
    ]


@pytest.mark.parametrize("text", ["", "v=0", "m=", "a=mid:0\r\nm=video"])
def test_anything_can_be_read(text: str) -> None:
    assert len(sdp.media_sections(text)) == text.count("m=")
    sdp.with_start_bitrate(text, 1)


def test_an_end_without_candidates_is_none() -> None:
    end, candidate = "a=end-of-candidates\r\n", "a=candidate:1 1 udp 1 127.0.0.1 5000 typ host\r\n"
    assert sdp.without_empty_end(SDP + end) == SDP
    assert sdp.without_empty_end(SDP + candidate + end) == SDP + candidate + end


def test_the_start_bitrate_is_set_on_each_video_codec_that_has_none() -> None:
    lines = sdp.with_start_bitrate(SDP, 2500).split("\r\n")
    assert "a=fmtp:96 x-google-start-bitrate=2500" in lines
    assert "a=fmtp:98 profile-id=0;x-google-start-bitrate=2500" in lines
    assert "a=fmtp:99 x-google-start-bitrate=700" in lines
    assert "a=fmtp:97 apt=96" in lines
    assert not any(line.startswith("a=fmtp:111") for line in lines)
    assert len(lines) == len(SDP.split("\r\n")) + 1
    assert sdp.with_start_bitrate("\r\n".join(lines), 1) == "\r\n".join(lines)
