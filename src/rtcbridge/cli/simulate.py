"""`rtcbridge simulate`: a pool's policy against what it costs, before anything is paid."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from rtcbridge import config
from rtcbridge.cli import CommandError, Subparsers, UsageError, add_command, add_config
from rtcbridge.cli.table import show
from rtcbridge.core.spec import PoolSpec
from rtcbridge.sim import arrivals, plot
from rtcbridge.sim.outcome import Summary, summarize
from rtcbridge.sim.study import Case, Study, frontier, policies, recommend, sweep
from rtcbridge.sim.world import Distribution, World, distribution

_REFERENCE = PoolSpec(name="reference", beta=1.5, min_ready=2, max_nodes=80, stopped_timeout=0.0)
_GRID = ((0.5, 1.0, 1.25, 1.5, 2.0), (1, 2, 4), (60.0, 120.0, 240.0))  # beta, floor, idle timeout
_MOST = 1000  # policies in a sweep
_T = TypeVar("_T")


class _Row(Summary, frozen=True, kw_only=True):
    """One policy as printed: `best`: no other has fewer waiting clients for less; `recommended`: take this one."""

    best: bool
    recommended: bool


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    text = "simulate a pool: what waiting, idling and starting would cost under which policy"
    parser = add_command(subparsers, "simulate", _simulate, text)
    _add_policy(parser)
    _add_arrivals(parser)
    _add_world(parser)
    out = parser.add_argument_group("what is printed")
    out.add_argument("--json", action="store_true", help="a JSON list, shares from 0 to 1, times in seconds")
    out.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw it")
    out.add_argument("--jobs", type=_whole(1, 1024), default=os.cpu_count() or 1, help="processes of a sweep")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the pool", "Without a configuration: the reference scenario's.")
    add_config(parser)
    group.add_argument("--pool", help="the pool of the configuration (default: its first)")
    group.add_argument("--beta", type=_list(_number(0, 100)), metavar="β,…", help="several make a sweep")
    group.add_argument("--floor", type=_list(_whole(0, 100_000)), metavar="N,…", help="min_ready; the same")
    group.add_argument("--idle-timeout", type=_list(_number(0.1, 31_536_000)), metavar="S,…", help="the same")
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
    known = arrivals.Rhythm()
    group.add_argument("--arrivals", metavar="FILE.csv", help="a record with the columns started and seconds")
    group.add_argument("--days", type=_number(0.1, 366), default=known.days, help="how long (default 7)")
    group.add_argument("--peak", type=_number(0.01, 100_000), default=known.peak, help="sessions at once (default 25)")
    group.add_argument("--session", type=_distribution, default=known.length, help="lengths (lognormal:480:1.1)")
    group.add_argument("--crowds", type=_number(0, 1000), default=known.crowds, help="flash crowds a day (default 2)")
    group.add_argument("--crowd", type=_share, default=known.crowd, help="their size, of the peak (default 25%%)")
    group.add_argument(
        "--patience", type=_number(0.1, 1e6), default=180.0, help="mean seconds that a client waits (180)"
    )
    group.add_argument("--seeds", type=_list(_whole(0, 2**31)), default=[1], metavar="1,2,3", help="of all draws")


def _add_world(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machines", "A duration is 40, 20-60 or lognormal:MEAN:SIGMA, in seconds.")
    known = World()
    group.add_argument("--start", type=_distribution, default=known.start, help="of a stopped machine (20-60)")
    group.add_argument("--create", type=_distribution, default=known.create, help="of a new machine (120-600)")
    group.add_argument("--stop", type=_number(0, 1e5), default=known.stop, help="to stop it, paid for (30)")
    group.add_argument("--start-failures", type=_share, default=known.start_failures, help="starts refused (3%%)")
    group.add_argument("--create-failures", type=_share, default=known.create_failures, help="creations (0%%)")
    group.add_argument("--price", type=_number(0, 1e6), default=known.running, help="USD an hour running (1.006)")
    group.add_argument("--disk-price", type=_number(0, 1e6), default=known.disk, help="USD an hour of disk (0.011)")


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


def _list(one: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    return lambda text: [one(part.strip()) for part in text.split(",")]


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expects a share such as 1% or 0.01, got {text!r}")
    return value


def _distribution(text: str) -> Distribution:
    try:
        return distribution(text)
    except ValueError:
        form = "seconds such as 40, 20-60 or lognormal:480:1.1"
        raise argparse.ArgumentTypeError(f"expects {form}, got {text!r}") from None


# --- the run ---


def _simulate(args: argparse.Namespace) -> int:
    spec = _spec(args)
    study = Study(_world(args), _cases(args), args.stopped)
    specs = _policies(spec, args)
    if len(specs) == 1:
        outcomes = [study.simulate(specs[0], case) for case in study.cases]
        summaries = [summarize(outcomes, [study.bound(case, spec.slots).usd for case in study.cases])]
    else:
        print(f"{len(specs)} policies, {len(study.cases)} times each …", file=sys.stderr)
        summaries = sweep(study, specs, args.jobs)
    goal = args.waited_at_most
    chosen = None if goal is None else recommend(summaries, goal)
    _print(summaries, chosen, as_json=args.json)
    if args.plot:
        _save(
            args.plot, plot.trade(summaries, goal, chosen) if len(specs) > 1 else plot.week(outcomes[0], summaries[0])
        )
    if goal is not None and chosen is None:
        least = min(summaries, key=lambda one: one.waited)
        raise CommandError(
            f"in none of these policies do at most {goal:.4g} of clients wait; the least is {least.waited:.4g}"
        )
    if chosen is not None and not args.json:
        values = f"beta = {chosen.beta:g}, min_ready = {chosen.floor}, idle_timeout = {chosen.idle_timeout:g}"
        print(f"recommended: {values}: {chosen.waited:.2%} wait, at {chosen.ratio:.2f} times the clairvoyant cost")
    return 0


def _spec(args: argparse.Namespace) -> PoolSpec:
    spec = _REFERENCE
    if args.config is not None:
        settings = config.load(args.config)
        pool = settings.pool(args.pool or settings.pools[0].name)
        if pool is None:
            known = ", ".join(pool.name for pool in settings.pools)
            raise UsageError(f"--pool expects one of {known}, got {args.pool!r}")
        spec = pool.spec()
    elif args.pool is not None:
        raise UsageError("--pool expects --config FILE beside it")
    if not spec.elastic:
        raise UsageError(
            f"the pool {spec.name} is static: its nodes come and go on their own, nothing can be simulated"
        )
    changes = {key: value for key in ("max_nodes", "slots") if (value := getattr(args, key)) is not None}
    return msgspec.structs.replace(spec, **changes)


def _policies(spec: PoolSpec, args: argparse.Namespace) -> list[PoolSpec]:
    """One policy, or what is asked for, or with a goal alone the grid around what is common."""
    asked = (args.beta, args.floor, args.idle_timeout)
    own = ([spec.beta], [spec.min_ready], [spec.idle_timeout])
    default = _GRID if args.waited_at_most is not None and asked == (None, None, None) else own
    betas: list[float] = list(args.beta or default[0])
    floors: list[int] = list(args.floor or default[1])
    idles: list[float] = list(args.idle_timeout or default[2])
    slots = spec.max_nodes * spec.slots
    if args.floor and max(floors) > slots:
        raise UsageError(f"--floor expects at most max_nodes times slots = {slots}, got {max(floors)}")
    specs = policies(spec, betas, [floor for floor in floors if floor <= slots], idles)
    if not 0 < len(specs) <= _MOST:
        raise UsageError(f"expected 1 to {_MOST} policies, got {len(specs)}")
    return specs


def _cases(args: argparse.Namespace) -> tuple[Case, ...]:
    seeds = list(dict.fromkeys(args.seeds))
    if args.arrivals is not None:
        try:
            recorded = arrivals.read(args.arrivals)
        except arrivals.ArrivalsError as error:
            raise UsageError(str(error)) from None
        if recorded[-1][0] == recorded[0][0]:
            raise UsageError(f"{args.arrivals}: expected sessions at different times")
        return tuple(Case(recorded, seed) for seed in seeds)
    rhythm = arrivals.Rhythm(
        days=args.days, peak=args.peak, crowds=args.crowds, crowd=args.crowd, length=args.session
    )  # fmt: skip
    if args.session.mean <= 0:
        raise UsageError("--session expects a mean above 0")
    if args.peak / args.session.mean * args.days * arrivals.DAY > arrivals.MOST:
        raise UsageError(f"expected at most {arrivals.MOST} sessions; lower --peak or --days")
    cases = tuple(Case(arrivals.generate(rhythm, seed), seed) for seed in seeds)
    if any(len(case.sessions) < 2 for case in cases):
        raise UsageError("expected more than one session; raise --peak or --days")
    return cases


def _world(args: argparse.Namespace) -> World:
    return World(
        start=args.start, create=args.create, stop=args.stop, start_failures=args.start_failures,
        create_failures=args.create_failures, running=args.price, disk=args.disk_price, patience=args.patience,
    )  # fmt: skip


def _print(summaries: list[Summary], chosen: Summary | None, *, as_json: bool) -> None:
    best = frontier(summaries)
    rows = [
        _Row(**msgspec.structs.asdict(one), best=len(summaries) > 1 and one in best, recommended=one is chosen)
        for one in summaries
    ]
    show(
        rows,
        {
            "": lambda row: "→" if row.recommended else "*" if row.best else "",
            "BETA": lambda row: f"{row.beta:g}",
            "FLOOR": lambda row: row.floor,
            "IDLE": lambda row: f"{row.idle_timeout:g} s",
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
