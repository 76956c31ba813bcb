"""Measures the cases of one or more suites on every level asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from octavo import backend
from octavo.bench import document as documents
from octavo.bench import levels, noise, peers, timing
from octavo.bench.cases import Case
from octavo.bench.process import WorkerError, measure_level
from octavo.bench.worker import Request

_FULL = timing.Effort()
_QUICK = timing.Effort(rounds=3, seconds=0.006, fewest=2)
_ROOF_SECONDS, _QUICK_ROOF_SECONDS = 0.3, 0.005


@dataclass(frozen=True)
class Job:
    """What to measure: the options that all suites share, as values."""

    levels: list[str]
    peers: list[str]
    threads: int
    effort: timing.Effort
    roof_seconds: float
    cold: bool
    kernel: str | None
    quick: bool
    arguments: list[str]

    @staticmethod
    def from_options(options: argparse.Namespace) -> Job:
        """Raises:
        ValueError: an unknown level, peer or kernel.
        """
        base = _QUICK if options.quick else _FULL
        if options.kernel is not None:
            _check_kernel(options.kernel)
        return Job(
            levels=levels.chosen(options.isa, options.kernel),
            peers=peers.chosen(options.peers),
            threads=options.threads,
            effort=timing.Effort(
                rounds=options.rounds or base.rounds,
                seconds=options.seconds or base.seconds,
                fewest=min(base.fewest, options.rounds or base.fewest),
            ),
            roof_seconds=_QUICK_ROOF_SECONDS if options.quick else _ROOF_SECONDS,
            cold=options.cold,
            kernel=options.kernel,
            quick=options.quick,
            arguments=options.arguments,
        )

    def settings(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "rounds": self.effort.rounds,
            "seconds": self.effort.seconds,
            "cold": self.cold,
            "kernel": self.kernel,
            "quick": self.quick,
            "peers": self.peers,
        }


def _check_kernel(name: str) -> None:
    known = [
        kernel for isa in backend.built() for kernel in backend.kernels(isa) if "_gemm_" in kernel
    ]
    if name not in known:
        raise ValueError(f"--kernel {name}: no such GEMM kernel; there are {', '.join(known)}")


def run(job: Job, cases: Sequence[Case], notes: Sequence[str]) -> documents.Document:
    """Measures ``cases`` on every level; a level that cannot run is in the document, with the
    reason."""
    document = documents.new(job.arguments, job.settings())
    document["notes"] += notes
    _warn(document, noise.load_warning(document["machine"]["load_average"], os.cpu_count() or 1))
    if document["machine"]["emulated"]:
        _warn(document, "an emulator is loaded: times of the levels that need it mean nothing")
    with _progress() as progress:
        present = [isa for isa in job.levels if levels.absence(isa) is None]
        task = progress.add_task("", total=max(1, len(present) * len(cases)))
        for isa in job.levels:
            reason = levels.absence(isa)
            if reason is not None:
                document["levels"].append({"isa": isa, "status": "absent", "reason": reason})
                continue
            _run_level(job, isa, cases, document, progress, task)
    _warn(document, noise.spread_warning(document["cases"]))
    return document


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _run_level(
    job: Job,
    isa: str,
    cases: Sequence[Case],
    document: documents.Document,
    progress: Progress,
    task: Any,
) -> None:
    level: dict[str, Any] = {"isa": isa, "status": "measured"}
    results: dict[int, dict[str, Any]] = {}

    def listen(event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "ready":
            level.update({key: value for key, value in event.items() if key != "event"})
            progress.update(task, description=f"{isa}: measuring the machine's limits")
        elif kind == "running":
            case = cases[event["index"]]
            contender = event["contender"]
            progress.update(task, description=f"{isa}: {case.command} {case.name}, {contender}")
        elif kind == "case":
            results[event["index"]] = event
            progress.advance(task)
        elif kind == "done":
            level["roofs"] = event["roofs"]

    request = Request(
        isa=isa,
        threads=job.threads,
        effort=job.effort,
        roof_seconds=job.roof_seconds,
        cold=job.cold,
        kernel=job.kernel,
        peers=job.peers,
        apart=not job.quick,
        cases=[(index, case.encode()) for index, case in enumerate(cases)],
    )
    try:
        measure_level(request, listen)
    except WorkerError as error:
        document["levels"].append({"isa": isa, "status": "failed", "reason": str(error)})
        return
    document["levels"].append(level)
    roofs = level["roofs"]
    for index, event in sorted(results.items()):
        document["cases"].append(documents.case_record(cases[index], isa, event, roofs, job.cold))
    if not job.quick:
        _warn(document, noise.peak_warning(isa, roofs["compute"], roofs["compute_after"]))


def _warn(document: documents.Document, warning: str | None) -> None:
    if warning is not None:
        document["warnings"].append(warning)
