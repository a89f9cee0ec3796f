"""`rtcbridge keys`: make, list and revoke the keys of clients, of static nodes and of operators.

A bridge that runs on the same store takes each change in at once.
"""

import argparse
import sys

from rtcbridge import config
from rtcbridge.cli import CommandError, Parser, Subparsers, UsageError, add_command, add_config
from rtcbridge.cli.table import add_json, moment, show
from rtcbridge.drivers.ledger import KeyMaker, open_store


def add_parser(subparsers: Subparsers) -> None:
    """Add the command with its three."""
    parser = subparsers.add_parser("keys", help="make, list and revoke keys", description="Make, list and revoke keys.")
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
    add_config(create)
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


def _create(args: argparse.Namespace) -> int:
    if args.node + args.admin + (args.project is not None) != 1:
        raise UsageError("expected one of --project PROJECT, --node --pool NAME, and --admin")
    if args.node != (args.pool is not None):
        raise UsageError("--node and --pool NAME belong together")
    settings = config.load(args.config)
    if args.node and settings.pool(args.pool) is None:
        names = ", ".join(pool.name for pool in settings.pools)
        raise UsageError(f"--pool expects a pool of the configuration ({names}), got {args.pool!r}")
    with open_store(settings.store.url) as store:
        keys = KeyMaker(store)
        if args.admin:
            key = keys.create_admin_key()
        else:
            key = keys.create_node_key(args.pool) if args.node else keys.create_client_key(args.project)
    print(key)
    place = settings.store.path.absolute() if settings.store.path else store.name
    print(f"Stored in {place}; the key is not shown again.", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    with open_store(config.load(args.config).store.url) as store:
        rows = KeyMaker(store).keys()
    show(
        rows,
        {
            "ID": lambda row: row.id,
            "PROJECT": lambda row: row.project,
            "KIND": lambda row: "admin" if row.is_admin else "node" if row.is_node else "client",
            "POOL": lambda row: row.pool,
            "CREATED": lambda row: moment(row.created),
            "REVOKED": lambda row: moment(row.revoked),
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
