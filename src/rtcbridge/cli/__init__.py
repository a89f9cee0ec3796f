"""The command line: the composition root, and the only place that picks drivers.

Each command lives in a module of its own, with `add_parser(subparsers)`, and is imported only when it is
asked for: `rtcbridge keys` neither waits for a server nor needs what only a node needs.
"""

import argparse
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Never, TypeAlias

from rtcbridge.config import ConfigError
from rtcbridge.ports import LedgerError

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"

COMMANDS = {
    "demo": "rtcbridge.cli.demo",
    "serve": "rtcbridge.cli.serve",
    "node": "rtcbridge.cli.node",
    "send": "rtcbridge.cli.send",
    "keys": "rtcbridge.cli.keys",
    "nodes": "rtcbridge.cli.inspect",
    "sessions": "rtcbridge.cli.inspect",
    "pools": "rtcbridge.cli.inspect",
    "top": "rtcbridge.cli.top",
    "usage": "rtcbridge.cli.usage",
    "conformance": "rtcbridge.cli.conformance",
    "backup": "rtcbridge.cli.backup",
    "simulate": "rtcbridge.cli.simulate",
}

_EPILOG = "Each command explains itself: rtcbridge keys --help. Configuration: config.sample.toml."


class UsageError(Exception):
    """A command line that cannot be obeyed; its text is one line. The exit status is 2."""


class CommandError(Exception):
    """A command that failed; its text is one line. The exit status is 1."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what `argparse.ArgumentParser` takes; abbreviated options are not understood."""
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Never:
        """Print the mistake, such as `rtcbridge keys create: --pool expects …`, and exit with status 2."""
        message = re.sub(r"^argument ([^:]+): (?=expects )", r"\1 ", message)
        message = re.sub(r"^argument ", "", message)
        message = re.sub(r"^the following arguments are required: ", "expected ", message)
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"rtcbridge {version('rtcbridge')}")
        parser.exit()


def add_command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str, **options: Any
) -> Parser:
    """Add a command that `run` performs; it returns the exit status.

    Args:
        subparsers: of the command above.
        name: of the command.
        run: gets the parsed arguments. It may raise UsageError, CommandError, ConfigError and LedgerError.
        text: what the command does, for the help.
        options: further arguments of the parser.
    """
    parser = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
    parser.set_defaults(run=run, prog=parser.prog)
    return parser


def add_config(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Add `--config FILE`. `default`: `argparse.SUPPRESS` for a command below another that has it too."""
    parser.add_argument("--config", metavar="FILE", default=default, help="the configuration, see config.sample.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 1 failed, 2 not understood, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser(arguments)
        if not arguments:
            parser.error(f"expected a command, see {parser.prog} --help")
        args = parser.parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    prog = getattr(args, "prog", f"rtcbridge {args.command}")
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except (ConfigError, UsageError) as error:
        return _fail(prog, error, 2)
    except (CommandError, LedgerError) as error:
        return _fail(prog, error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone, for example `head`. Nothing may be flushed into it at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(prog: str, error: Exception, status: int) -> int:
    print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _parser(arguments: Sequence[str]) -> Parser:
    """Make the parser, with the one command that is asked for, or with all for the help and for errors."""
    parser = Parser(prog="rtcbridge", description="Any real-time video model behind one WebSocket.", epilog=_EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = arguments[0] if arguments and arguments[0] in COMMANDS else None
    for module in dict.fromkeys([COMMANDS[asked]] if asked else COMMANDS.values()):
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).add_parser(subparsers)
    return parser
