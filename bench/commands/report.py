"""``report``: what bench/RESULTS.md holds. Runs where no subcommand is given."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from octavo.bench import levels, machine, results, runner
from octavo.bench.cases import Case
from octavo.bench.commands.base import Suite, Tell
from octavo.bench.report import merged
from octavo.bench.throughput import record


def _suites() -> dict[str, Suite]:
    from octavo.bench.commands import all_commands

    found = all_commands().values()
    return {c.name: c for c in found if isinstance(c, Suite) and c.in_report}


class Report(Suite):
    name = "report"
    help = "all but peak together (also without a subcommand)"
    order = 9

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("section by section")
        group.add_argument(
            "--results",
            type=Path,
            metavar="FILE",
            help="puts every section (a subcommand on a level) into this file as soon as it is "
            "measured; sections that are there already and not measured now stay",
        )
        group.add_argument(
            "--sections",
            action="append",
            metavar="COMMAND",
            help="only these subcommands; several separated by commas",
        )
        group.add_argument(
            "--resume",
            action="store_true",
            help="not the sections that the file has, measured at this commit with these settings",
        )
        model = parser.add_argument_group("throughput model")
        model.add_argument(
            "--objects",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="a build folder whose inner loops to model again, as `throughput --keep` does; "
            "may repeat (default: the report shows what is on record)",
        )
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        suites = _chosen(options.sections).values()
        return [case for suite in suites for case in suite.report_cases(options, tell)]

    def run(self, options: argparse.Namespace) -> int:
        if options.results is None:
            if options.resume:
                raise ValueError("--resume needs --results: the file whose sections are to stay")
            _model_loops(options.objects)
            return super().run(options)
        _check(options)
        _model_loops(options.objects)
        status = _measure_sections(options)
        if options.markdown is not None:
            merged.write(results.read(options.results), options.markdown)
            print(f"wrote {options.markdown}", file=sys.stderr)
        return status


def _check(options: argparse.Namespace) -> None:
    """Raises:
    ValueError: options that do not go together, or a file that is no file of results.
    """
    for name in ("json", "csv", "plot"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is of one run; with --results, leave it out")
    for name in ("results", "markdown"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"--{name} {path}: there is no folder {path.parent}; name a file")
    results.read(options.results)


def _model_loops(folders: list[Path]) -> None:
    """Puts the inner loops of builds on record. Without LLVM's tools, what is there stays."""
    if not folders:
        return
    try:
        record.keep(record.examine(record.objects(folders)))
    except ValueError as error:
        print(f"throughput model: {error}; the report shows what is on record", file=sys.stderr)


def _chosen(names: list[str] | None) -> dict[str, Suite]:
    known = _suites()
    asked = [part for name in names or known for part in name.split(",") if part]
    for name in asked:
        if name not in known:
            raise ValueError(f"--sections {name}: no such section; there are {', '.join(known)}")
    return {name: suite for name, suite in known.items() if name in asked}


def _measure_sections(options: argparse.Namespace) -> int:
    """Measures and stores one section after the other.

    Returns:
        0, or 1 where one failed; the others are measured all the same.
    """
    job, path, commit = runner.Job.from_options(options), options.results, machine.commit()
    status = 0
    for isa in job.levels:
        alone = replace(job, levels=[isa])
        if levels.absence(isa) is not None:
            results.add(path, results.key(isa, None), runner.run(alone, [], []))
            continue
        for name, suite in _chosen(options.sections).items():
            key = results.key(isa, name)
            kept = results.read(path).get(key)
            if options.resume and kept and results.is_current(kept, alone.settings(), commit):
                print(f"{key}: there already", file=sys.stderr)
                continue
            notes: list[str] = []
            cases = suite.report_cases(options, notes.append)
            document = runner.run(alone, cases, notes)
            stored = results.add(path, key, document)
            if results.is_measured(document):
                print(f"{key}: measured", file=sys.stderr)
                continue
            status = 1
            reasons = "; ".join(level["reason"] for level in document["levels"])
            older = "" if stored else "; the file keeps the older one"
            print(f"{key}: failed: {reasons}{older}", file=sys.stderr)
    return status


COMMAND = Report()
