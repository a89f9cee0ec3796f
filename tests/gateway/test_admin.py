"""The admin API of a running bridge: who may ask, what it shows, what it does, and what outlives the bridge."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.bridges import Running, running
from rtcbridge.config import CommandOptions, Nodes, Pool
from rtcbridge.drivers.ledger import LedgerReader, admin_token, open_store
from rtcbridge.gateway.recent import WINDOW, RecentCount, Throttle
from rtcbridge.testing import FakeClient, FakeNode

ENDED = "The session was ended by the operator."
SLOW = Nodes(heartbeat=60.0)
# Commands that succeed at once: the tests play the machines themselves.
ELASTIC = Pool(
    name="default",
    provider="command",
    max_nodes=2,
    command=CommandOptions(create="true", start="true", stop="true", destroy="true"),
)


async def got(api: httpx.AsyncClient, path: str, **query: Any) -> Any:
    response = await api.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def posted(api: httpx.AsyncClient, path: str, body: Any = None) -> Any:
    response = await api.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(response: httpx.Response) -> tuple[int, str]:
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


async def seen(api: httpx.AsyncClient, path: str, condition: Callable[[Any], Any], **query: Any) -> Any:
    """Ask again and again until the answer is as it should be; return it."""
    async with asyncio.timeout(15):
        while not condition(answer := await got(api, path, **query)):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.01)
        return answer


# --- who may ask ---


async def test_only_an_admins_key_is_let_in(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        wrong = ("-", "ak_wrong", "ak_local_5_x", bridge.client_key, bridge.node_key, bridge.admin_key + "x")
        for path in ("/pools", "/nodes", "/sessions", "/bridge"):
            for key in wrong[:3]:
                async with bridge.admin(key) as api:
                    response = await api.get(path)
                assert refusal(response)[0] == 401
                assert response.headers["www-authenticate"] == "Bearer"
        async with bridge.admin() as api:
            assert (await got(api, "/pools"))["next"] is None
        for key in wrong[3:]:
            async with bridge.admin(key) as api:
                assert refusal(await api.post("/nodes/n/drain"))[0] == 401
                assert refusal(await api.patch("/pools/default", json={}))[0] == 401
        async with httpx.AsyncClient(verify=False, headers={"authorization": f"Basic {bridge.admin_key}"}) as other:
            assert refusal(await other.get(f"http://127.0.0.1:{bridge.port}/v1/admin/pools"))[0] == 401


async def test_an_admins_key_opens_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        async with FakeClient(bridge.url, bridge.admin_key) as client:
            assert await client.closed() == 1008
            assert client.inbox == []
        with pytest.raises(ConnectionError):
            await FakeNode(bridge.url, bridge.admin_key).connect()
        async with httpx.AsyncClient(verify=False, headers={"authorization": f"Bearer {bridge.admin_key}"}) as http:
            assert (await http.get(f"http://127.0.0.1:{bridge.port}/v1/pools")).status_code == 401


async def test_a_revoked_key_is_refused_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api:
        await got(api, "/bridge")
        (row,) = [row for row in bridge.keys.keys() if row.is_admin]  # noqa: SIM118 - no mapping
        bridge.keys.revoke_key(row.id)
        assert refusal(await api.get("/bridge"))[0] == 401


async def test_who_has_the_store_needs_no_key(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge:
        with open_store(f"sqlite:///{tmp_path}/bridge.db") as database:
            token = admin_token(database.secret, time.time())
            stale = admin_token(database.secret, time.time() - 100)
        async with bridge.admin(token) as api:
            assert (await got(api, "/bridge"))["pools"] == 1
        async with bridge.admin(stale) as api:
            assert refusal(await api.get("/bridge"))[0] == 401


async def test_wrong_keys_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin("ak_wrong") as api:
        with capture_logs() as logs:
            statuses = [(await api.get("/pools")).status_code for _ in range(40)]
        assert statuses[:20] == [401] * 20
        assert 429 in statuses[20:]
        assert statuses.count(401) == len([line for line in logs if line["event"] == "admin key refused"])
        assert "ak_" not in str(logs)


def test_an_address_is_refused_while_it_fails_too_often() -> None:
    throttle = Throttle(burst=3, rate=0.5, size=2)
    for _ in range(3):
        assert not throttle.blocks("192.0.2.1", 10.0)
        throttle.failed("192.0.2.1", 10.0)
    assert throttle.blocks("192.0.2.1", 10.0)
    assert not throttle.blocks("192.0.2.2", 10.0)
    assert throttle.blocks("192.0.2.1", 11.0)
    assert not throttle.blocks("192.0.2.1", 12.0), "one failure is forgotten in two seconds"
    for _ in range(3):
        throttle.failed("2001:db8::1", 20.0)
    assert throttle.blocks("2001:db8::ffff:2", 20.0), "of the same network"
    assert not throttle.blocks("2001:db8:1::1", 20.0)
    for address in ("192.0.2.3", "192.0.2.4"):
        throttle.failed(address, 20.0)
    assert not throttle.blocks("2001:db8::1", 20.0), "only the latest addresses are remembered"


def test_a_count_forgets_after_a_minute() -> None:
    count = RecentCount()
    for now in (100.0, 100.9, 130.0):
        count.add(now)
    assert [count.total(now) for now in (130.0, 159.9, 160.0, 189.0, 190.0, 10_000.0)] == [3, 3, 1, 1, 0, 0]
    count.add(10_000.0)
    assert count.total(10_000.0 + WINDOW - 1) == 1


# --- what it shows ---


async def test_pools_nodes_and_sessions(tmp_path: Path) -> None:
    began = time.time()
    async with running(tmp_path, nodes=SLOW) as bridge, bridge.admin() as api:
        labels = {"model": {"name": "m"}, "gpu": "T4"}
        async with bridge.node(capacity=1, labels=labels) as node, bridge.client() as live, bridge.client() as waits:
            await live.start_session()
            await waits.send("session_start")
            await waits.expect("node_status", status="full")
            await node.send("heartbeat", load=0.25, stats={"fps": 30})
            (pool,) = (await got(api, "/pools"))["items"]
            assert pool == await got(api, "/pools/default")
            assert began - 1 < pool.pop("waiting_since") < time.time()
            assert pool == {
                "name": "default",
                "provider": "static",
                "model": {"name": "m"},
                "slots": 1,
                "min_ready": 0,
                "beta": 0.0,
                "hold_beta": 0.0,
                "demand_window": 0.0,
                "max_nodes": None,
                "idle_timeout": 120.0,
                "stopped_reserve": 0,
                "overrides": {},
                "nodes": {"ready": 1},
                "sessions": 1,
                "free": 0,
                "coming": 0,
                "stopped": 0,
                "waiting": 1,
                "eta": None,
                "starts": 1,
                "breaker": None,
            }
            listed = await seen(api, "/nodes", lambda answer: answer["items"][0]["load"], pool="default")
            shown = listed["items"][0]
            assert shown == await got(api, "/nodes/node-1")
            assert began - 1 < shown.pop("since") < time.time()
            assert shown == {
                "id": "node-1",
                "pool": "default",
                "managed": False,
                "state": "ready",
                "deadline": None,
                "started": False,
                "capacity": 1,
                "sessions": 1,
                "linked": True,
                "load": 0.25,
                "stats": {"fps": 30},
                "epoch": 1,
                "order": "",
                "reason": "",
                "labels": labels,
            }
            second, first = sorted((await got(api, "/sessions"))["items"], key=lambda row: str(row["state"]))
            assert began - 1 < first["since"] < time.time()
            assert first["id"] in node.sessions
            assert (first["node"], first["project"], first["state"]) == ("node-1", "TEST01", "live")
            assert (first["connected"], first["position"], first["eta"]) == (True, None, None)
            assert (second["node"], second["state"], second["position"]) == ("", "full", 1)
            assert await got(api, f"/sessions/{second['id']}") == second
            for query, found in (
                ({"state": "live"}, [first]),
                ({"node": "node-1"}, [first]),
                ({"project": "TEST02"}, []),
                ({"pool": "default", "state": "full"}, [second]),
            ):
                assert (await got(api, "/sessions", **query))["items"] == found
            assert (await got(api, "/nodes", state="stopped"))["items"] == []
            info = await got(api, "/bridge")
            assert {name: info[name] for name in ("pools", "nodes", "sessions", "clients")} == {
                "pools": 1,
                "nodes": 1,
                "sessions": 2,
                "clients": 2,
            }
            assert began - 1 < info["started"] <= info["now"] < time.time() + 1


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api:
        clients = [bridge.client() for _ in range(7)]
        for client in clients:
            await client.connect()
            await client.send("session_start")
            await client.expect("node_status", status="full")
        line = [*bridge.server.bridge.pools["default"].line]
        every = [row["id"] for row in (await got(api, "/sessions"))["items"]]
        assert every == sorted(every)
        assert len(every) == 7
        for order, expected in (("oldest", every), ("newest", every[::-1])):
            pages, after = [], ""
            while after is not None:
                answer = await got(api, "/sessions", limit=3, after=after, order=order)
                pages.append([row["id"] for row in answer["items"]])
                after = answer["next"]
            assert [len(page) for page in pages] == [3, 3, 1]
            assert sum(pages, []) == expected  # noqa: RUF017
        places = {row["id"]: row["position"] for row in (await got(api, "/sessions"))["items"]}
        assert places == {session: place for place, session in enumerate(line, start=1)}
        assert (await got(api, "/sessions", limit=7))["next"] is None
        for client in clients:
            await client.close()


async def test_a_page_ends_before_it_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtcbridge.gateway.admin.MAX_PAGE_BYTES", 50_000)
    async with running(tmp_path) as bridge, bridge.admin() as api:
        nodes = [bridge.node(node=f"n{number}", labels={"text": "x" * 30_000}) for number in range(4)]
        for node in nodes:
            await node.connect()
        answer = await got(api, "/nodes")
        assert [row["id"] for row in answer["items"]] == ["n0", "n1"]
        assert answer["next"] == "n1"
        assert [row["id"] for row in (await got(api, "/nodes", after="n1"))["items"]] == ["n2", "n3"]
        for node in nodes:
            await node.close()


async def test_what_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api:
        for path, status, text in (
            ("/sessions?limit=0", 400, "limit: expected a whole number from 1 to 1000, got '0'"),
            (
                "/sessions?limit=0000000019999",
                400,
                "limit: expected a whole number from 1 to 1000, got '0000000019999'",
            ),
            ("/nodes?limit=x", 400, "limit: expected a whole number from 1 to 1000, got 'x'"),
            ("/sessions?order=best", 400, "order: expected oldest or newest, got 'best'"),
            ("/nodes?pool=no", 400, "pool: expected one of default, got 'no'"),
            ("/nodes/n", 404, "There is no node 'n'."),
            ("/sessions/s", 404, "There is no session 's'."),
            ("/pools/p", 404, "There is no pool 'p'."),
            (f"/pools/{'p' * 100}", 404, f"There is no pool '{'p' * 57}…'."),
            ("/nothing", 404, "Not Found"),
            ("/nodes/n/drain", 405, "Method Not Allowed"),
        ):
            assert refusal(await api.get(path)) == (status, text)


# --- sessions are ended ---


async def test_a_live_session_is_ended(tmp_path: Path) -> None:
    async with (
        running(tmp_path, nodes=SLOW) as bridge,
        bridge.admin() as api,
        bridge.node() as node,
        bridge.client() as client,
    ):
        await client.start_session()
        (session,) = node.sessions
        with capture_logs() as logs:
            shown = await posted(api, f"/sessions/{session}/end", {"reason": "moved to Berlin"})
        assert (shown["id"], shown["state"], shown["node"]) == (session, "ended", "node-1")
        assert (await client.expect("error"))["message"] == ENDED
        ended = await node.expect("session_end")
        assert (ended["session"], ended["reason"]) == (session, "ended by the operator: moved to Berlin")
        assert refusal(await api.post(f"/sessions/{session}/end"))[0] == 404
        assert await client.start_session("again") == "answer to again", "the same socket may start another"
        (line,) = [line for line in logs if line["event"] == "admin"]
        assert line == {
            "event": "admin",
            "log_level": "info",
            "action": "end session",
            "key": "3",
            "address": "127.0.0.1",
            "session": session,
            "node": "node-1",
            "reason": "moved to Berlin",
        }
        (row,) = [row for row in await ledger_of(bridge, tmp_path) if row.id == session]
        assert row.reason == "ended by the operator: moved to Berlin"
        assert row.ended is not None


async def ledger_of(bridge: Running, folder: Path) -> list[Any]:
    await bridge.server._ledger.flush()
    with open_store(f"sqlite:///{folder}/bridge.db") as database:
        return list(LedgerReader(database).sessions())


async def test_a_client_in_line_loses_its_place(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as bridge,
        bridge.admin() as api,
        bridge.client() as first,
        bridge.client() as second,
    ):
        for client in (first, second):
            await client.send("session_start")
            await client.expect("node_status", status="full")
        ids = {row["position"]: row["id"] for row in (await got(api, "/sessions"))["items"]}
        await posted(api, f"/sessions/{ids[1]}/end")
        assert (await first.expect("error"))["message"] == ENDED
        (left,) = (await got(api, "/sessions"))["items"]
        assert (left["id"], left["position"]) == (ids[2], 1)
        async with bridge.node():
            await second.expect("node_status", status="waiting")
            await first.send("session_start")
            await first.expect("node_status", status="full")
            assert [message["type"] for message in first.inbox] == ["auth_success"]


async def test_a_bad_body_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api, bridge.client() as client:
        await client.send("session_start")
        await client.expect("node_status")
        (row,) = (await got(api, "/sessions"))["items"]
        for body, status, text in (
            (b'{"reason": 5}', 400, "body: Expected `str`, got `int` - at `$.reason`"),
            (b'{"reason": "a\\nb"}', 400, "body: Expected `str` matching regex"),
            (b'{"why": ""}', 400, "body: Object contains unknown field `why`"),
            (b"[]", 400, "body: Expected `object`, got `array`"),
            (b"{", 400, "body: Input data was truncated"),
            (b"\xff", 400, "body: "),
            (b"[" * 10_000, 400, "body: "),
            (b'{"reason": "' + b"x" * 20_000 + b'"}', 413, "The body is over 16384 bytes."),
        ):
            answer = refusal(await api.post(f"/sessions/{row['id']}/end", content=body))
            assert answer[0] == status
            assert answer[1].startswith(text)
            assert (await got(api, "/sessions"))["items"] == [row]


# --- settings of pools ---


def elastic(**settings: Any) -> dict[str, Any]:
    return {"pools": (Pool(**{name: getattr(ELASTIC, name) for name in ("name", "provider", "command")}, **settings),)}


async def test_a_floor_changed_at_run_time_makes_nodes(tmp_path: Path) -> None:
    async with running(tmp_path, **elastic(max_nodes=2)) as bridge, bridge.admin() as api:
        with capture_logs() as logs:
            response = await api.patch("/pools/default", json={"min_ready": 2})
        assert response.status_code == 200
        shown = response.json()
        assert shown["min_ready"] == 2
        assert shown["overrides"] == {"min_ready": {"value": 2, "config": 0}}
        (line,) = [line for line in logs if line["event"] == "admin"]
        assert (line["action"], line["pool"], line["min_ready"], line["key"]) == ("change pool", "default", 2, "3")
        await seen(api, "/nodes", lambda answer: [row["state"] for row in answer["items"]] == ["booting", "booting"])
        assert (await got(api, "/pools"))["items"][0]["coming"] == 2


async def test_a_maximum_changed_at_run_time_counts_for_those_in_line(tmp_path: Path) -> None:
    async with (
        running(tmp_path, **elastic(max_nodes=1)) as bridge,
        bridge.admin() as api,
        bridge.client() as first,
        bridge.client() as second,
    ):
        await first.send("session_start")
        await first.expect("node_status", status="pending")
        await second.send("session_start")
        await second.expect("node_status", status="full")
        assert (await api.patch("/pools/default", json={"max_nodes": 2})).status_code == 200
        await second.expect("node_status", status="pending")
        await seen(api, "/nodes", lambda answer: len(answer["items"]) == 2)


async def test_changed_settings_outlive_the_bridge_until_they_are_reset(tmp_path: Path) -> None:
    sections = elastic(max_nodes=3)
    async with running(tmp_path, **sections) as bridge, bridge.admin() as api:
        await api.patch("/pools/default", json={"max_nodes": 9, "idle_timeout": 60})
        await api.patch("/pools/default", json={"beta": 1.5})
    async with running(tmp_path, **sections) as bridge, bridge.admin() as api:
        shown = await got(api, "/pools/default")
        assert (shown["max_nodes"], shown["idle_timeout"], shown["beta"]) == (9, 60.0, 1.5)
        assert shown["overrides"] == {
            "max_nodes": {"value": 9, "config": 3},
            "idle_timeout": {"value": 60.0, "config": 120.0},
            "beta": {"value": 1.5, "config": 0.0},
        }
        shown = (await api.patch("/pools/default", json={"max_nodes": None, "beta": None})).json()
        assert (shown["max_nodes"], shown["beta"]) == (3, 0.0)
        assert list(shown["overrides"]) == ["idle_timeout"]
        shown = (await api.patch("/pools/default", json={"idle_timeout": None})).json()
        assert shown["overrides"] == {}
    async with running(tmp_path, **sections) as bridge, bridge.admin() as api:
        assert (await got(api, "/pools/default"))["overrides"] == {}


async def test_changed_settings_that_no_longer_fit_are_left_out(tmp_path: Path) -> None:
    async with running(tmp_path, **elastic(max_nodes=1)) as bridge, bridge.admin() as api:
        await api.patch("/pools/default", json={"max_nodes": 5})
    with capture_logs() as logs:
        async with running(tmp_path) as bridge, bridge.admin() as api:
            shown = await got(api, "/pools/default")
            assert (shown["provider"], shown["overrides"]) == ("static", {})
    (line,) = [line for line in logs if "no longer fit" in line["event"]]
    assert line["pool"] == "default"
    async with running(tmp_path, **elastic(max_nodes=1)) as bridge, bridge.admin() as api:
        assert (await got(api, "/pools/default"))["max_nodes"] == 5, "they were kept"


async def test_a_setting_that_is_not_allowed_changes_nothing(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"max_nodes": -1}, "max_nodes: expected a whole number from 0 to 10000, got -1"),
        ({"max_nodes": "5"}, 'max_nodes: expected a whole number from 0 to 10000, got "5"'),
        ({"max_nodes": 2.5}, "max_nodes: expected a whole number from 0 to 10000, got 2.5"),
        ({"idle_timeout": 0}, "idle_timeout: expected a number above 0"),
        ({"max_node": 5}, "max_node: no such setting; did you mean max_nodes?"),
        ({"provider": "static"}, "provider: no such setting; "),
        ({"min_ready": 9}, "pool default: min_ready: expected at most max_nodes times slots = 2, got 9"),
        ({"min_ready": 1, "max_nodes": 0}, "pool default: min_ready: expected at most max_nodes times slots = 0"),
    ]
    async with running(tmp_path, **elastic(max_nodes=2)) as bridge, bridge.admin() as api:
        before = await got(api, "/pools/default")
        for changes, text in cases:
            with capture_logs() as logs:
                status, error = refusal(await api.patch("/pools/default", json=changes))
            assert status == 400
            assert error.startswith(text)
            assert await got(api, "/pools/default") == before
            assert [line["refused"] for line in logs if line["event"] == "admin"] == [error]


async def test_a_static_pool_has_nothing_to_change(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api:
        answer = refusal(await api.patch("/pools/default", json={"max_nodes": 5}))
        assert answer == (400, "a static pool makes no nodes: it has nothing to change")


async def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    async with running(tmp_path, **elastic(max_nodes=2)) as bridge, bridge.admin() as api:
        changes = [{"max_nodes": 7}, {"beta": 2.0}, {"idle_timeout": 30.0}, {"stopped_reserve": 1}]
        await asyncio.gather(*(api.patch("/pools/default", json=change) for change in changes))
        shown = await got(api, "/pools/default")
        assert {name: entry["value"] for name, entry in shown["overrides"].items()} == {
            "max_nodes": 7, "beta": 2.0, "idle_timeout": 30.0, "stopped_reserve": 1,
        }  # fmt: skip


async def test_a_change_that_cannot_be_stored_is_not_made(tmp_path: Path) -> None:
    async with running(tmp_path, **elastic(max_nodes=2)) as bridge, bridge.admin() as api:
        with open_store(f"sqlite:///{tmp_path}/bridge.db") as database, database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE overrides RENAME TO hidden")
        status, error = refusal(await api.patch("/pools/default", json={"max_nodes": 5}))
        assert status == 503
        assert "cannot be written" in error
        assert (await got(api, "/pools/default"))["max_nodes"] == 2


# --- nodes ---


async def test_why_no_nodes_are_made_is_shown(tmp_path: Path) -> None:
    broken = Pool(
        name="default",
        provider="command",
        max_nodes=9,
        min_ready=9,
        command=CommandOptions(create="echo no GPU today >&2; false", start="true", stop="true", destroy="true"),
    )
    async with running(tmp_path, pools=(broken,)) as bridge, bridge.admin() as api:
        shown = await seen(api, "/pools/default", lambda pool: pool["breaker"])
        assert shown["breaker"].startswith("the provider keeps failing, and it is tried again in ")
        assert "no GPU today" in shown["breaker"]


async def test_a_nodes_life_by_hand(tmp_path: Path) -> None:
    async with running(tmp_path, nodes=SLOW, **elastic(min_ready=1, max_nodes=1)) as bridge, bridge.admin() as api:
        answer = await seen(api, "/nodes", lambda answer: answer["items"] and answer["items"][0]["state"] == "booting")
        id = answer["items"][0]["id"]
        machine = FakeNode(bridge.url, bridge.keys.node_token(id), node=id)
        assert (await api.patch("/pools/default", json={"min_ready": 0})).status_code == 200
        async with machine, bridge.client() as client:
            await client.start_session()
            shown = await posted(api, f"/nodes/{id}/drain")
            assert (shown["id"], shown["state"], shown["sessions"]) == (id, "draining", 1)
            await machine.expect("drain")
            assert (await posted(api, f"/nodes/{id}/drain"))["state"] == "draining", "asked for twice"
            assert refusal(await api.post(f"/nodes/{id}/start"))[0] == 409
            assert client.inbox == [{"type": "auth_success"}]
            await client.close()
        await seen(api, f"/nodes/{id}", lambda row: row["state"] == "stopped")
        with capture_logs() as logs:
            assert refusal(await api.post(f"/nodes/{id}/drain"))[0] == 409
            shown = await posted(api, f"/nodes/{id}/start")
        assert shown["state"] == "starting"
        lines = [line for line in logs if line["event"] == "admin"]
        assert [(line["action"], line["node"], line["key"], line["log_level"]) for line in lines] == [
            ("drain node", id, "3", "warning"),
            ("start node", id, "3", "info"),
        ]
        assert lines[0]["refused"]
        await posted(api, f"/nodes/{id}/destroy")
        await seen(api, "/nodes", lambda answer: not answer["items"])


@pytest.mark.parametrize("action", ["stop", "destroy"])
async def test_the_clients_of_a_node_that_is_stopped_go_to_the_front_of_the_line(tmp_path: Path, action: str) -> None:
    async with (
        running(tmp_path, nodes=SLOW, **elastic(min_ready=1, max_nodes=1)) as bridge,
        bridge.admin() as api,
        bridge.client() as client,
        bridge.client() as later,
    ):
        answer = await seen(api, "/nodes", lambda answer: answer["items"] and answer["items"][0]["state"] == "booting")
        id = answer["items"][0]["id"]
        async with FakeNode(bridge.url, bridge.keys.node_token(id), node=id) as node:
            await client.start_session()
            await later.send("session_start")
            await later.expect("node_status", status="full")
            await posted(api, f"/nodes/{id}/{action}")
            await client.expect("error", message="The node was lost.")
            await client.expect("node_status")
            assert await node.closed() == 1012
            _, rejoined = (await got(api, "/sessions"))["items"]
            assert rejoined["position"] == 1, "before the one that came earlier"
            if action == "stop":
                shown = await seen(api, f"/nodes/{id}", lambda row: row["state"] == "stopped")
                assert shown["order"] == "stop"
                await posted(api, f"/nodes/{id}/start")
                await node.connect()
                await client.expect("node_status", status="waiting")


async def test_what_cannot_be_done_is_one_clear_error(tmp_path: Path) -> None:
    async with running(tmp_path) as bridge, bridge.admin() as api, bridge.node():
        assert refusal(await api.post("/nodes/n/drain")) == (404, "There is no node 'n'.")
        status, error = refusal(await api.post("/nodes/node-1/stop"))
        assert status == 409
        assert error.startswith("node node-1 was started by hand: ")
        assert refusal(await api.post("/nodes/node-1/explode")) == (
            404,
            "Nodes have no explode: expected destroy, drain, start, stop.",
        )
        bridge.server._admin.actions = None  # as while it starts or stops
        assert refusal(await api.post("/nodes/node-1/drain"))[0] == 503
