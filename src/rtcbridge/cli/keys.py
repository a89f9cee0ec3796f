"""`rtcbridge keys`: make, list, rotate and revoke the keys of clients, of static nodes and of operators.

A bridge that runs on the same store takes each change in at once.
"""

import argparse
import re
import sys
import time

from rtcbridge import config
from rtcbridge.cli import CommandError, Parser, Subparsers, UsageError, add_command, add_config
from rtcbridge.cli.table import add_json, moment, show
from rtcbridge.drivers.ledger import KeyMaker, open_store
from rtcbridge.ports import SCOPES, KeyLimits, KeyRow

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Options of `create`, with the limit that each sets, and what it bounds.
_LIMITS = {
    "--max-connections": ("connections", "sockets at once, on each bridge"),
    "--max-sessions": ("sessions", "sessions at once, on all bridges together"),
    "--max-messages": ("messages", "messages a second, on each bridge"),
    "--max-creations": ("creations", "sessions and client tokens a minute, on each bridge"),
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command with its four."""
    text = "make, list, rotate and revoke keys"
    parser = subparsers.add_parser("keys", help=text, description=f"{text.capitalize()}.")
    commands: argparse._SubParsersAction[Parser] = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = add_command(
        commands,
        "create",
        _create,
        "make a key and print it, as the last word of the only line; it is shown once",
    )
    create.add_argument("--project", type=_project, help="a client's key: six characters A-Z 0-9")
    create.add_argument("--node", action="store_true", help="the key of a static node; needs --pool")
    create.add_argument("--pool", help="the pool that the node may join")
    create.add_argument("--admin", action="store_true", help="an operator's key, for the admin API")
    create.add_argument(
        "--scopes", type=_scopes, default=(), help=f"what a client's key may do, by commas: {', '.join(SCOPES)}"
    )
    create.add_argument("--expires", type=_duration, metavar="TIME", help="from now, such as 90s, 30m, 24h or 365d")
    for option, (name, bounded) in _LIMITS.items():
        create.add_argument(option, dest=name, type=_count, default=0, metavar="N", help=bounded)
    add_config(create)
    rotate = add_command(
        commands,
        "rotate",
        _rotate,
        "make a key that may do what another one may, and print it like create; the other one expires",
    )
    rotate.add_argument("id", metavar="ID", nargs="?", help="as `rtcbridge keys list` shows it")
    rotate.add_argument(
        "--overlap", type=_duration, metavar="TIME", help="until the old one expires, such as 24h; default: at once"
    )
    rotate.add_argument(
        "--signing", action="store_true", help="the key that signs client tokens, instead of ID; none of them is lost"
    )
    add_config(rotate)
    listing = add_command(commands, "list", _list, "list all keys, oldest first; the keys themselves are not stored")
    add_json(listing)
    add_config(listing)
    revoke = add_command(commands, "revoke", _revoke, "revoke a key and close its sockets")
    revoke.add_argument("id", metavar="ID", help="as `rtcbridge keys list` shows it")
    add_config(revoke)


def _project(text: str) -> str:
    from rtcbridge.drivers.ledger.key_maker import PROJECT

    if not PROJECT.match(text):
        raise argparse.ArgumentTypeError(f"expects six characters A-Z 0-9, got {text!r}")
    return text


def _scopes(text: str) -> tuple[str, ...]:
    scopes = tuple(text.split(","))
    for scope in scopes:
        if scope not in SCOPES:
            raise argparse.ArgumentTypeError(f"expects names of {', '.join(SCOPES)} between commas, got {scope!r}")
    return scopes


def _duration(text: str) -> float:
    """Seconds, of a text such as `24h`."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"expects a number with s, m, h or d behind it, such as 24h, got {text!r}")
    return float(int(found[1]) * _UNITS[found[2]])


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expects a whole number above 0, got {text!r}")
    return int(text)


def _create(args: argparse.Namespace) -> int:
    if args.node + args.admin + (args.project is not None) != 1:
        raise UsageError("expected one of --project PROJECT, --node --pool NAME, and --admin")
    if args.node != (args.pool is not None):
        raise UsageError("--node and --pool NAME belong together")
    settings = config.load(args.config)
    if args.node and settings.pool(args.pool) is None:
        names = ", ".join(pool.name for pool in settings.pools)
        raise UsageError(f"--pool expects a pool of the configuration ({names}), got {args.pool!r}")
    limits = KeyLimits(**{name: getattr(args, name) for name, _ in _LIMITS.values()})
    if args.project is None and (args.scopes or limits != KeyLimits()):
        raise UsageError("--scopes and --max-… are for the keys of clients")
    expires = None if args.expires is None else time.time() + args.expires
    with open_store(settings.store.url) as store:
        keys = KeyMaker(store)
        if args.admin:
            key = keys.create_admin_key(expires=expires)
        elif args.node:
            key = keys.create_node_key(args.pool, expires=expires)
        else:
            key = keys.create_client_key(args.project, scopes=args.scopes, limits=limits, expires=expires)
    print(key)
    place = settings.store.path.absolute() if settings.store.path else store.name
    print(f"Stored in {place}; the key is not shown again.", file=sys.stderr)
    return 0


def _rotate(args: argparse.Namespace) -> int:
    if args.signing == (args.id is not None):
        raise UsageError("expected one of ID and --signing")
    if args.signing and args.overlap is not None:
        raise UsageError("--signing has an overlap of its own: until the last token of the old key has expired")
    overlap = args.overlap or 0.0
    with open_store(config.load(args.config).store.url) as store:
        if args.signing:
            print(
                f"Client tokens are signed with key {KeyMaker(store).rotate_signing_key()} in a few seconds.",
                file=sys.stderr,
            )
            return 0
        key = KeyMaker(store).rotate_key(args.id, overlap)
    if key is None:
        raise CommandError(
            f"there is no valid key with the id {args.id!r} that can be rotated; see rtcbridge keys list"
        )
    print(key)
    when = f"expires at {moment(time.time() + overlap)}, if not before" if overlap else "has expired"
    print(f"The key is not shown again. Key {args.id} {when}.", file=sys.stderr)
    return 0


def _kind(row: KeyRow) -> str:
    kinds = {"admin": row.is_admin, "node": row.is_node, "signing": row.is_signing}
    return next((kind for kind, is_one in kinds.items() if is_one), "client")


def _limits(row: KeyRow) -> str:
    return ",".join(f"{name}={getattr(row.limits, name)}" for name, _ in _LIMITS.values() if getattr(row.limits, name))


def _list(args: argparse.Namespace) -> int:
    with open_store(config.load(args.config).store.url) as store:
        rows = KeyMaker(store).keys()
    show(
        rows,
        {
            "ID": lambda row: row.id,
            "PROJECT": lambda row: row.project,
            "KIND": _kind,
            "POOL": lambda row: row.pool,
            "CREATED": lambda row: moment(row.created),
            "REVOKED": lambda row: moment(row.revoked),
            "EXPIRES": lambda row: moment(row.expires),
            "LAST USED": lambda row: moment(row.last_used),
            "SCOPES": lambda row: ",".join(row.scopes),
            "LIMITS": _limits,
        },
        as_json=args.json,
    )
    return 0


def _revoke(args: argparse.Namespace) -> int:
    with open_store(config.load(args.config).store.url) as store:
        revoked = KeyMaker(store).revoke_key(args.id)
    if not revoked:
        raise CommandError(f"there is no valid key with the id {args.id!r}; see rtcbridge keys list")
    print(f"Revoked key {args.id}.", file=sys.stderr)
    return 0
