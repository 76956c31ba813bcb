"""Runs the three workloads and writes their table into the README and the tutorials.

    python examples/workloads.py                  # all three, then both tables
    python examples/workloads.py --quick          # less of everything; prints the table only
    python examples/workloads.py --from results   # no runs: the table of results that are there

The files keep the table between two comments, `<!-- workloads: begin -->` and
`<!-- workloads: end -->`. With `--check` the exit status is 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import Workload

HERE = Path(__file__).resolve().parent
DOCUMENTS = (HERE.parent / "README.md", HERE.parent / "docs" / "tutorials" / "index.md")
BEGIN, END = "<!-- workloads: begin -->", "<!-- workloads: end -->"
LOSSES = {"dynamic_transformer": 0.5, "static_unet": 1.0, "qat_mobilenet": 0.3}
"""Workload -> the most it may lose against float32, in points (hundredths of the score)."""
LEAST_SPEEDUP = 2.0  # on a CPU with VNNI; of others, and of emulated ones, nothing is promised
WITH_VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")
LEAST_RATIO = 4.0  # of the transformer's weights
_COLUMNS = (
    *("workload", "score", "float32", "int8", "loss, points", "torch.ao"),
    *("float32, ms", "int8, ms", "faster", "torch.ao, ms"),
    *("float32, MB", "int8, MB", "smaller"),
)


@dataclass(frozen=True)
class Found:
    """What one workload found.

    Attributes:
        example: its name.
        row: of the table.
        context: the rest of ``results.json``: machine, instruction set, threads, versions.
    """

    example: str
    row: Workload
    context: dict[str, Any]

    @property
    def loss(self) -> float:
        """Against float32, in points: percent, or hundredths of a score between 0 and 1."""
        return (self.row.float_score - self.row.int8_score) * self._points

    @property
    def speedup(self) -> float:
        """float32's time over int8's."""
        return self.row.float_ms / self.row.int8_ms

    @property
    def ratio(self) -> float:
        """float32's bytes over int8's."""
        return self.row.float_bytes / self.row.int8_bytes

    @property
    def _points(self) -> float:
        return 1.0 if "%" in self.row.metric else 100.0

    @property
    def _has_vnni(self) -> bool:
        return self.context["isa"] in WITH_VNNI and not self.context["machine"]["emulated"]

    def cells(self) -> list[str]:
        """Of the table, in the order of its columns."""
        row, points = self.row, self._points
        score, digits = row.metric.removesuffix(", %"), "{:.2f}"
        ao_score = None if row.torch_ao_score is None else row.torch_ao_score * points
        return [
            row.name,
            f"{score}, %",
            digits.format(row.float_score * points),
            digits.format(row.int8_score * points),
            digits.format(self.loss + 0.0),
            "-" if ao_score is None else digits.format(ao_score),
            _milliseconds(row.float_ms),
            _milliseconds(row.int8_ms),
            f"{self.speedup:.2f}x",
            "-" if row.torch_ao_ms is None else _milliseconds(row.torch_ao_ms),
            digits.format(row.float_bytes / 1e6),
            digits.format(row.int8_bytes / 1e6),
            f"{self.ratio:.2f}x",
        ]

    def broken(self) -> list[str]:
        """The promises that are not kept, in words."""
        said = []
        if not self.loss <= LOSSES[self.example]:
            said.append(f"loses {self.loss:.2f} points, more than {LOSSES[self.example]}")
        if self._has_vnni and not self.speedup > LEAST_SPEEDUP:
            said.append(f"is {self.speedup:.2f} times as fast, not more than {LEAST_SPEEDUP:g}")
        if self.example == "dynamic_transformer" and not self.ratio >= LEAST_RATIO:
            said.append(f"has weights {self.ratio:.2f} times smaller, not {LEAST_RATIO:g}")
        return [f"{self.row.name} {text}" for text in said]


def read(folder: Path) -> list[Found]:
    """The results of all workloads in a folder: ``NAME/results.json`` each.

    Raises:
        SystemExit: one is missing, or they were not taken under the same conditions.
    """
    found = []
    for example in LOSSES:
        path = folder / example / "results.json"
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            row = Workload(**tree.pop("workload"))
        except OSError as error:
            raise SystemExit(f"no results of {example}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:  # of another version, or cut off
            raise SystemExit(f"no results of {example} in {path}: {error!r}") from None
        found.append(Found(example, row, tree))
    if len({conditions(one.context) for one in found}) != 1:
        each = "\n".join(f"  {one.example}: {conditions(one.context)}" for one in found)
        raise SystemExit(f"the results are of different machines or settings:\n{each}")
    return found


def conditions(context: dict[str, Any]) -> str:
    """Machine, instruction set, threads and versions of a run."""
    machine, versions = context["machine"], context["versions"]
    threads = counted(context["threads"], "thread")
    emulated = f", {', '.join(machine['emulated'])} emulated" if machine["emulated"] else ""
    return (
        f"{machine['cpu']}, {counted(machine['cores'], 'core')}{emulated}; "
        f"kernels of `{context['isa']}`, {threads}; "
        f"torch {versions['torch']}, octavo {versions['octavo']}"
        + ("; with `--quick`" if context["quick"] else "")
    )


def counted(number: int, thing: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def render(found: Sequence[Found]) -> str:
    """The table as Markdown, with what is needed to read it."""
    lines = [f"{conditions(found[0].context)}.", ""]
    lines.append(f"| {' | '.join(_COLUMNS)} |")
    lines.append("|" + "---|" * 2 + "---:|" * (len(_COLUMNS) - 2))
    lines += [f"| {' | '.join(one.cells())} |" for one in found]
    lines.append("")
    lines += [f"- {one.row.name}: {one.row.settings}. Bytes: {one.row.weights}." for one in found]
    load = max(one.context["machine"]["load_average"] or 0.0 for one in found)
    cores = found[0].context["machine"]["cores"]
    if load > cores:
        busy = f"up to {load:.1f} processes on {counted(cores, 'core')}"
        lines.append(f"- The machine was busy: {busy}.")
    return "\n".join(lines)


def insert(text: str, table: str, name: str) -> str:
    """A document with another table between its two comments.

    Raises:
        SystemExit: it does not have each of these once, in their order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in head + tail:
        raise SystemExit(f"{name}: no place for the table, between {BEGIN} and {END}, each once")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def run(options: argparse.Namespace) -> None:
    """Runs every workload in a process of its own.

    Raises:
        SystemExit: one of them fails.
    """
    for example in LOSSES:
        command = [sys.executable, str(HERE / f"{example}.py")]
        command += ["--output", str(options.output / example), "--seed", str(options.seed)]
        command += ["--quick"] if options.quick else []
        command += ["--threads", str(options.threads)] if options.threads else []
        print(f"$ {' '.join(command)}", flush=True)
        if status := subprocess.run(command).returncode:
            raise SystemExit(f"{example} ended with status {status}")


def main() -> None:
    options = _arguments()
    if options.results is None:
        run(options)
    found = read(options.results or options.output)
    table = render(found)
    print(table)
    # What --quick finds is for a look; the documents keep the results of whole runs.
    if not any(one.context["quick"] for one in found):
        for document in options.into:
            text = document.read_text(encoding="utf-8")
            document.write_text(insert(text, table, document.name), encoding="utf-8")
            print(f"written: {document}")
    broken = [text for one in found for text in one.broken()]
    print("\n".join(f"not kept: {text}" for text in broken) or "all promises are kept")
    if broken and options.check:
        raise SystemExit(1)


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100.0 else f"{value:.0f}"


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="less of everything; print only")
    made.add_argument("--check", action="store_true", help="fail where a promise is not kept")
    made.add_argument("--seed", type=int, default=0, help="of every workload")
    made.add_argument("--threads", type=int, help="of every workload; None: torch's choice")
    made.add_argument(
        "--output", type=Path, default=Path("results"), help="folder that gets a folder of each"
    )
    made.add_argument(
        "--from", dest="results", type=Path, help="folder of earlier results, instead of running"
    )
    made.add_argument(
        "--into", type=Path, nargs="*", default=list(DOCUMENTS), help="documents with the table"
    )
    return made.parse_args()


if __name__ == "__main__":
    main()
