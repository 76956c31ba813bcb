"""What a subcommand is, and what those that measure share."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from octavo.bench import document as documents
from octavo.bench import runner
from octavo.bench.cases import Case
from octavo.bench.report import csv, markdown, plot, table

RESULTS = Path("bench/RESULTS.md")
Tell = Callable[[str], None]  # gets a sentence for the report's notes


class Command(ABC):
    """One subcommand.

    Attributes:
        name, help: as ``--help`` shows them.
        order: there.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    order: ClassVar[int] = 50

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the subcommand's options."""

    @abstractmethod
    def run(self, options: argparse.Namespace) -> int:
        """Does the work.

        Returns:
            The exit status.

        Raises:
            ValueError: an option's value is wrong; the message names it.
        """


class Suite(Command):
    """A subcommand that measures cases on every level and reports them.

    Attributes:
        in_report: whether ``octavo bench --markdown`` includes it.
    """

    in_report: ClassVar[bool] = False

    @abstractmethod
    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        """What to measure."""

    def report_cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        """What of it goes into the report, whose options are only those that all suites share."""
        return self.cases(options, tell)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_common(parser)

    def run(self, options: argparse.Namespace) -> int:
        notes: list[str] = []
        return measure_and_report(options, self.cases(options, notes.append), notes)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every subcommand that measures."""
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--isa",
        action="append",
        metavar="LEVEL",
        help="instruction set levels: one, several separated by commas, or all (default: every one "
        "that runs here, without scalar); peers are kept to the same level",
    )
    what.add_argument("--threads", type=_positive, default=1, metavar="N", help="default: 1")
    what.add_argument(
        "--peers",
        action="append",
        metavar="NAME",
        help="of fp32, bf16, fbgemm, onednn, qnnpack, ort, openvino, torch_ao, inductor, copy, "
        "octavo_fx, octavo_export; several separated by commas, or none (default: all; those that "
        "are missing are named)",
    )
    what.add_argument("--kernel", metavar="NAME", help="force one of Octavo's GEMM kernels")
    heat = what.add_mutually_exclusive_group()
    heat.add_argument(
        "--cold",
        action="store_true",
        help="rotate weights through more than the last-level cache",
    )
    heat.add_argument(
        "--hot", dest="cold", action="store_false", help="the same weights every time (default)"
    )
    effort = parser.add_argument_group("how long")
    effort.add_argument("--rounds", type=_positive, metavar="N", help="turns of each contender")
    effort.add_argument("--seconds", type=float, metavar="S", help="for one contender and case")
    effort.add_argument(
        "--quick", action="store_true", help="tiny sizes, few repeats: to see that it works"
    )
    output = parser.add_argument_group("what to write, besides tables on the terminal")
    output.add_argument("--json", type=Path, metavar="FILE", help="everything, raw samples too")
    output.add_argument("--csv", type=Path, metavar="FILE", help="one row for each time")
    output.add_argument(
        "--plot", type=Path, metavar="FILE", help="roofline and ratios, as .png or .svg"
    )
    output.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="FILE",
        help=f"the report (default: {RESULTS})",
    )


def add_shapes(parser: argparse.ArgumentParser, default: str) -> None:
    """Options for the layers to measure."""
    shapes = parser.add_argument_group("layers")
    shapes.add_argument(
        "--shapes",
        action="append",
        default=[],
        metavar="FILE",
        help=f"a shape file, or the name of one in bench/shapes; may repeat (default: {default})",
    )
    shapes.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="LAYER",
        help="one layer, as a line of a shape file has it, such as 128x768x3072; may repeat",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def measure_and_report(options: argparse.Namespace, cases: list[Case], notes: list[str]) -> int:
    """Measures, prints tables, and writes the files that the options ask for.

    Returns:
        0, or 1 where a level failed, or 2 where none of those asked for can run here.

    Raises:
        ValueError: an option's value is wrong.
    """

    _check_outputs(options)
    document = runner.run(runner.Job.from_options(options), cases, notes)
    writers = (
        (options.json, documents.write),
        (options.csv, csv.write),
        (options.plot, plot.write),
        (options.markdown, markdown.write),
    )
    for path, write in writers:
        if path is not None:
            write(document, path)
            print(f"wrote {path}", file=sys.stderr)
    table.show(document)
    states = {level["status"] for level in document["levels"]}
    if "failed" in states:
        return 1
    return 0 if "measured" in states else 2


def _check_outputs(options: argparse.Namespace) -> None:
    """Finds out before the measurement what would fail after it."""
    for name in ("json", "csv", "plot", "markdown"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"--{name} {path}: there is no folder {path.parent}; name a file")
    if options.plot is not None:
        if options.plot.suffix not in (".png", ".svg"):
            raise ValueError(f"--plot {options.plot}: the name must end in .png or .svg")
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError(
                '--plot needs matplotlib; install it with the extra: pip install "octavo[bench]"'
            )
    if options.seconds is not None and not options.seconds > 0.0:
        raise ValueError(f"--seconds {options.seconds}: must be above 0")
