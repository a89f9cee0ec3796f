import json
import re
import time

import pytest

from rtcbridge.cli import main
from rtcbridge.drivers.ledger import KeyStore, open_store
from rtcbridge.ports import Identity


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(capsys, *arguments):
    assert main(["keys", "create", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return out.split()[-1]


def test_a_clients_key_and_a_nodes(folder, capsys):
    client = made(capsys, "--project", "TEST01")
    node = made(capsys, "--node", "--pool", "default")
    with open_store(f"sqlite:///{folder}/rtcbridge.db") as database:
        keys = KeyStore(database)
        assert keys.identify(client) == Identity("1", project="TEST01")
        assert keys.identify(node) == Identity("2", pool="default", is_node=True)
        keys.close()


def test_an_admins_key(folder, capsys):
    assert main(["keys", "create", "--admin"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"ak_[A-Za-z0-9]{24}\n", out)
    assert err == f"Stored in {folder}/rtcbridge.db; the key is not shown again.\n"
    with open_store(f"sqlite:///{folder}/rtcbridge.db") as database:
        keys = KeyStore(database)
        assert keys.identify_admin(out.strip()) == "1"
        keys.close()
    assert main(["keys", "list"]) == 0
    assert re.match(r"1\s+admin\s+\d", capsys.readouterr().out.splitlines()[1])
    assert main(["keys", "revoke", "1"]) == 0


def test_keys_go_into_the_store_of_the_configuration(folder, capsys, monkeypatch):
    (folder / "conf").mkdir()
    config = folder / "conf" / "bridge.toml"
    config.write_text('[store]\nurl = "sqlite:///data/keys.db"\n[[pools]]\nname = "gpu"\nprovider = "static"\n')
    made(capsys, "--node", "--pool", "gpu", "--config", str(config))
    assert (folder / "conf/data/keys.db").exists()
    assert not (folder / "rtcbridge.db").exists()
    monkeypatch.setenv("RTCBRIDGE_STORE__URL", "sqlite:///other.db")
    made(capsys, "--project", "TEST01", "--config", str(config))
    assert (folder / "other.db").exists()


def test_the_list_shows_all_but_the_keys(capsys):
    keys = [made(capsys, "--project", "TEST01"), made(capsys, "--node", "--pool", "default")]
    assert main(["keys", "revoke", "1"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Revoked key 1.\n")
    assert main(["keys", "list"]) == 0
    out = capsys.readouterr().out
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    head, first, second = out.splitlines()
    assert (
        head
        == "ID  PROJECT  KIND    POOL     CREATED              REVOKED              EXPIRES  LAST USED  SCOPES  LIMITS"
    )
    assert re.fullmatch(rf"1   TEST01   client           {time}  {time}", first)
    assert re.fullmatch(rf"2            node    default  {time}", second)
    for key in keys:
        assert key.rpartition("_")[2] not in out


def test_the_list_as_json(capsys):
    assert main(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    made(capsys, "--project", "TEST01")
    assert main(["keys", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert isinstance(row.pop("created"), float)
    assert row == {
        "id": "1",
        "project": "TEST01",
        "pool": "",
        "is_node": False,
        "is_admin": False,
        "revoked": None,
        "is_signing": False,
        "scopes": [],
        "limits": {},
        "expires": None,
        "last_used": None,
    }


def test_an_empty_list_says_so_beside_the_output(capsys):
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr() == (
        "ID  PROJECT  KIND  POOL  CREATED  REVOKED  EXPIRES  LAST USED  SCOPES  LIMITS\n",
        "(none)\n",
    )


@pytest.mark.parametrize("key", ["1", "2", "x", "sk_TEST01_abc"])
def test_only_a_valid_key_is_revoked(capsys, key):
    made(capsys, "--project", "TEST01")
    assert main(["keys", "revoke", "1"]) == 0
    capsys.readouterr()
    assert main(["keys", "revoke", key]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"rtcbridge keys revoke: there is no valid key with the id '{key}'; see rtcbridge keys list\n"


def listed(capsys):
    assert main(["keys", "list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_with_scopes_an_end_and_limits(capsys):
    before = time.time()
    options = ["--scopes", "connect", "--expires", "30d", "--max-connections", "9", "--max-sessions", "8"]
    made(capsys, "--project", "TEST01", *options, "--max-messages", "7", "--max-creations", "6")
    (row,) = listed(capsys)
    assert row["scopes"] == ["connect"]
    assert row["limits"] == {"connections": 9, "sessions": 8, "messages": 7, "creations": 6}
    assert before + 30 * 86_400 <= row["expires"] <= time.time() + 30 * 86_400
    assert main(["keys", "list"]) == 0
    assert "connections=9,sessions=8,messages=7,creations=6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--project", "TEST01", "--scopes", "all"], "--scopes expects names of connect, tokens between commas"),
        (["--project", "TEST01", "--expires", "tomorrow"], "--expires expects a number with s, m, h or d behind it"),
        (["--project", "TEST01", "--expires", "-1h"], "expected one argument"),
        (["--project", "TEST01", "--max-sessions", "0"], "--max-sessions expects a whole number above 0"),
        (["--admin", "--max-sessions", "5"], "--scopes and --max-… are for the keys of clients"),
        (["--admin", "--scopes", "connect"], "--scopes and --max-… are for the keys of clients"),
    ],
)
def test_options_that_fit_no_key(capsys, options, expected):
    assert main(["keys", "create", *options]) == 2
    told = capsys.readouterr()
    assert expected in told.err
    assert told.err.count("\n") == 1
    assert not told.out
    assert listed(capsys) == []


def test_a_key_is_rotated_with_overlap(capsys):
    old = made(capsys, "--project", "TEST01")
    before = time.time()
    assert main(["keys", "rotate", "1", "--overlap", "24h"]) == 0
    told = capsys.readouterr()
    new = told.out.split()[-1]
    assert told.out.count("\n") == 1
    assert new.startswith("sk_TEST01_")
    assert new != old
    assert "Key 1 expires at" in told.err
    first, second = listed(capsys)
    assert before + 86_400 <= first["expires"] <= time.time() + 86_400
    assert second["expires"] is None
    assert main(["keys", "rotate", "2"]) == 0
    assert "Key 2 has expired" in capsys.readouterr().err
    assert main(["keys", "rotate", "2"]) == 1
    assert "no valid key with the id '2' that can be rotated" in capsys.readouterr().err


def test_the_key_that_signs_is_rotated(capsys):
    for number in ("1", "2"):
        assert main(["keys", "rotate", "--signing"]) == 0
        told = capsys.readouterr()
        assert not told.out
        assert told.err == f"Client tokens are signed with key {number} in a few seconds.\n"
    first, second = listed(capsys)
    assert first["is_signing"]
    assert first["expires"]
    assert second["expires"] is None
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out.count("signing") == 2
    for arguments in ([], ["1", "--signing"], ["--signing", "--overlap", "1h"]):
        assert main(["keys", "rotate", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
