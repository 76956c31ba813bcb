"""What the demo found, as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from octavo.demo.isas import IsaRun
from octavo.demo.measure import Latency, Layer, Sizes

_WIDTH_IN_A_FILE = 100


@dataclass(frozen=True)
class Promise:
    """A claim of the demo, what was measured, and whether it holds (None: not judged)."""

    name: str
    kept: bool | None
    measured: str


@dataclass
class Report:
    """Everything that one run measured. Accuracies in percent, latencies in milliseconds."""

    octavo: str
    torch: str
    isa: str
    threads: int
    seed: int
    images: dict[str, int]
    accuracy: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, Sizes] = field(default_factory=dict)
    latency: dict[int, dict[str, Latency]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    reload: dict[str, bool] = field(default_factory=dict)
    isa_runs: list[IsaRun] = field(default_factory=list)
    isas_not_run: list[str] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)

    @property
    def broken(self) -> list[Promise]:
        """The promises that do not hold."""
        return [promise for promise in self.promises if promise.kept is False]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings; infinite ratios become null."""
        tree = dataclasses.asdict(self)
        for layer in tree["layers"]:
            if math.isinf(layer["sqnr_db"]):
                layer["sqnr_db"] = None
        tree["latency"] = {str(batch): rows for batch, rows in tree["latency"].items()}
        return tree


def console() -> Console:
    """Rich's console; wide enough for the tables where the output is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH_IN_A_FILE)


def show(report: Report, out: Console) -> None:
    """Prints every table of ``report``."""
    out.print(_models(report))
    for name, reason in report.left_out.items():
        out.print(f"  not compared: {name}: {reason}", style="dim", highlight=False)
    out.print(_layers(report))
    if report.isa_runs:
        out.print(_isas(report))
    if report.isas_not_run:
        missing = ", ".join(report.isas_not_run)
        out.print(f"  not run, this CPU lacks it: {missing}", style="yellow", highlight=False)
    out.print(_promises(report))


def _models(report: Report) -> Table:
    threads = f"{report.threads} thread" + ("s" if report.threads != 1 else "")
    table = Table(title=f"Digits, {report.images['held out']} held out, on {report.isa}, {threads}")
    table.add_column("model", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("on disk", justify="right", no_wrap=True)
    batches = sorted(report.latency)
    for batch in batches:
        table.add_column(f"ms, batch {batch}", justify="right", no_wrap=True)
    for name in report.accuracy:
        size = report.sizes.get(name)
        row = [name, f"{report.accuracy[name]:.2f} %"]
        row.append(f"{size.safetensors / 1024:.0f} KiB" if size else "")
        for batch in batches:
            found = report.latency[batch]
            speedup = found["float32"].median / found[name].median
            row.append(f"{found[name].median:.3f} ({speedup:.2f}x)")
        table.add_row(*row, style="bold" if name == "octavo int8" else None)
    return table


def _layers(report: Report) -> Table:
    table = Table(
        title="Error by layer: signal to quantization noise of its output, earlier layers included"
    )
    table.add_column("module", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("SQNR, dB", justify="right")
    for layer in report.layers:
        sqnr = "exact" if math.isinf(layer.sqnr_db) else f"{layer.sqnr_db:.1f}"
        table.add_row(layer.name, layer.kind, layer.kernel, sqnr)
    return table


def _isas(report: Report) -> Table:
    table = Table(title="The whole converted network, every module's output compared to the bit")
    table.add_column("ISA", no_wrap=True)
    table.add_column("threads", justify="right")
    table.add_column("modules", justify="right")
    table.add_column("result")
    for index, run in enumerate(report.isa_runs):
        result = "reference" if index == 0 else "equal"
        if run.differs:
            result = f"[red]differs from {run.differs or 'the output'} on[/]"
        table.add_row(run.isa, str(run.threads), str(run.modules), result)
    return table


def _promises(report: Report) -> Table:
    table = Table(title="Promises")
    table.add_column("promise")
    table.add_column("measured")
    table.add_column("")
    verdicts = {True: "[green]kept[/]", False: "[bold red]BROKEN[/]", None: "[dim]not judged[/]"}
    for promise in report.promises:
        table.add_row(promise.name, promise.measured, verdicts[promise.kept])
    return table
