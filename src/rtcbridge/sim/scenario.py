"""A scenario: the clients, the machines, the pool and the policies to be tried, from a TOML file or from the defaults.

The defaults are the reference scenario; `examples/scenario.toml` explains every key.
"""

from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rtcbridge import config
from rtcbridge.config import ConfigError, Pool
from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim import arrivals
from rtcbridge.sim.arrivals import Rhythm, Session
from rtcbridge.sim.study import Case
from rtcbridge.sim.world import World, distribution

DISTRIBUTION = "seconds such as 40, 20-60 or lognormal:480:1.1"
MOST = 1000  # policies in a sweep

Law = Annotated[str, Meta(pattern=r"^[a-z0-9.:+e-]{1,60}\Z", description=DISTRIBUTION)]
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=0, le=1e6)]
Span = Annotated[float, Meta(gt=0, le=31_536_000)]
Seed = Annotated[int, Meta(ge=0, le=2**31)]
Beta = Annotated[float, Meta(ge=0, le=100)]


class Clients(Struct, frozen=True, kw_only=True):
    """`[clients]`: who comes when, and for how long. With a record in `arrivals`, only `patience` counts beside it."""

    arrivals: str = ""
    days: Annotated[float, Meta(ge=0.1, le=366)] = 7.0
    peak: Annotated[float, Meta(ge=0.01, le=100_000)] = 25.0
    trough: Share = 0.06
    weekend: Annotated[float, Meta(ge=0, le=100)] = 1.25
    crowds: Annotated[float, Meta(ge=0, le=1000)] = 2.0
    crowd: Share = 0.25
    session: Law = "lognormal:480:1.1"
    shortest: Number = 15.0
    longest: Annotated[float, Meta(ge=1, le=1e6)] = 3600.0
    patience: Annotated[float, Meta(ge=0.1, le=1e6)] = 180.0

    def rhythm(self) -> Rhythm:
        """What the sessions are drawn by, without a record."""
        names = (
            "days",
            "peak",
            "trough",
            "weekend",
            "crowds",
            "crowd",
            "shortest",
            "longest",
        )
        same = {name: getattr(self, name) for name in names}
        return Rhythm(length=distribution(self.session), **same)


class Machines(Struct, frozen=True, kw_only=True):
    """`[machines]`: how long they take, how often they fail, and what they cost. See `World`."""

    start: Law = "20-60"
    create: Law = "120-600"
    stop: Number = 30.0
    destroy: Number = 30.0
    start_failures: Share = 0.03
    create_failures: Share = 0.0
    refusal: Number = 10.0
    running: Number = 1.006
    disk: Number = 0.011
    connect: Number = 0.6
    stopped: Annotated[int, Meta(ge=-1, le=10_000)] = -1


class Sweep(Struct, frozen=True, kw_only=True):
    """`[sweep]`: the values that are tried in every combination; none stands for the pool's own."""

    beta: tuple[Beta, ...] = ()
    min_ready: tuple[Annotated[int, Meta(ge=0, le=100_000)], ...] = ()
    idle_timeout: tuple[Span, ...] = ()
    hold_beta: tuple[Beta, ...] = ()
    demand_window: tuple[Annotated[float, Meta(ge=0, le=31_536_000)], ...] = ()
    waited_at_most: Share = 1.0


REFERENCE_POOL = Pool(
    name="reference", beta=1.05, hold_beta=1.5, demand_window=1800.0, min_ready=2, idle_timeout=900.0,
    max_nodes=80, stopped_timeout=0.0,
)  # fmt: skip
_GRID_BETAS = (0.8, 0.9, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0)
_GRID_FLOORS = (1, 2)
_GRID_TIMEOUTS = (120.0, 240.0)
_GRID_BANDS = (0.45, 0.7)  # hold_beta above beta


class Scenario(Struct, frozen=True, kw_only=True):
    """The whole. `load()` reads it from a file; a bare `Scenario()` is the reference scenario with one seed."""

    seeds: tuple[Seed, ...] = (1,)
    clients: Clients = Clients()
    machines: Machines = Machines()
    pool: Pool = REFERENCE_POOL
    sweep: Sweep = Sweep()

    @property
    def goal(self) -> float | None:
        """The share of clients that may wait; None without a goal."""
        return self.sweep.waited_at_most if self.sweep.waited_at_most < 1 else None

    def world(self) -> World:
        """What the policy cannot choose."""
        names = msgspec.structs.fields(World)
        same = {field.name: getattr(self.machines, field.name) for field in names if field.name != "patience"}
        laws = {name: distribution(getattr(self.machines, name)) for name in ("start", "create")}
        return World(**{**same, **laws, "patience": self.clients.patience})

    def cases(self, recorded: list[Session] | None = None) -> tuple[Case, ...]:
        """The sessions, once for each seed.

        Raises:
            ConfigError: there would be too many sessions, or too few.
        """
        seeds = list(dict.fromkeys(self.seeds))
        if recorded is not None:
            if recorded[-1][0] == recorded[0][0]:
                raise ConfigError(f"{self.clients.arrivals}: expected sessions at different times")
            return tuple(Case(recorded, seed) for seed in seeds)
        rhythm = self.clients.rhythm()
        if rhythm.peak / rhythm.length.mean * rhythm.days * arrivals.DAY > arrivals.MOST:
            raise ConfigError(f"expected at most {arrivals.MOST} sessions; lower peak or days")
        cases = tuple(Case(arrivals.generate(rhythm, seed), seed) for seed in seeds)
        if any(len(case.sessions) < 2 for case in cases):
            raise ConfigError("expected more than one session; raise peak or days")
        return cases

    def policies(self) -> list[PoolSpec]:
        """The pool's own policy, or what the sweep asks for; with a goal alone, a grid around what is common.

        Combinations in which `hold_beta` would be below `beta` are left out.

        Raises:
            ConfigError: there are none, or too many.
        """
        spec, sweep = self.pool.spec(), self.sweep
        slots = spec.max_nodes * spec.slots
        if sweep.min_ready and max(sweep.min_ready) > slots:
            most = f"expected at most max_nodes times slots = {slots}"
            raise ConfigError(f"sweep.min_ready: {most}, got {max(sweep.min_ready)}")
        keys = ("beta", "min_ready", "idle_timeout", "hold_beta", "demand_window")
        if self.goal is not None and not any(getattr(sweep, key) for key in keys):
            grid = _grid()
        else:
            values = [sorted(set(getattr(sweep, key))) or [getattr(spec, key)] for key in keys]
            grid = list(product(*values))
            if spec.hold_beta and not sweep.hold_beta:  # the band is as wide as the pool's
                width = spec.hold_beta - spec.beta
                grid = [
                    (beta, floor, timeout, round(beta + width, 9), window) for beta, floor, timeout, _, window in grid
                ]
        specs = [
            msgspec.structs.replace(spec, **dict(zip(keys, values, strict=True)))
            for values in grid
            if values[1] <= slots and (values[3] == 0 or values[3] >= values[0])
        ]
        if not 0 < len(specs) <= MOST:
            raise ConfigError(f"expected 1 to {MOST} policies, got {len(specs)}; hold_beta must be 0, or at least beta")
        return specs


def _grid() -> list[tuple[float, int, float, float, float]]:
    """With a time-out alone, and with a band; beta, min_ready, idle_timeout, hold_beta, demand_window."""
    grid: list[tuple[float, int, float, float, float]] = []
    for beta, floor in product(_GRID_BETAS, _GRID_FLOORS):
        grid += [(beta, floor, timeout, 0.0, 0.0) for timeout in _GRID_TIMEOUTS]
        grid += [(beta, floor, 900.0, round(beta + width, 2), 1800.0) for width in _GRID_BANDS]
    return grid


def load(file: Path) -> Scenario:
    """Read a scenario; a relative path in it is relative to its folder.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    scenario = config.read(Scenario, file)
    for table, key in (("clients", "session"), ("machines", "start"), ("machines", "create")):
        text = getattr(getattr(scenario, table), key)
        try:
            mean = distribution(text).mean
        except ValueError:
            raise ConfigError(f"{file}: {table}.{key}: expected {DISTRIBUTION}, got {text!r}") from None
        if key == "session" and mean <= 0:
            raise ConfigError(f"{file}: {table}.{key}: expected a mean above 0")
    if scenario.clients.arrivals:
        clients = msgspec.structs.replace(scenario.clients, arrivals=str(file.parent / scenario.clients.arrivals))
        scenario = msgspec.structs.replace(scenario, clients=clients)
    config.check_pool(scenario.pool, f"{file}: pool")
    return scenario
