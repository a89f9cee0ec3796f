"""What only the store in PostgreSQL has: a server that dies, hangs, is cut off, or loses its answers."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import psycopg
import pytest

from drivers.tcp_proxy import TcpProxy
from drivers.test_ledger import node, session
from rtcbridge.drivers.ledger import Database, KeyMaker, KeyStore, LedgerReader, SessionLedger, open_store
from rtcbridge.drivers.ledger import ledger as module
from rtcbridge.drivers.ledger.postgres import Connection
from rtcbridge.ports import LedgerError

pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def proxy(postgres):
    with TcpProxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def behind(url, proxy):
    """The address of the store by way of the proxy."""
    return postgres_url(url, proxy.port)


def postgres_url(url, port):
    place, _, database = url.rpartition("/")
    return f"{place.rpartition(':')[0]}:{port}/{database}"


class Opened(NamedTuple):
    """A bridge's part of a store."""

    database: Database
    ledger: SessionLedger
    keys: KeyStore


@contextlib.asynccontextmanager
async def opened(url):
    with open_store(url) as database:
        ledger, keys = SessionLedger(database), KeyStore(database)
        try:
            yield Opened(database, ledger, keys)
        finally:
            await ledger.close()
            await asyncio.to_thread(keys.close)


async def until(true):
    async with asyncio.timeout(20):
        while not (found := await asyncio.to_thread(true)):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)
    return found


def answers(call):
    """What a call that asks the store returns; None while it cannot be asked."""

    def tried():
        with contextlib.suppress(LedgerError):
            return call()
        return None

    return tried


# --- what cannot be opened ---


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda url: url.replace("s%2Fe", "wrong"), 'password authentication failed for user "rtcbridge"'),
        (lambda url: url.rpartition("/")[0] + "/missing", 'database "missing" does not exist'),
        (lambda url: postgres_url(url, 1), "Connection refused"),
        (lambda url: url + "?sslmode=require", "server does not support SSL"),
        (lambda url: url + "?sslmode=perhaps", "invalid sslmode value"),
    ],
)
def test_what_cannot_be_opened_gives_one_line_without_the_password(url, change, expected):
    with pytest.raises(LedgerError) as raised:
        open_store(change(url))
    text = str(raised.value)
    assert expected in text
    assert text.startswith("store postgresql://rtcbridge@127.0.0.1:")
    assert "\n" not in text
    assert "s%2Fe" not in text
    assert "s/e" not in text
    assert "wrong" not in text


def test_a_parameter_that_is_none(url):
    with pytest.raises(LedgerError, match=r'^store\.url: invalid URI query parameter: "colour"$'):
        open_store(url + "?colour=red")


def test_a_server_that_says_nothing_is_given_up(behind, proxy):
    with proxy.paused(), pytest.raises(LedgerError, match="timeout"):
        open_store(behind + "?connect_timeout=2")


def test_without_the_driver_the_error_names_what_to_install(url):
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from rtcbridge.cli import main; raise SystemExit(main(['keys', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RTCBRIDGE_STORE__URL": url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == "rtcbridge keys list: store PostgreSQL: no module psycopg: pip install 'rtcbridge[postgres]'\n"
    )


# --- a server that goes away and comes back ---


async def test_a_server_that_dies_and_returns(postgres, url):
    async with opened(url) as bridge:
        key = bridge.keys.create_client_key("TEST01")
        bridge.ledger.session_started(session("before"))
        await bridge.ledger.flush()
        postgres.kill()
        bridge.ledger.session_started(session("while"))
        bridge.ledger.session_started(session("short"))
        bridge.ledger.session_ended("short", 8.0, "closed")
        bridge.ledger.session_ended("before", 9.0, "closed")
        with pytest.raises(LedgerError, match=r"^store postgresql://"):
            await bridge.ledger.save_node(node())
        with pytest.raises(LedgerError):
            await bridge.ledger.flush()
        assert bridge.keys.identify(key).project == "TEST01"
        assert bridge.keys.identify("sk_TEST01_nobody") is None
        assert bridge.keys.is_valid("1")
        postgres.start()
        rows = await until(lambda: sessions_if(bridge.database, 3))
        assert {row.id: (row.ended, row.reason) for row in rows} == {
            "before": (9.0, "closed"),
            "while": (None, ""),
            "short": (8.0, "closed"),
        }
        assert bridge.ledger.nodes() == [], "what was refused does not turn up later"
        await bridge.ledger.save_node(node("n2"))
        other = await asyncio.to_thread(KeyMaker(bridge.database).create_client_key, "TEST02")
        assert (await until(lambda: bridge.keys.identify(other))).project == "TEST02"


def sessions_if(database, count):
    with contextlib.suppress(LedgerError):
        rows = LedgerReader(database).sessions()
        return rows if len(rows) == count else None
    return None


async def test_a_restart_between_two_writes_is_not_noticed(postgres, url):
    """The pooled connection is dead, which the first statement finds out; then a new one is dialled."""
    async with opened(url) as bridge:
        await bridge.ledger.save_node(node())
        postgres.stop()
        postgres.start()
        await bridge.ledger.save_node(node(epoch=2))
        assert bridge.ledger.nodes() == [node(epoch=2)]


async def test_a_restart_in_the_midst_of_a_transaction(postgres, url, monkeypatch):
    """What it had written is rolled back, and written again."""
    inside, go_on = threading.Event(), threading.Event()
    write = module._Batch.write

    def slow(self, *to):
        write(self, *to)
        inside.set()
        go_on.wait(20)

    async with opened(url) as bridge:
        monkeypatch.setattr(module._Batch, "write", slow)
        bridge.ledger.session_started(session())
        saving = asyncio.create_task(bridge.ledger.save_node(node()))
        assert await asyncio.to_thread(inside.wait, 20)
        postgres.kill()
        postgres.start()
        with psycopg.connect(url) as beside:
            assert beside.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
        go_on.set()
        await saving
        assert bridge.ledger.nodes() == [node()]
        assert bridge.ledger.sessions() == [session()]


async def test_a_commit_whose_reply_is_lost_counts_once(behind, proxy):
    async with opened(behind) as bridge:
        bridge.ledger.session_started(session())
        await bridge.ledger.flush()
        for number, write in enumerate(
            (
                lambda: bridge.ledger.save_node(node(epoch=1)),
                lambda: bridge.ledger.flush(),
                lambda: bridge.ledger.delete_node("n1"),
            ),
            start=1,
        ):
            if number == 2:
                bridge.ledger.session_ended("s1", 9.0, "closed")
                bridge.ledger.session_started(session("s2", started=6.0))
            proxy.lose_reply_to(b"COMMIT")
            await write()
            assert proxy.lost == number
        assert bridge.ledger.sessions() == [session("s2", started=6.0), session(ended=9.0, reason="closed")]
        assert bridge.ledger.nodes() == []


async def test_a_server_that_is_silent_costs_a_bounded_time(behind, proxy, monkeypatch):
    monkeypatch.setattr(Connection, "silence", 0.3)
    async with opened(behind + "?connect_timeout=2") as bridge:
        key = bridge.keys.create_client_key("TEST01")
        with proxy.paused():
            bridge.ledger.session_started(session())
            with pytest.raises(LedgerError, match=r"timeout|has not answered for 0\.3 s"):
                await bridge.ledger.save_node(node())
            with pytest.raises(LedgerError, match=r"timeout|has not answered for 0\.3 s"):
                bridge.ledger.sessions()
            assert bridge.keys.identify(key)
        assert await until(answers(lambda: bridge.ledger.sessions() == [session()]))
        await bridge.ledger.save_node(node())


async def test_a_frozen_server_costs_a_bounded_time(postgres, url, monkeypatch):
    """Its kernel still answers for it, so that neither keep-alive nor the kernel's time-outs help."""
    monkeypatch.setattr(Connection, "silence", 0.3)
    async with opened(url + "?connect_timeout=2") as bridge:
        await bridge.ledger.save_node(node())
        with postgres.frozen():
            bridge.ledger.session_started(session())
            with pytest.raises(LedgerError):
                await bridge.ledger.save_node(node(epoch=2))
        assert await until(answers(lambda: bridge.ledger.sessions() == [session()]))


async def test_keys_changed_while_a_bridge_is_cut_off(url, behind, proxy):
    with open_store(url) as direct:
        maker = KeyMaker(direct)
        async with opened(behind) as bridge:
            old = bridge.keys.create_client_key("TEST01")
            assert bridge.keys.identify(old)
            proxy.refuse()
            proxy.cut()
            new = await asyncio.to_thread(maker.create_client_key, "TEST02")
            assert await asyncio.to_thread(maker.revoke_key, "1")
            assert bridge.keys.identify(old), "it cannot know"
            proxy.accept()
            await until(lambda: bridge.keys.identify(new))
            assert bridge.keys.identify(old) is None


async def test_keys_of_a_server_that_took_the_place_of_another(url):
    """It may have lost the last changes: what is known of them is forgotten when it is dialled."""
    async with opened(url) as bridge:
        kept, lost = bridge.keys.create_client_key("TEST01"), bridge.keys.create_client_key("TEST02")
        assert bridge.keys.identify(lost)
        bridge.keys.changed()
        with psycopg.connect(url, autocommit=True) as beside:
            beside.execute("DELETE FROM keys WHERE id = 2")
            beside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%keys%'"
                           " AND datname = current_database() AND pid != pg_backend_pid()")  # fmt: skip
        await until(bridge.keys.changed)
        assert bridge.keys.identify(lost) is None
        assert not bridge.keys.is_valid("2")
        assert bridge.keys.identify(kept)


async def test_a_look_up_never_waits_for_the_server(behind, proxy):
    async with opened(behind) as bridge:
        key = bridge.keys.create_client_key("TEST01")
        with proxy.paused():
            began = time.perf_counter()
            for _ in range(1000):
                assert bridge.keys.identify(key)
                assert bridge.keys.identify("sk_TEST01_nobody") is None
                bridge.keys.changed()
            assert time.perf_counter() - began < 1.0, "measured: 0.01; one question to the server would wait for ever"


async def test_a_database_whose_transactions_are_serializable(url):
    """Writers of the same rows would fail there again and again."""
    with psycopg.connect(url, autocommit=True) as beside:
        beside.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = 'serializable'")
    with open_store(url) as database:

        async def write(turn):
            ledger = SessionLedger(database)
            for number in range(40):
                ledger.session_started(session(f"s{number:02}", node=f"n{turn}"))
                ledger.session_ended(f"s{number:02}", 9.0 + turn, f"{turn}")
                await ledger.save_node(node("n1", epoch=turn))
            await ledger.close()

        await asyncio.gather(*(write(turn) for turn in range(4)))
        rows = LedgerReader(database).sessions(1_000)
        assert len(rows) == 40
        assert {f"{row.ended - 9.0:.0f}" == row.reason for row in rows} == {True}


async def test_a_deadlock_with_somebody_else_is_tried_again(url):
    async with opened(url) as bridge:
        await bridge.ledger.save_node(node("n1"))
        await bridge.ledger.save_node(node("n2"))
        with psycopg.connect(url) as beside, psycopg.connect(url, autocommit=True) as looking:
            beside.execute("SET deadlock_timeout = '60s'")  # so that the bridge is the one to be rolled back
            beside.execute("UPDATE nodes SET reason = 'mine' WHERE id = 'n2'")
            saving = asyncio.gather(*(bridge.ledger.save_node(node(name, epoch=2)) for name in ("n1", "n2")))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await until(lambda: looking.execute(waiting).fetchone()[0])
            await asyncio.to_thread(beside.execute, "UPDATE nodes SET reason = 'mine' WHERE id = 'n1'")
            beside.commit()
            await saving
            (deadlocks,) = looking.execute(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        assert bridge.ledger.nodes() == [node("n1", epoch=2), node("n2", epoch=2)]
        assert deadlocks == 1


# --- the right to be the only bridge ---


def test_one_bridge_at_a_time_holds_a_store(url, monkeypatch):
    monkeypatch.setattr("rtcbridge.drivers.ledger.watch.Hold._WAIT", 0.0)
    with open_store(url) as store, open_store(url) as other:
        assert other.holder() is None
        with store.hold() as announce:
            assert other.holder() == ""
            announce("here")
            assert other.holder() == "here"
            with pytest.raises(LedgerError, match=f"^another bridge runs on the store {re.escape(store.name)}$"):
                other.hold().__enter__()
            assert not store.is_lost
            assert other.holder() == "here"
        assert other.holder() is None
        with other.hold():
            assert store.holder() == "", "what the last one said is not said of this one"


async def test_the_right_to_a_store_outlives_a_restart_of_the_server(postgres, url):
    with open_store(url) as store, store.hold():
        postgres.kill()
        await until(lambda: store.is_lost)
        postgres.start()
        await until(lambda: not store.is_lost)


async def test_nodes_are_not_written_while_another_bridge_has_the_store(url, behind, proxy, monkeypatch):
    monkeypatch.setattr("rtcbridge.drivers.ledger.watch.Hold._WAIT", 0.0)
    async with opened(behind) as bridge:
        with bridge.database.hold():
            await bridge.ledger.save_node(node())
            proxy.refuse()
            proxy.cut()
            await until(lambda: bridge.database.is_lost)
            with open_store(url) as other, other.hold():
                proxy.accept()
                bridge.ledger.session_started(session())
                await until(answers(bridge.ledger.sessions))
                with pytest.raises(LedgerError, match="another bridge"):
                    await bridge.ledger.save_node(node(epoch=2))
                with pytest.raises(LedgerError, match="another bridge"):
                    await bridge.ledger.delete_node("n1")
            await until(lambda: not bridge.database.is_lost)
            await bridge.ledger.save_node(node(epoch=3))
            assert bridge.ledger.nodes() == [node(epoch=3)]
