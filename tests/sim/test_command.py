import json
from xml.etree import ElementTree

import pytest

from rtcbridge.cli import main

SHORT = ["simulate", "--days", "0.2", "--jobs", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(
        '[[pools]]\nname = "gpu"\nbeta = 0.75\nmin_ready = 3\nslots = 2\nmax_nodes = 30\n'
        '[[pools]]\nname = "hand"\nprovider = "static"\n'
    )
    (tmp_path / "b.csv").write_text("started,seconds\n1,2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--beta", "x"], "rtcbridge simulate: --beta expects a number from 0 to 100, got 'x'"),
        (["--beta", "1,,2"], "rtcbridge simulate: --beta expects a number from 0 to 100, got ''"),
        (["--beta", "nan"], "rtcbridge simulate: --beta expects a number from 0 to 100, got 'nan'"),
        (["--floor", "-1"], "rtcbridge simulate: --floor expects a whole number from 0 to 100000, got '-1'"),
        (["--floor", "81"], "rtcbridge simulate: sweep.min_ready: expected at most max_nodes times slots = 80, got 81"),
        (["--waited-at-most", "101%"], "rtcbridge simulate: --waited-at-most expects a share such as 1% or 0.01"),
        (["--start", "60-20"], "rtcbridge simulate: --start expects seconds such as 40, 20-60 or lognormal:480:1.1"),
        (["--session", "0"], "rtcbridge simulate: --session expects a mean above 0"),
        (["--days", "0"], "rtcbridge simulate: --days expects a number from 0.1 to 366, got '0'"),
        (["--peak", "1e5", "--days", "366"], "rtcbridge simulate: expected at most 5000000 sessions"),
        (["--peak", "0.01", "--crowds", "0"], "rtcbridge simulate: expected more than one session"),
        (["--pool", "gpu"], "rtcbridge simulate: --pool expects --config FILE or --arrivals FILE beside it"),
        (["--config", "a.toml", "--pool", "x"], "rtcbridge simulate: --pool expects one of gpu, hand, got 'x'"),
        (["--config", "a.toml", "--pool", "hand"], "rtcbridge simulate: the pool hand is static"),
        (["--config", "no.toml"], "rtcbridge simulate: no.toml: cannot be read"),
        (["--arrivals", "no.csv"], "rtcbridge simulate: no.csv: cannot be read"),
        (["--arrivals", "b.csv"], "rtcbridge simulate: b.csv: expected sessions at different times"),
        (["--arrivals", "a.toml"], "rtcbridge simulate: a.toml: expected the columns started and seconds"),
        (["--beta", ",".join(str(n / 50) for n in range(1001))], "rtcbridge simulate: expected 1 to 1000 policies"),
    ],
)  # fmt: skip
def test_a_bad_command_line_gets_one_line_and_status_2(arguments, expected, capsys):
    assert main([*SHORT, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(expected)
    assert err.count("\n") == 1


def rows(capsys, *arguments, status=0):
    assert main([*SHORT, "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


def test_one_policy_the_same_each_time(capsys, folder):
    first = rows(capsys, "--plot", "week.svg")
    assert first == rows(capsys)
    assert [(row["beta"], row["floor"], row["idle_timeout"]) for row in first] == [(1.05, 2, 900.0)]
    assert first[0]["sessions"] > 50
    assert ElementTree.parse(folder / "week.svg").getroot().tag.endswith("svg")


def test_a_sweep_recommends(capsys, folder):
    found = rows(
        capsys, "--hold-beta", "0", "--beta", "0,1,3", "--floor", "0,2", "--waited-at-most", "5%", "--plot", "trade.svg"
    )
    assert len(found) == 6
    good = [row for row in found if row["waited"] <= 0.05]
    assert [row for row in found if row["recommended"]] == [min(good, key=lambda row: row["usd_a_day"])]
    assert ElementTree.parse(folder / "trade.svg").getroot().tag.endswith("svg")


def test_what_is_recommended_is_said_in_words(capsys):
    assert main([*SHORT, "--beta", "1,3", "--hold-beta", "0,3.5", "--waited-at-most", "20%"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith(
        "recommended: beta = 1, min_ready = 2, idle_timeout = 900, hold_beta = 3.5, demand_window = 1800: "
    )
    assert err == "4 policies, 1 times each …\n"


def test_a_goal_that_is_out_of_reach(capsys):
    found = rows(capsys, "--beta", "0", "--floor", "0", "--hold-beta", "0", "--waited-at-most", "0%", status=1)
    assert not any(row["recommended"] for row in found)


def test_the_pool_of_a_configuration(capsys):
    (row,) = rows(capsys, "--config", "a.toml", "--pool", "gpu")
    assert (row["beta"], row["floor"]) == (0.75, 3)


def test_a_record(capsys, folder):
    (folder / "c.csv").write_text("started,seconds\n" + "".join(f"{at * 60},30\n" for at in range(100)))
    (row,) = rows(capsys, "--arrivals", "c.csv")
    assert row["sessions"] == 90  # the first tenth is not counted


def test_a_plot_that_cannot_be_written(capsys):
    assert main([*SHORT, "--plot", "no/week.svg"]) == 1
    assert "--plot: no/week.svg cannot be written: No such file or directory" in capsys.readouterr().err
