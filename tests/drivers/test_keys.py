import hmac
import os
import re
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from rtcbridge.drivers.ledger import KeyStore, SessionLedger, admin_token, open_store
from rtcbridge.drivers.ledger.keys import LOCAL_ADMIN, TOKEN_LIFETIME
from rtcbridge.drivers.ledger.schema import keys as table
from rtcbridge.drivers.ledger.schema import meta, metadata
from rtcbridge.ports import Authenticator, Identity, Keys, LedgerError, SessionRow


@pytest.fixture
def database(store_url):
    with open_store(store_url) as database:
        yield database


def until(true):
    """Look until it is true, as what another process does may take a moment to be heard of."""
    deadline = time.monotonic() + 10
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


MISSING = re.compile(r"(no such table: |relation \")")


@pytest.fixture
def keys(database):
    keys = KeyStore(database)
    yield keys
    keys.close()


def test_the_interfaces_are_met(keys):
    authenticator: Authenticator = keys
    maker: Keys = keys
    assert authenticator is maker


def test_keys_are_made_identified_and_revoked(keys):
    client = keys.create_client_key("TEST01")
    node = keys.create_node_key("gpu_big.1")
    assert re.fullmatch(r"sk_TEST01_[A-Za-z0-9]{24}", client)
    assert re.fullmatch(r"nk_gpu_big\.1_[A-Za-z0-9]{24}", node)
    assert keys.identify(client) == Identity("1", project="TEST01")
    assert keys.identify(node) == Identity("2", pool="gpu_big.1", is_node=True)
    assert keys.is_valid("1")
    before = time.time()
    assert keys.revoke_key("1")
    assert not keys.revoke_key("1")
    assert keys.identify(client) is None
    assert not keys.is_valid("1")
    assert keys.identify(node) is not None
    first, second = keys.keys()
    assert (first.id, first.project, first.is_node) == ("1", "TEST01", False)
    assert before - 1 <= first.created <= first.revoked <= time.time()
    assert (second.id, second.pool, second.is_node, second.revoked) == ("2", "gpu_big.1", True, None)


def test_an_admins_key_is_nobodys_but_an_admins(keys):
    client, node, admin = keys.create_client_key("TEST01"), keys.create_node_key("p"), keys.create_admin_key()
    assert re.fullmatch(r"ak_[A-Za-z0-9]{24}", admin)
    assert keys.identify_admin(admin) == "3"
    assert keys.identify(admin) is None
    assert [keys.identify_admin(other) for other in (client, node, "", admin + "x", "x" * 70_000)] == [None] * 5
    rows = keys.keys()
    assert [(row.is_node, row.is_admin) for row in rows] == [(False, False), (True, False), (False, True)]
    assert keys.is_valid("3")
    assert keys.revoke_key("3")
    assert keys.identify_admin(admin) is None
    assert not keys.is_valid("3")


def test_who_has_the_store_can_make_a_token_that_lasts_a_minute(keys, database, tmp_path):
    now = time.time()
    token = admin_token(database.secret, now)
    assert keys.identify_admin(token) == LOCAL_ADMIN
    assert keys.identify(token) is None
    for moment in (now - TOKEN_LIFETIME - 2, now + TOKEN_LIFETIME + 2):
        assert keys.identify_admin(admin_token(database.secret, moment)) is None
    for forged in (token + "x", token[:-1], token.replace("local_", "local_0"), f"ak_local_{int(now)}_{'1' * 27}"):
        assert keys.identify_admin(forged) is None
    with open_store(f"sqlite:///{tmp_path}/y.db") as other:
        assert keys.identify_admin(admin_token(other.secret, now)) is None
    assert keys.keys() == [], "nothing is stored of it"


@pytest.mark.parametrize("credential", ["", "sk_TEST01_", "x" * 70_000, "\ud800", "nk_node_", "é", "\0"])
def test_what_is_no_key_is_nobody(keys, credential):
    keys.create_client_key("TEST01")
    assert keys.identify(credential) is None


def test_a_key_with_something_behind_it_is_nobody(keys):
    key = keys.create_client_key("TEST01")
    assert keys.identify(key + "x") is None
    assert keys.identify(key + "\0") is None
    assert keys.identify(key + " " * 300) is None


@pytest.mark.parametrize("key", ["", "0", "2", "-1", "x", "1 ", "1.0", "9" * 40, "１"])
def test_an_id_that_is_none_is_not_revoked(keys, key):
    credential = keys.create_client_key("TEST01")
    assert not keys.revoke_key(key)
    assert keys.identify(credential)


@pytest.mark.parametrize("project", ["", "TEST1", "TEST012", "test01", "TEST0_", "TEST01\n", "ТЕST01"])
def test_a_project_is_six_characters(keys, project):
    with pytest.raises(ValueError, match="six characters"):
        keys.create_client_key(project)
    assert keys.keys() == []


def test_only_digests_are_stored(keys, database):
    key = keys.create_client_key("TEST01")
    written = str([database.read(sa.select(table)) for table in metadata.tables.values()])
    assert str(keys._digest(key)) in written
    assert key.rpartition("_")[2] not in written


def test_a_store_with_another_secret_does_not_know_the_key(keys, database, store_url):
    """A stolen copy of the digests is of no use beside another secret."""
    key = keys.create_client_key("TEST01")
    with database.engine.begin() as connection:
        connection.execute(sa.update(meta).where(meta.c.name == "secret").values(value="00" * 32))
    with open_store(store_url) as other:
        others = KeyStore(other)
        assert others.identify(key) is None
        others.close()


def cli(url, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "rtcbridge", "keys", *arguments],
        env=os.environ | {"RTCBRIDGE_STORE__URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip().rpartition(" ")[2]


def test_changes_of_another_process_count_at_once(keys, store_url):
    assert not keys.changed()
    key = cli(store_url, "create", "--project", "TEST02")
    assert until(lambda: keys.identify(key)) == Identity("1", project="TEST02")
    assert keys.changed()
    assert not keys.changed()
    cli(store_url, "revoke", "1")
    assert keys.is_valid("1"), "as of the last look"
    assert until(keys.changed)
    assert not keys.is_valid("1")
    assert keys.identify(key) is None


def test_changed_tells_of_this_objects_own_changes_too(keys):
    keys.create_client_key("TEST01")
    assert keys.changed()
    assert not keys.changed()


async def test_the_bridges_own_writes_do_not_reload_the_keys(keys, database, monkeypatch):
    key = keys.create_client_key("TEST01")
    assert keys.changed()
    monkeypatch.setattr(keys, "_take", lambda _: pytest.fail("no key changed"))
    ledger = SessionLedger(database)
    for number in range(3):
        ledger.session_started(SessionRow(id=f"s{number}", pool="p", node="n", project="P", started=1.0))
        await ledger.flush()
        assert keys.identify(key)
    await ledger.close()
    assert not keys.changed()


def test_a_store_that_cannot_be_read_leaves_the_known_keys(keys, database, caplog):
    key = keys.create_client_key("TEST01")
    assert keys.changed()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE meta RENAME TO hidden")
    assert not keys.changed()
    assert not keys.changed()
    until(lambda: not keys.changed() and caplog.messages)
    assert keys.identify(key)
    assert len(caplog.messages) == 1
    assert MISSING.search(caplog.messages[0])
    with pytest.raises(LedgerError, match=f"{MISSING.pattern}.*meta"):
        keys.create_client_key("TEST01")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO meta")
    assert keys.identify(keys.create_client_key("TEST02"))
    assert keys.identify(key)


def test_keys_that_cannot_be_read_at_the_start_are_an_error(database):
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE keys")
        connection.exec_driver_sql("UPDATE meta SET value = '1' WHERE name = 'keys_version'")
    with pytest.raises(
        LedgerError, match=rf"^store {re.escape(database.name)}: (the keys cannot be read: )?{MISSING.pattern}"
    ):
        KeyStore(database)


def test_a_nodes_token_is_its_own_and_stays(keys, store_url, tmp_path):
    token = keys.node_token("node-1")
    assert re.fullmatch(r"nk_node_[A-Za-z0-9]{20,30}", token)
    assert keys.node_token("node-2") != token
    assert keys.identify(token) is None, "it is compared with the node's id, and is nobody's key"
    with open_store(store_url) as again:
        others = KeyStore(again)
        assert hmac.compare_digest(others.node_token("node-1"), token)
        others.close()
    with open_store(f"sqlite:///{tmp_path}/y.db") as other:
        others = KeyStore(other)
        assert others.node_token("node-1") != token
        others.close()


def test_a_visits_token_is_for_its_project_and_pool_and_the_same_from_every_bridge(keys, store_url, tmp_path):
    token = keys.visit_token("01a2", "TEST01", "default")
    assert re.fullmatch(r"01a2\.[A-Za-z0-9_-]{32}", token)
    others = [("01a3", "TEST01", "default"), ("01a2", "TEST02", "default"), ("01a2", "TEST01", "other")]
    assert len({token, *(keys.visit_token(*other) for other in others)}) == 4
    with open_store(store_url) as again:
        bridge = KeyStore(again)
        assert bridge.visit_token("01a2", "TEST01", "default") == token
        bridge.close()
    with open_store(f"sqlite:///{tmp_path}/y.db") as other:
        stranger = KeyStore(other)
        assert stranger.visit_token("01a2", "TEST01", "default") != token
        stranger.close()


def test_an_id_is_never_given_twice(keys, database):
    keys.create_client_key("TEST01")
    with database.engine.begin() as connection:
        connection.execute(sa.delete(table))
    keys.create_client_key("TEST01")
    (row,) = keys.keys()
    assert row.id == "2"
