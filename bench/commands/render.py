"""``render``: a results file as a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from octavo.bench import results
from octavo.bench.commands.base import RESULTS, Command
from octavo.bench.report import merged


class Render(Command):
    name = "render"
    help = "a file of `report --results` as Markdown"
    order = 10

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("results", type=Path, metavar="FILE")
        parser.add_argument(
            "--markdown", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS}"
        )

    def run(self, options: argparse.Namespace) -> int:
        found = results.read(options.results)
        if not found:
            raise ValueError(f"{options.results}: no such file, or no sections in it")
        if not options.markdown.absolute().parent.is_dir():
            raise ValueError(f"--markdown {options.markdown}: there is no such folder; name a file")
        merged.write(found, options.markdown)
        print(f"wrote {options.markdown}", file=sys.stderr)
        return 0


COMMAND = Render()
