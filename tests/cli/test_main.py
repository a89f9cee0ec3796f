import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtcbridge import cli
from rtcbridge.cli import CommandError, UsageError, main
from rtcbridge.config import ConfigError
from rtcbridge.ports import LedgerError


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "rtcbridge: expected a command, see rtcbridge --help"),
        (["sreve"], "rtcbridge: COMMAND: invalid choice: 'sreve' (choose from "),
        (["--bogus", "keys", "list"], "rtcbridge: unrecognized arguments: --bogus"),
        (["keys"], "rtcbridge keys: expected ACTION"),
        (["keys", "make"], "rtcbridge keys: ACTION: invalid choice: 'make' (choose from "),
        (["keys", "list", "--jso"], "rtcbridge: unrecognized arguments: --jso"),
        (["keys", "list", "--config"], "rtcbridge keys list: --config: expected one argument"),
        (["keys", "revoke"], "rtcbridge keys revoke: expected ID"),
        (
            ["keys", "create", "--project", "x"],
            "rtcbridge keys create: --project expects six characters A-Z 0-9, got 'x'",
        ),
        (
            ["keys", "create"],
            "rtcbridge keys create: expected one of --project PROJECT, --node --pool NAME, and --admin",
        ),
        (
            ["keys", "create", "--project", "TEST01", "--admin"],
            "rtcbridge keys create: expected one of --project PROJECT, --node --pool NAME, and --admin",
        ),
        (
            ["keys", "create", "--admin", "--pool", "default"],
            "rtcbridge keys create: --node and --pool NAME belong together",
        ),
        (["keys", "create", "--node"], "rtcbridge keys create: --node and --pool NAME belong together"),
        (
            ["keys", "create", "--project", "TEST01", "--node", "--pool", "default"],
            "rtcbridge keys create: expected one of --project PROJECT, --node --pool NAME, and --admin",
        ),
        (
            ["keys", "create", "--project", "TEST01", "--pool", "default"],
            "rtcbridge keys create: --node and --pool NAME belong together",
        ),
        (
            ["keys", "create", "--node", "--pool", "no"],
            "rtcbridge keys create: --pool expects a pool of the configuration (default), got 'no'",
        ),
        (["keys", "list", "--config", "no.toml"], "rtcbridge keys list: no.toml: cannot be read: No such file"),
        (["nodes", "--pool", "no"], "rtcbridge nodes: --pool expects one of default, got 'no'"),
        (["sessions", "--limit", "-1"], "rtcbridge sessions: --limit expects a whole number from 1 to 1000000"),
        (["sessions", "--limit", "²"], "rtcbridge sessions: --limit expects a whole number from 1 to 1000000"),
    ],
)
def test_a_bad_command_line_gets_one_line_and_status_2(arguments, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(expected)
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_a_bad_configuration_gets_one_line_and_status_2(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("b.toml").write_text("[server]\nport = 'x'\n")
    assert main(["keys", "list", "--config", "b.toml"]) == 2
    expected = 'rtcbridge keys list: b.toml: server.port: expected a whole number from 0 to 65535, got "x"\n'
    assert capsys.readouterr().err == expected
    assert not Path("rtcbridge.db").exists()


def test_a_bad_variable_gets_one_line_and_status_2(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTCBRIDGE_SERVER__PROT", "1")
    assert main(["pools"]) == 2
    expected = "rtcbridge pools: RTCBRIDGE_SERVER__PROT: no such key; did you mean RTCBRIDGE_SERVER__PORT?\n"
    assert capsys.readouterr().err == expected


def test_a_store_that_is_none_gets_one_line_and_status_1(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("rtcbridge.db").write_text("no database " * 100)
    for command in (["keys", "list"], ["keys", "create", "--project", "TEST01"], ["nodes"], ["sessions"], ["pools"]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(rf"rtcbridge {command[0]}.*: store rtcbridge\.db: file is not a database\n", err)


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("keys", "nodes", "sessions", "pools"):
        assert re.search(rf"^    {command}  +\w+", out, re.MULTILINE)
    assert main(["keys", "create", "--help"]) == 0
    assert "--project" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert re.fullmatch(r"rtcbridge \d+\.\d+.*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: rtcbridge {command} ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("two\nlines"), 2),
        (UsageError("two\nlines"), 2),
        (CommandError("two\nlines"), 1),
        (LedgerError("two\nlines"), 1),
    ],
)
def test_what_a_command_raises_becomes_one_line(error, status, capsys, monkeypatch):
    def fail(_):
        raise error

    module = importlib.import_module("rtcbridge.cli.keys")
    monkeypatch.setattr(module, "_list", fail)
    assert main(["keys", "list"]) == status
    assert capsys.readouterr().err == "rtcbridge keys list: two lines\n"


def test_an_interrupt_ends_a_command_quietly(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rtcbridge.cli.keys._list", interrupted)
    assert main(["keys", "list"]) == 130
    assert capsys.readouterr() == ("", "")


def run(*arguments, code=None, cwd):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "rtcbridge"]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_module_is_the_command(tmp_path):
    done = run("keys", "create", "--project", "TEST01", cwd=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"sk_TEST01_\w{24}\n", done.stdout)
    assert done.stderr == f"Stored in {tmp_path}/rtcbridge.db; the key is not shown again.\n"
    assert run("keys", "x", cwd=tmp_path).returncode == 2


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    code = (
        "import os, sys; from rtcbridge.cli import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1); sys.exit(main())"
    )
    done = run("keys", "list", code=code, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr in ("", "(none)\n"), "no traceback, now or at the exit"


def test_keys_load_nothing_of_a_server_or_a_node(tmp_path):
    code = (
        "import sys; from rtcbridge.cli import main; main(['keys', 'list'])\n"
        "print([name for name in ('numpy', 'cv2', 'wrtc', 'aiortc', 'uvloop', 'uvicorn', 'starlette',"
        " 'rtcbridge.gateway', 'rtcbridge.node') if name in sys.modules])"
    )
    done = run(code=code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_logged_exception_shows_no_local_variables(tmp_path):
    code = (
        "import structlog; from rtcbridge.cli.logs import configure_logs; configure_logs('info', 'console')\n"
        "def fail(credential):\n    raise ValueError('wrong')\n"
        "try:\n    fail('sk_' + 'TEST01_secret')\n"
        "except ValueError:\n    structlog.get_logger().exception('it failed')\n"
    )
    done = run(code=code, cwd=tmp_path)
    assert "ValueError: wrong" in done.stderr
    assert "sk_TEST01" not in done.stderr
