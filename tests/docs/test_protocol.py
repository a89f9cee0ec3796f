"""docs/protocol.md against the code: every example is decoded, and what the bridge writes is compared."""

import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest

import rtcbridge.core.extension as v2
import rtcbridge.core.messages as m
from docs.pages import ROOT, Block, blocks, prose
from rtcbridge.config import Config, Ice, IceServer
from rtcbridge.core.errors import EXTENDED_ERRORS, CloseCode, Error, ProtocolError
from rtcbridge.core.messages import Dialect, Status
from rtcbridge.core.node import Node, NodeState
from rtcbridge.drivers.ice import make_ice_servers
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.http import make_app
from rtcbridge.gateway.timers import TimerWheel
from rtcbridge.node import control, params
from rtcbridge.node.control import Control
from rtcbridge.node.model import ModelSpec
from rtcbridge.node.params import Param, Params, defaults
from rtcbridge.ports import Identity

PAGE = ROOT / "docs" / "protocol.md"
BLOCKS = blocks("json", pages=[PAGE])
TEXT = PAGE.read_text()


def lines(*infos: str) -> list[str]:
    return [line for block in BLOCKS if block.info in infos for line in block.text.splitlines()]


def types(*infos: str) -> set[str]:
    return {json.loads(line)["type"] for line in lines(*infos)}


def test_every_block_has_a_direction_that_is_tested() -> None:
    known = {
        "client→bridge", "client→bridge bad", "client→bridge v2", "bridge→client v2",
        "bridge→client", "node→bridge", "bridge→node", "bridge→node accepted",
        "client→node", "node→client", "node→client unasked", *(f"http {path}" for path in ANSWERS),
    }  # fmt: skip
    assert {block.info for block in BLOCKS} == known


# --- client and bridge ---


@pytest.mark.parametrize("line", lines("client→bridge"))
def test_what_a_client_sends_is_understood(line: str) -> None:
    message = m.decode_client(line)
    if isinstance(message, m.Credential):
        assert m.decode_credential(line) == message.payload.credential
    elif isinstance(message, m.Offer | m.Candidate):
        assert message.dialect is (Dialect.PAYLOAD if "payload" in json.loads(line) else Dialect.FLAT)


@pytest.mark.parametrize("line", lines("client→bridge v2"))
def test_what_a_client_of_the_extension_sends_is_understood(line: str) -> None:
    assert m.encode(v2.decode(line)) == line.encode()  # type: ignore[arg-type]  # those that are only relayed are above


@pytest.mark.parametrize("line", lines("client→bridge v2"))
def test_without_the_extension_it_is_not(line: str) -> None:
    with pytest.raises(ProtocolError, match="Invalid value"):
        m.decode_client(line)


@pytest.mark.parametrize("line", lines("bridge→client v2"))
def test_what_a_client_of_the_extension_is_sent_is_on_the_page_byte_for_byte(line: str) -> None:
    assert m.encode(msgspec.json.decode(line, type=v2.ToExtendedClient)) == line.encode()


def written(line: str) -> bytes:
    """What the bridge writes for the same content."""
    match json.loads(line):
        case {"type": "auth_success"}:
            return m.AUTH_SUCCESS
        case {"type": "node_status", "status": status}:
            return m.NODE_STATUS[Status(status)]
        case {"type": "server_provisioning"}:
            return m.SERVER_PROVISIONING
        case {"type": "error", "message": text}:
            return m.client_error(text)
        case {"type": "answer", "payload": {"sdp": sdp}}:
            return m.client_answer(m.raw(sdp), Dialect.PAYLOAD)
        case {"type": "answer", "sdp": sdp}:
            return m.client_answer(m.raw(sdp), Dialect.FLAT)
        case {"type": "candidate", "candidate": candidate}:
            return m.client_candidate(m.raw(candidate), Dialect.FLAT)
        case {"type": "ice_candidate", "payload": candidate}:
            return m.client_candidate(m.raw(candidate), Dialect.PAYLOAD)
    raise AssertionError(f"the bridge writes no such message: {line}")


@pytest.mark.parametrize("line", lines("bridge→client"))
def test_what_a_client_is_sent_is_on_the_page_byte_for_byte(line: str) -> None:
    assert written(line) == line.encode()


def test_bad_input_gets_the_errors_that_the_page_shows() -> None:
    bad = next(i for i, block in enumerate(BLOCKS) if block.info == "client→bridge bad")
    sent, told = BLOCKS[bad].text.splitlines(), BLOCKS[bad + 1].text.splitlines()
    for line, error in zip(sent, told, strict=True):
        with pytest.raises(ProtocolError) as caught:
            m.decode_client(line)
        assert m.client_error(str(caught.value)) == error.encode()


# --- node and bridge ---


@pytest.mark.parametrize("line", lines("node→bridge"))
def test_what_a_node_sends_is_understood_and_is_what_our_own_node_writes(line: str) -> None:
    if json.loads(line)["type"] == "REGISTER":
        assert m.encode(m.Register(m.decode_register(line))) == line.encode()
    else:
        assert m.encode(m.decode_node(line)) == line.encode()


def to_node(line: str) -> bytes:
    """What the bridge writes for the same content."""
    match json.loads(line):
        case {"type": "registered", "node": node, "epoch": epoch, "heartbeat": seconds}:
            return m.encode(m.Registered(node, epoch, seconds))
        case {"type": "offer", "session": session, "sdp": sdp, **more}:
            servers = [m.IceServer(**server) for server in more.get("ice_servers", ())]
            return m.with_ice(
                m.node_offer(session, bytes(m.raw(sdp))), servers, more.get("ice_transport_policy", "all")
            )
        case {"type": "candidate", "session": session, "candidate": candidate}:
            return m.node_candidate_prefix(session) + bytes(m.raw(candidate)) + b"}"
        case {"type": "session_end", "session": session, "reason": reason}:
            return m.encode(m.SessionEnd(session, reason))
        case {"type": "update", "session": session, "params": params, "id": number}:
            return m.encode(m.ToNodeUpdate(session, params, number))
        case {"type": "drain"}:
            return m.DRAIN
    raise AssertionError(f"the bridge writes no such message: {line}")


@pytest.mark.parametrize("line", lines("bridge→node"))
def test_what_a_node_is_sent_is_on_the_page_byte_for_byte(line: str) -> None:
    assert to_node(line) == line.encode()


@pytest.mark.parametrize("line", lines("bridge→node", "bridge→node accepted"))
def test_our_node_understands_what_a_node_may_be_sent(line: str) -> None:
    message = m.decode_from_bridge(line)
    given = json.loads(line)
    assert {name: msgspec.to_builtins(getattr(message, name)) for name in given.keys() - {"type"}} == {
        name: value for name, value in given.items() if name != "type"
    }


# --- the control channel ---


class Channel:
    """Keeps what the node sends."""

    label = control.LABEL
    buffered_amount = 0

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, text: str) -> None:
        self.sent.append(text)


def declared(entry: Mapping[str, Any]) -> Param:
    kinds = {kind.kind: kind for kind in (params.Float, params.Int, params.Bool, params.Choice, params.Text)}
    fields: dict[str, Any] = {key: value for key, value in entry.items() if key not in ("name", "kind")}
    if "choices" in fields:
        groups: dict[str, list[tuple[str, str]]] = {}
        for choice in fields["choices"]:
            groups.setdefault(choice.get("group", ""), []).append((choice["value"], choice["title"]))
        fields["choices"] = groups
    return kinds[entry["kind"]](**fields)


def test_the_control_channel_says_what_the_page_shows() -> None:
    first = json.loads(lines("node→client")[0])
    declaration = {entry["name"]: declared(entry) for entry in first["params"]}
    assert {param.kind for param in declaration.values()} == {"float", "int", "bool", "choice", "text"}
    spec = ModelSpec(first["name"], first["title"], declaration, "rgb", lambda frame: frame)
    values: list[Params] = [defaults(declaration)]
    channel: Any = Channel()
    end = Control(spec, lambda: values[-1], values.append)
    end.open(channel)
    for line in lines("client→node"):
        end.receive(channel, line)
    assert channel.sent == lines("node→client")

    channel.sent.clear()
    for line in lines("node→client unasked"):
        message = json.loads(line)
        if message.pop("type") == "stats":
            end.stats(**message)
        else:
            end.model_failed(message["message"])
    assert channel.sent == lines("node→client unasked")


# --- nothing is left out ---


def tagged() -> Iterator[tuple[type[msgspec.Struct], str]]:
    """The message structs of the code with their types."""
    for value in {**vars(m), **vars(v2)}.values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_config__.tag is not None:
            yield value, str(value.__struct_config__.tag)


def test_every_message_type_of_the_code_has_an_example() -> None:
    from_node = {m.Register, *typing.get_args(m.FromNode)}
    to_nodes = set(typing.get_args(m.FromBridge))
    assert types("node→bridge") == {tag for struct, tag in tagged() if struct in from_node}
    assert types("bridge→node") == {tag for struct, tag in tagged() if struct in to_nodes}
    by = dict(tagged())
    assert types("client→bridge") == {by[struct] for struct in typing.get_args(m.ClientWire)}
    assert types("bridge→client") == {by[struct] for struct in typing.get_args(m.ToClient)}
    assert types("client→bridge v2") == {by[struct] for struct in typing.get_args(v2.Added)}
    only = set(typing.get_args(v2.ToExtendedClient)) - set(typing.get_args(m.ToClient))
    assert types("bridge→client v2") == {by[struct] for struct in only}
    shown = from_node | to_nodes | {*typing.get_args(m.ClientWire), *typing.get_args(m.ToClient)}
    assert set(by) == shown | {*typing.get_args(v2.Added), *only}
    assert {json.loads(text)["status"] for text in lines("bridge→client") if "node_status" in text} == set(Status)


def test_both_dialects_have_an_example_of_each_message_that_differs() -> None:
    assert {(type(x), x.dialect) for x in map(m.decode_client, lines("client→bridge")) if hasattr(x, "dialect")} == {
        (kind, dialect) for kind in (m.Offer, m.Candidate) for dialect in Dialect
    }
    differ = {"answer", "candidate", "ice_candidate"}
    shown = {(json.loads(x)["type"], "payload" in x) for x in lines("bridge→client") if json.loads(x)["type"] in differ}
    assert shown == {("answer", False), ("answer", True), ("candidate", False), ("ice_candidate", True)}


def test_every_state_that_a_node_may_report_has_an_example() -> None:
    field = next(field for field in msgspec.structs.fields(m.SessionState) if field.name == "state")
    states = set(typing.get_args(field.type))
    assert {json.loads(line)["state"] for line in lines("node→bridge") if "session_state" in line} == states


def test_every_message_of_the_control_channel_has_an_example() -> None:
    source = inspect.getsource(control)
    asked = set(re.findall(r'case "(\w+)"', source))
    assert asked <= types("client→node")
    assert types("node→client", "node→client unasked") == set(re.findall(r'"type": "(\w+)"', source))


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = TEXT.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"^\|.*?(?=\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    assert table, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_the_table_of_errors_is_the_enum() -> None:
    shown = {cells[0].strip("`"): cells[2] for cells in rows("### 3.7 Errors")}
    documented = [error for error in Error if error not in EXTENDED_ERRORS]
    assert shown == {error.text: "yes" if error.retryable else "no" for error in documented}


def test_the_table_of_codes_is_the_enum() -> None:
    own_words = {
        Error.BAD_MESSAGE: "what was wrong, as in [3.8](#38-bad-input)",
        Error.UPDATE_REFUSED: "the model's reason",
    }
    assert rows("### 10.2 Errors") == [
        [f"`{error.code}`", own_words.get(error, f"`{error.text}`"), "yes" if error.retryable else "no"]
        for error in Error
    ]


def test_the_table_of_close_codes_is_the_enum() -> None:
    assert [int(cells[0]) for cells in rows("## 7. Close codes")] == sorted(CloseCode)


def test_the_table_of_limits_has_every_key_with_its_default() -> None:
    shown = {cells[0].strip("`"): float(cells[1]) for cells in rows("## 8. Limits")}
    config = Config()
    none_of_the_wire = {"host", "port", "public_url", "tls_cert", "tls_key", "trusted_proxies", "metrics"}
    assert shown == {
        f"{section}.{key}": value
        for section in ("server", "sessions", "nodes")
        for key, value in msgspec.structs.asdict(getattr(config, section)).items()
        if key not in none_of_the_wire
    }


def test_keys_named_in_the_text_exist() -> None:
    for section, key in re.findall(r"`(server|auth|sessions|nodes)\.(\w+)`", prose(PAGE)):
        assert hasattr(getattr(Config(), section), key), f"{section}.{key}"


def test_the_diagrams_name_messages_that_exist() -> None:
    known = {json.loads(line)["type"] for block in BLOCKS if not _special(block) for line in block.text.splitlines()}
    seen = set()
    for block in blocks("mermaid", pages=[PAGE]):
        for label in re.findall(r"^  \w+-[->x]+\w+: (.+)$", block.text, re.MULTILINE):
            if not label.startswith("("):
                seen.add(label.split()[0])
            if label.startswith("error "):
                assert label.removeprefix("error ") in {error.text for error in Error}
    assert len(seen) > 8
    assert seen <= known


def _special(block: Block) -> bool:
    return block.info.split()[0] == "http" or block.info.split()[-1] == "bad"


# --- HTTP ---

ANSWERS = ("/v1/pools", "/v1/ice-servers", "/v1/demo")


class Auth:
    """Knows one key."""

    def identify(self, credential: str) -> Identity | None:
        return Identity("1", project="TEST01") if credential == "sk_TEST01_x" else None


@pytest.fixture
def api() -> httpx.AsyncClient:
    unused: Any = None
    auth: Any = Auth()
    server = IceServer(urls=("turn:turn.example.org",), username="user", credential="secret")
    config = Config(ice=Ice(servers=(server,)))
    bridge = Bridge(config, auth, unused, TimerWheel(unused), lambda: 0.0)
    bridge.ice = make_ice_servers(config.ice)
    pool = bridge.pools["default"]
    node = Node("n", pool.spec, NodeState.READY, 0.0)
    node.labels = json.loads(next(line for line in lines("node→bridge") if '"labels"' in line))["payload"]["labels"]
    bridge.add_node(pool, node)
    app = make_app(bridge, lambda: True, "sk_DEMO00_my0Secret1Token2Value3")
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def test_the_http_api_answers_what_the_page_shows(api: httpx.AsyncClient) -> None:
    async with api:
        for block in BLOCKS:
            if block.info.startswith("http "):
                path = block.info.removeprefix("http ")
                response = await api.get(path, headers={"Authorization": "Bearer sk_TEST01_x"})
                assert (response.status_code, response.json()) == (200, json.loads(block.text)), path
        for path in ("/v1/pools", "/v1/ice-servers"):
            response = await api.get(path, headers={"Authorization": "Bearer sk_TEST01_y"})
            assert response.status_code == 401
            assert list(response.json()) == ["error"]
        assert [(await api.get(path)).text for path in ("/healthz", "/readyz")] == ["ok\n", "ready\n"]


def test_every_path_of_the_http_api_is_on_the_page() -> None:
    unused: Any = None
    app = make_app(Bridge(Config(), unused, unused, TimerWheel(unused), lambda: 0.0), lambda: True)
    paths = {route.path for route in app.routes if hasattr(route, "endpoint")}  # type: ignore[attr-defined]
    assert paths <= set(re.findall(r"`(?:GET|POST) (/[\w/.-]+)`", TEXT))
    assert set(ANSWERS) <= paths
