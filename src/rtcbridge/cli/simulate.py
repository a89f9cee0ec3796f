"""`rtcbridge simulate`: a pool's policy against what it costs, before anything is paid."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from rtcbridge import config
from rtcbridge.cli import CommandError, Subparsers, UsageError, add_command, add_config, record
from rtcbridge.cli.table import show
from rtcbridge.sim import plot, scenario
from rtcbridge.sim.outcome import Summary, summarize
from rtcbridge.sim.scenario import Scenario
from rtcbridge.sim.study import Study, frontier, recommend, sweep
from rtcbridge.sim.world import distribution

_T = TypeVar("_T")

_OPTIONS: Mapping[str, tuple[str, str]] = {  # where an option goes in the scenario
    "beta": ("sweep", "beta"),
    "floor": ("sweep", "min_ready"),
    "idle_timeout": ("sweep", "idle_timeout"),
    "hold_beta": ("sweep", "hold_beta"),
    "demand_window": ("sweep", "demand_window"),
    "waited_at_most": ("sweep", "waited_at_most"),
    "max_nodes": ("pool", "max_nodes"),
    "slots": ("pool", "slots"),
    "arrivals": ("clients", "arrivals"),
    "days": ("clients", "days"),
    "peak": ("clients", "peak"),
    "session": ("clients", "session"),
    "crowds": ("clients", "crowds"),
    "crowd": ("clients", "crowd"),
    "patience": ("clients", "patience"),
    "start": ("machines", "start"),
    "create": ("machines", "create"),
    "stop": ("machines", "stop"),
    "start_failures": ("machines", "start_failures"),
    "create_failures": ("machines", "create_failures"),
    "price": ("machines", "running"),
    "disk_price": ("machines", "disk"),
    "stopped": ("machines", "stopped"),
}


class _Row(Summary, frozen=True, kw_only=True):
    """One policy as printed: `best`: no other has fewer waiting clients for less; `recommended`: take this one."""

    best: bool
    recommended: bool


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    text = "simulate a pool: what waiting, idling and starting would cost under which policy"
    parser = add_command(subparsers, "simulate", _simulate, text)
    parser.add_argument("--scenario", metavar="FILE.toml", type=Path, help="all of it, see examples/scenario.toml")
    _add_policy(parser)
    _add_arrivals(parser)
    _add_world(parser)
    out = parser.add_argument_group("what is printed")
    out.add_argument("--best", action="store_true", help="only the policies that no other one beats")
    out.add_argument("--json", action="store_true", help="a JSON list, shares from 0 to 1, times in seconds")
    out.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw it")
    out.add_argument("--jobs", type=_whole(1, 1024), default=os.cpu_count() or 1, help="processes of a sweep")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the pool", "Without a configuration: the scenario's. Several values: a sweep.")
    add_config(parser)
    group.add_argument("--pool", help="the pool of the configuration (default: its first)")
    group.add_argument("--beta", type=_list(_number(0, 100)), metavar="β,…", help="beta")
    group.add_argument("--floor", type=_list(_whole(0, 100_000)), metavar="N,…", help="min_ready")
    group.add_argument("--idle-timeout", type=_list(_number(0.1, 31_536_000)), metavar="S,…", help="idle_timeout")
    group.add_argument("--hold-beta", type=_list(_number(0, 100)), metavar="β,…", help="hold_beta; 0 for none")
    group.add_argument("--demand-window", type=_list(_number(0, 31_536_000)), metavar="S,…", help="demand_window")
    group.add_argument("--max-nodes", type=_whole(1, 10_000), help="nodes in any state")
    group.add_argument("--slots", type=_whole(1, 1000), help="sessions at once on a node")
    group.add_argument("--stopped", type=_whole(0, 10_000), help="stopped nodes at the beginning (default: the peak)")
    group.add_argument(
        "--waited-at-most",
        type=_share,
        metavar="1%",
        help="recommend the cheapest policy in which no more clients wait",
    )


def _add_arrivals(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the clients", "From a record, or drawn: busiest at 20:00, with flash crowds.")
    group.add_argument("--arrivals", metavar="FILE", help="of `rtcbridge sessions --csv`, or a bridge's store")
    group.add_argument("--days", type=_number(0.1, 366), help="how long (7)")
    group.add_argument("--peak", type=_number(0.01, 100_000), help="sessions at once (25)")
    group.add_argument("--session", type=_distribution, help="lengths (lognormal:480:1.1)")
    group.add_argument("--crowds", type=_number(0, 1000), help="flash crowds a day (2)")
    group.add_argument("--crowd", type=_share, help="their size, of the peak (25%%)")
    group.add_argument("--patience", type=_number(0.1, 1e6), help="mean seconds that a client waits (180)")
    group.add_argument("--seeds", type=_list(_whole(0, 2**31)), metavar="1,2,3", help="of all draws (1)")


def _add_world(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machines", "A duration is 40, 20-60 or lognormal:MEAN:SIGMA, in seconds.")
    group.add_argument("--start", type=_distribution, help="of a stopped machine (20-60)")
    group.add_argument("--create", type=_distribution, help="of a new machine (120-600)")
    group.add_argument("--stop", type=_number(0, 1e5), help="to stop it, paid for (30)")
    group.add_argument("--start-failures", type=_share, help="starts refused (3%%)")
    group.add_argument("--create-failures", type=_share, help="creations refused (0%%)")
    group.add_argument("--price", type=_number(0, 1e6), help="USD an hour running (1.006)")
    group.add_argument("--disk-price", type=_number(0, 1e6), help="USD an hour of disk (0.011)")


# --- arguments ---


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"expects a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expects a number from {low:.15g} to {high:.15g}, got {text!r}")
        return value

    return parse


def _list(one: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    return lambda text: tuple(one(part.strip()) for part in text.split(","))


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expects a share such as 1% or 0.01, got {text!r}")
    return value


def _distribution(text: str) -> str:
    try:
        distribution(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expects {scenario.DISTRIBUTION}, got {text!r}") from None
    return text


# --- the run ---


def _simulate(args: argparse.Namespace) -> int:
    asked = _scenario(args)
    recorded = None
    if asked.clients.arrivals:
        recorded = record.read(Path(asked.clients.arrivals), args.pool or (asked.pool.name if args.config else None))
    stopped = None if asked.machines.stopped < 0 else asked.machines.stopped
    study = Study(asked.world(), asked.cases(recorded), stopped)
    specs, goal = asked.policies(), asked.goal
    if len(specs) == 1:
        outcomes = [study.simulate(specs[0], case) for case in study.cases]
        summaries = [summarize(outcomes, [study.bound(case, specs[0].slots).usd for case in study.cases])]
    else:
        print(f"{len(specs)} policies, {len(study.cases)} times each …", file=sys.stderr)
        summaries = sweep(study, specs, args.jobs)
    chosen = None if goal is None else recommend(summaries, goal)
    _print(summaries, chosen, only_best=args.best, as_json=args.json)
    if args.plot:
        several = len(specs) > 1
        _save(args.plot, plot.trade(summaries, goal, chosen) if several else plot.week(outcomes[0], summaries[0]))
    if goal is not None and chosen is None:
        least = min(summaries, key=lambda one: one.waited)
        raise CommandError(
            f"in none of these policies do at most {goal:.4g} of clients wait; the least is {least.waited:.4g}"
        )
    if chosen is not None and not args.json:
        print(f"recommended: {_settings(chosen)}: {chosen.waited:.2%} wait, at {chosen.ratio:.3f} times the bound")
    return 0


def _settings(chosen: Summary) -> str:
    values = [("beta", chosen.beta), ("min_ready", chosen.floor), ("idle_timeout", chosen.idle_timeout)]
    values += [("hold_beta", chosen.hold_beta), ("demand_window", chosen.demand_window)]
    return ", ".join(f"{key} = {value:g}" for key, value in values)


def _scenario(args: argparse.Namespace) -> Scenario:
    """The file's scenario, with the configuration's pool, and the options in place of what it says."""
    asked = scenario.load(args.scenario) if args.scenario is not None else Scenario()
    replace = msgspec.structs.replace
    if args.config is not None:
        settings = config.load(args.config)
        pool = settings.pool(args.pool or settings.pools[0].name)
        if pool is None:
            known = ", ".join(pool.name for pool in settings.pools)
            raise UsageError(f"--pool expects one of {known}, got {args.pool!r}")
        if pool.provider == "static":
            raise UsageError(
                f"the pool {pool.name} is static: its nodes come and go on their own, nothing can be simulated"
            )
        asked = replace(asked, pool=pool)
    elif args.pool is not None and args.arrivals is None:
        raise UsageError("--pool expects --config FILE or --arrivals FILE beside it")
    for option, (table, key) in _OPTIONS.items():
        if (value := getattr(args, option)) is not None:
            asked = replace(asked, **{table: replace(getattr(asked, table), **{key: value})})
    if distribution(asked.clients.session).mean <= 0:
        raise UsageError("--session expects a mean above 0")
    return asked if args.seeds is None else replace(asked, seeds=args.seeds)


def _print(summaries: list[Summary], chosen: Summary | None, *, only_best: bool, as_json: bool) -> None:
    best = frontier(summaries)
    rows = [
        _Row(**msgspec.structs.asdict(one), best=len(summaries) > 1 and one in best, recommended=one is chosen)
        for one in (best if only_best else summaries)
    ]
    show(
        rows,
        {
            "": lambda row: "→" if row.recommended else "*" if row.best else "",
            "BETA": lambda row: f"{row.beta:g}",
            "FLOOR": lambda row: row.floor,
            "IDLE": lambda row: f"{row.idle_timeout:g} s",
            "HOLD": lambda row: f"{row.hold_beta:g}" if row.hold_beta else "-",
            "WINDOW": lambda row: f"{row.demand_window:g} s" if row.demand_window else "-",
            "P50": lambda row: f"{row.p50:.1f} s",
            "P95": lambda row: f"{row.p95:.1f} s",
            "P99": lambda row: f"{row.p99:.1f} s",
            "WAITED": lambda row: f"{row.waited:.2%}",
            "LEFT": lambda row: f"{row.abandoned + row.refused:.2%}",
            "USD/DAY": lambda row: f"{row.usd_a_day:.2f}",
            "BOUND": lambda row: f"{row.bound_a_day:.2f}",
            "RATIO": lambda row: f"{row.ratio:.3f}",
            "BUSY": lambda row: f"{row.busy:.0%}",
            "STARTS": lambda row: row.starts,
            "CREATES": lambda row: row.creates,
        },
        as_json=as_json,
    )


def _save(file: Path, svg: str) -> None:
    try:
        file.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--plot: {file} cannot be written: {error.strerror}") from None
