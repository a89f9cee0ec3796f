import tomllib

import msgspec
import pytest

from docs.pages import ROOT
from rtcbridge.config import ConfigError
from rtcbridge.sim.arrivals import Rhythm
from rtcbridge.sim.scenario import Clients, Machines, Scenario, Sweep, load
from rtcbridge.sim.world import Fixed, Lognormal, World

EXAMPLE = ROOT / "examples" / "scenario.toml"


def written(tmp_path, text):
    file = tmp_path / "s.toml"
    file.write_text(text)
    return file


def test_the_example_has_every_key_with_its_default():
    text = tomllib.loads(EXAMPLE.read_text())
    assert set(text) == set(Scenario.__struct_fields__)
    for table, struct in (("clients", Clients), ("machines", Machines), ("sweep", Sweep)):
        assert set(text[table]) == set(struct.__struct_fields__)
    assert load(EXAMPLE) == Scenario()


def test_the_defaults_are_the_reference():
    assert Scenario().world() == World()
    assert Scenario().clients.rhythm() == Rhythm()


def test_everything_reaches_the_simulation(tmp_path):
    file = written(
        tmp_path,
        "seeds = [4, 5, 4]\n[clients]\ndays = 0.5\npeak = 9\ntrough = 1.0\nsession = '60'\npatience = 7\n"
        "[machines]\nstart = 'lognormal:30:0.2'\nrunning = 2.5\nrefusal = 3\n[pool]\nmin_ready = 1\nslots = 2\n"
        "[sweep]\nbeta = [1, 0.5]\nhold_beta = [0, 0.7]\nwaited_at_most = 0.05\n",
    )
    scenario = load(file)
    rhythm, world = scenario.clients.rhythm(), scenario.world()
    assert (rhythm.days, rhythm.peak, rhythm.trough, rhythm.length) == (0.5, 9, 1.0, Fixed(60.0))
    assert (world.start, world.running, world.refusal, world.patience) == (Lognormal(30.0, 0.2), 2.5, 3, 7)
    assert [case.seed for case in scenario.cases()] == [4, 5]
    assert scenario.goal == 0.05
    assert [(spec.beta, spec.hold_beta, spec.min_ready, spec.slots) for spec in scenario.policies()] == [
        (0.5, 0.0, 1, 2), (0.5, 0.7, 1, 2), (1.0, 0.0, 1, 2),
    ]  # fmt: skip


def test_every_combination_once():
    sweep = Sweep(beta=(1.0, 0.5, 1.0), min_ready=(2,), idle_timeout=(60.0, 30.0), hold_beta=(0.0,))
    found = Scenario(sweep=sweep).policies()
    assert [(spec.beta, spec.min_ready, spec.idle_timeout) for spec in found] == [
        (0.5, 2, 30.0), (0.5, 2, 60.0), (1.0, 2, 30.0), (1.0, 2, 60.0),
    ]  # fmt: skip


def test_a_band_stays_as_wide_as_the_pool_has_it():
    found = Scenario(sweep=Sweep(beta=(0.5, 2.0))).policies()
    assert [(spec.beta, spec.hold_beta) for spec in found] == [(0.5, 0.95), (2.0, 2.45)]


def test_a_goal_alone_tries_a_grid_that_fits_the_pool():
    small = msgspec.structs.replace(Scenario().pool, max_nodes=1)
    found = Scenario(sweep=Sweep(waited_at_most=0.01), pool=small).policies()
    assert {spec.min_ready for spec in found} == {1}
    assert {bool(spec.hold_beta) for spec in found} == {True, False}
    assert all(spec.max_nodes == 1 for spec in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[client]\n", "client: no such key; did you mean clients?"),
        ("[clients]\npeek = 1\n", "clients.peek: no such key; did you mean peak?"),
        ("[clients]\npeak = 'x'\n", 'clients.peak: expected a number from 0.01 to 100000, got "x"'),
        ("[clients]\nsession = '0'\n", "clients.session: expected a mean above 0"),
        ("[machines]\nstart = '60-20'\n", "machines.start: expected seconds such as 40, 20-60 or"),
        ("[machines]\ncreate = 'soon'\n", "machines.create: expected seconds such as 40, 20-60 or"),
        ("[pool]\nmin_ready = 9\n", "pool: min_ready: expected at most max_nodes times slots = 4, got 9"),
        ("[pool]\nbeta = 1\nhold_beta = 0.5\n", "pool: hold_beta: expected 0, or at least beta = 1, got 0.5"),
        ("seeds = [-1]\n", "seeds: expected a list, each of it a whole number from 0 to 2147483648"),
        ("[clients\n", "not valid TOML"),
    ],
)
def test_mistakes(tmp_path, text, expected):
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}: {expected}")


def test_a_relative_record_is_beside_the_file(tmp_path):
    assert load(written(tmp_path, "[clients]\narrivals = 'a.csv'\n")).clients.arrivals == str(tmp_path / "a.csv")
