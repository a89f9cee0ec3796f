"""`rtcbridge serve`: the bridge."""

import argparse

from rtcbridge import config
from rtcbridge.cli import Subparsers, add_command, add_config


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(subparsers, "serve", _serve, "run the bridge until it is interrupted; nodes are left running")
    add_config(parser)


def _serve(args: argparse.Namespace) -> int:
    from rtcbridge.cli.logs import configure_logs
    from rtcbridge.cli.running import run_bridge

    settings = config.load(args.config)
    configure_logs(settings.log.level, settings.log.format)
    run_bridge(settings)
    return 0
