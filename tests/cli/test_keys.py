import json
import re

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
    assert head == "ID  PROJECT  KIND    POOL     CREATED              REVOKED"
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
    assert capsys.readouterr() == ("ID  PROJECT  KIND  POOL  CREATED  REVOKED\n", "(none)\n")


@pytest.mark.parametrize("key", ["1", "2", "x", "sk_TEST01_abc"])
def test_only_a_valid_key_is_revoked(capsys, key):
    made(capsys, "--project", "TEST01")
    assert main(["keys", "revoke", "1"]) == 0
    capsys.readouterr()
    assert main(["keys", "revoke", key]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"rtcbridge keys revoke: there is no valid key with the id '{key}'; see rtcbridge keys list\n"
