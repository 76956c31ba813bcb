"""The command line of the benchmark runner."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

_NEEDS = {"rich": "rich", "jsonschema": "jsonschema"}
_DESCRIPTION = """Measures Octavo beside other int8 libraries on this machine. Every result is
checked before it is timed; contenders take turns; peers that are missing are named. Without COMMAND
it measures what bench/RESULTS.md holds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: the arguments after ``octavo bench``; None means those of the process.

    Returns:
        The exit status: 0 success, 1 a level failed or a comparison found a loss, 2 wrong usage or
        something is missing, 130 interrupted.
    """
    missing = [name for module, name in _NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"octavo bench: missing {', '.join(missing)}; install them with the extra: "
            'pip install "octavo[bench]"',
            file=sys.stderr,
        )
        return 2
    from octavo.bench.commands import all_commands

    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = all_commands()
    parser = argparse.ArgumentParser(prog="octavo bench", description=_DESCRIPTION)
    adder = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands.values():
        sub = adder.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(sub)
        sub.set_defaults(command=command)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "report")
    options = parser.parse_args(arguments)
    options.arguments = arguments
    try:
        status: int = options.command.run(options)
    except ValueError as error:
        print(f"octavo bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("octavo bench: interrupted; only sections of --results were written", file=sys.stderr)
        return 130
    return status
