"""The ``octavo`` command."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

_DEMO_NEEDS = {"sklearn": "scikit-learn", "rich": "rich", "safetensors": "safetensors"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: the arguments after the program's name; None means those of the process.

    Returns:
        The exit status: 0 success, 1 the demo broke one of its promises, 2 wrong usage or
        something is missing.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The runner has a command line of its own; argparse would take its options for ours.
    own = arguments[:1] if arguments[:1] == ["bench"] else arguments
    options = _parser().parse_args(own)
    options.arguments = arguments[len(own) :]
    from octavo import backend

    try:
        backend.current()
    except (RuntimeError, ValueError) as error:  # OCTAVO_ISA names what is not there
        print(f"octavo: {error}", file=sys.stderr)
        return 2
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="octavo", description="int8 inference for PyTorch models on CPUs"
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_info(commands)
    _add_demo(commands)
    _add_bench(commands)
    return parser


def _version() -> str:
    from octavo import __version__

    return f"octavo {__version__}"


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = commands.add_parser(
        "info", help="what this CPU offers and what Octavo chooses", description=_INFO
    )
    info.add_argument("--json", action="store_true", help="print JSON instead of tables")
    info.set_defaults(run=_run_info)


_INFO = """Shows the CPU features found, the instruction set levels (ISAs) that are built in, can
run and are chosen, the kernels that typical layers get, and the thread pool in use."""


def _run_info(options: argparse.Namespace) -> int:
    from octavo import info

    found = info.collect()
    print(info.as_json(found) if options.json else info.as_text(found))
    return 0


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo", help="quantize a real network and measure the result", description=_DEMO
    )
    demo.add_argument("--quick", action="store_true", help="less training, fewer measurements")
    demo.add_argument(
        "--threads", type=_positive, metavar="N", help="threads to train and run on (torch's own)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of split and training (default: 0)")
    demo.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the saved models there (default: discard)"
    )
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    demo.add_argument(
        "--min-speedup",
        type=float,
        metavar="X",
        help="fail unless int8 is more than X times as fast as float32 at batch 64 (default: 1; "
        "not judged on the scalar kernels; 0: report only, for noisy machines)",
    )
    demo.add_argument(
        "--check-isas",
        action="store_true",
        help="also run the converted network on every ISA of this CPU, on 1 and 2 threads, and "
        "compare to the bit",
    )
    demo.set_defaults(run=_run_demo)


_DEMO = """Trains a small residual network on scikit-learn's handwritten digits, quantizes it, and
compares accuracy, size and latency with float32 and with torch.ao where torch has it. Saves the
int8 model, loads it in a new process and checks that the outputs are equal to the bit. Exits
with 1 if a promise does not hold."""


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _run_demo(options: argparse.Namespace) -> int:
    missing = [
        package
        for module, package in _DEMO_NEEDS.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        print(
            f"octavo demo: missing {', '.join(missing)}; install them with the extra: "
            'pip install "octavo[demo]"',
            file=sys.stderr,
        )
        return 2

    from octavo.demo.run import Options, run

    return run(
        Options(
            quick=options.quick,
            threads=options.threads,
            seed=options.seed,
            out=options.out,
            json_file=options.json,
            min_speedup=options.min_speedup,
            check_isas=options.check_isas,
        )
    )


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench", help="measure speed beside other libraries (octavo bench --help)", add_help=False
    )
    bench.set_defaults(run=_run_bench)


def _run_bench(options: argparse.Namespace) -> int:
    from octavo.bench.cli import main as run

    return run(options.arguments)
