"""``throughput``: what LLVM's models say of inner loops, for CPUs that are not at hand."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from octavo.bench.commands.base import RESULTS, Command
from octavo.bench.report import markdown, table
from octavo.bench.report import throughput as report
from octavo.bench.throughput import record


class Throughput(Command):
    name = "throughput"
    help = "inner loops by instruction counts and LLVM's models (llvm-mca), for other CPUs"
    order = 8

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--objects",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="a build folder whose kernels to look at; may repeat (default: shows what is on "
            "record)",
        )
        parser.add_argument(
            "--keep", action="store_true", help="puts the results on record, for reports"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="every loop, as JSON")
        parser.add_argument(
            "--markdown",
            type=Path,
            nargs="?",
            const=RESULTS,
            metavar="FILE",
            help=f"writes what is on record into its place in a report (default: {RESULTS})",
        )

    def run(self, options: argparse.Namespace) -> int:
        if options.keep and not options.objects:
            raise ValueError("--keep needs --objects: the build whose loops to put on record")
        if options.markdown is not None and not options.markdown.exists():
            raise ValueError(f"--markdown {options.markdown}: no such report")
        found = record.read()
        if options.objects:
            files = record.objects(options.objects)
            found = record.examine(files)
            for name in record.missing(files, found):
                print(f"no loop found: {name}", file=sys.stderr)
        if not found:
            raise ValueError("no loops of kernels that the model knows; name a build by --objects")
        if options.keep:
            record.keep(found)
        table.show_sections(report.sections(found))
        if options.json is not None:
            text = json.dumps([asdict(entry) for entry in found], indent=1)
            options.json.write_text(text + "\n")
            print(f"wrote {options.json}", file=sys.stderr)
        if options.markdown is not None:
            page = options.markdown.read_text()
            options.markdown.write_text(markdown.with_throughput(page, record.read()))
            print(f"wrote {options.markdown}", file=sys.stderr)
        return 0


COMMAND = Throughput()
