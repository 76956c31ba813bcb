"""The table of the three workloads: made of their results, and put where documents have it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
Render = Callable[..., tuple[int, str]]
NAMES = ("dynamic_transformer", "static_unet", "qat_mobilenet")
ROW: dict[str, Any] = {
    "name": "Transformer, dynamic",
    "settings": "1 x 128 tokens",
    "metric": "right answers, %",
    "float_score": 70.0,
    "int8_score": 69.75,
    "float_ms": 300.0,
    "int8_ms": 75.0,
    "float_bytes": 4_000_000,
    "int8_bytes": 1_000_000,
    "weights": "matrices of 73 Linears",
    "torch_ao_score": 61.5,
    "torch_ao_ms": 80.5,
}
CONTEXT: dict[str, Any] = {
    "quick": False,
    "threads": 2,
    "isa": "avx512_vnni",
    "machine": {"cpu": "A CPU", "cores": 2, "emulated": [], "load_average": 0.25},
    "versions": {"torch": "2.13.0", "octavo": "0.1.0"},
}


def results(folder: Path, name: str, row: dict[str, Any], context: dict[str, Any]) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    tree = {**CONTEXT, **context, "workload": {**ROW, **row}}
    (folder / name / "results.json").write_text(json.dumps(tree))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results(tmp_path, NAMES[0], {}, {})
    unet = {"name": "U-Net, static", "metric": "mean IoU", "float_score": 0.95, "int8_score": 0.945}
    results(tmp_path, NAMES[1], {**unet, "torch_ao_score": None, "torch_ao_ms": None}, {})
    better = {"name": "MobileNetV2, QAT", "metric": "accuracy, %", "int8_score": 70.25}
    results(tmp_path, NAMES[2], better, {})
    (tmp_path / "page.md").write_text(
        "before\n<!-- workloads: begin -->\nold\n<!-- workloads: end -->\nafter\n"
    )
    return tmp_path


@pytest.fixture
def render(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Render:
    """Calls the program with options; gives its exit status and what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program = runpy.run_path(str(EXAMPLES / "workloads.py"))

    def call(*options: str, runs: bool = False) -> tuple[int, str]:
        where = "--output" if runs else "--from"
        arguments = [where, str(folder), "--into", str(folder / "page.md"), *options]
        monkeypatch.setattr(sys, "argv", ["workloads.py", *arguments])
        try:
            program["main"]()
        except SystemExit as end:
            return 1, f"{capsys.readouterr().out}\n{end.code}"
        return 0, capsys.readouterr().out

    return call


def rows(folder: Path) -> list[list[str]]:
    """The cells of the table in the document."""
    lines = (folder / "page.md").read_text().splitlines()
    return [[cell.strip() for cell in x.strip("|").split("|")] for x in lines if x.startswith("| ")]


def test_table(folder: Path, render: Render) -> None:
    status, printed = render("--check")
    assert status == 0, printed
    text = (folder / "page.md").read_text()
    assert text.startswith("before\n<!-- workloads: begin -->\n")
    assert text.endswith("<!-- workloads: end -->\nafter\n")
    assert "old" not in text
    assert "A CPU, 2 cores; kernels of `avx512_vnni`, 2 threads; torch 2.13.0" in text
    assert "- Transformer, dynamic: 1 x 128 tokens. Bytes: matrices of 73 Linears." in text
    heads, transformer, unet, mobilenet = rows(folder)
    cells = dict(zip(heads, transformer, strict=True))
    assert cells == {
        "workload": "Transformer, dynamic",
        "score": "right answers, %",
        "float32": "70.00",
        "int8": "69.75",
        "loss, points": "0.25",
        "torch.ao": "61.50",
        "float32, ms": "300",
        "int8, ms": "75.00",
        "faster": "4.00x",
        "torch.ao, ms": "80.50",
        "float32, MB": "4.00",
        "int8, MB": "1.00",
        "smaller": "4.00x",
    }
    cells = dict(zip(heads, unet, strict=True))
    assert (cells["score"], cells["float32"], cells["loss, points"]) == (
        "mean IoU, %",
        "95.00",
        "0.50",
    )
    assert (cells["torch.ao"], cells["torch.ao, ms"]) == ("-", "-")
    assert dict(zip(heads, mobilenet, strict=True))["loss, points"] == "-0.25"
    once = text
    render()
    assert (folder / "page.md").read_text() == once


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (NAMES[0], {"int8_score": 69.25}, "loses 0.75 points, more than 0.5"),
        (NAMES[0], {"int8_bytes": 1_010_000}, "has weights 3.96 times smaller, not 4"),
        (NAMES[1], {"int8_score": 0.9}, "more than 1.0"),
        (NAMES[2], {"int8_score": 69.5}, "loses 0.50 points, more than 0.3"),
        (NAMES[2], {"int8_ms": 200.0}, "is 1.50 times as fast, not more than 2"),
        (NAMES[2], {"int8_score": float("nan")}, "loses nan points"),
    ],
)
def test_promises(
    folder: Path, render: Render, name: str, row: dict[str, Any], message: str
) -> None:
    path = folder / name / "results.json"
    found = json.loads(path.read_text())
    results(folder, name, {**found["workload"], **row}, {})
    status, printed = render("--check")
    assert status == 1
    (said,) = [line for line in printed.splitlines() if line.startswith("not kept: ")]
    assert message in said
    assert render()[0] == 0


@pytest.mark.parametrize(
    "context", [{"isa": "avx2"}, {"machine": {**CONTEXT["machine"], "emulated": ["avx512_vnni"]}}]
)
def test_no_speed_is_promised_without_vnni(
    folder: Path, render: Render, context: dict[str, Any]
) -> None:
    for name in NAMES:
        row = json.loads((folder / name / "results.json").read_text())["workload"]
        results(folder, name, {**row, "int8_ms": 200.0}, context)
    status, printed = render("--check")
    assert status == 0, printed
    assert "1.50x" in printed


def test_quick_results_are_only_printed(folder: Path, render: Render) -> None:
    for name in NAMES:
        results(folder, name, {}, {"quick": True})
    before = (folder / "page.md").read_text()
    status, printed = render()
    assert status == 0
    assert "with `--quick`" in printed
    assert (folder / "page.md").read_text() == before


def test_refuses_what_is_not_comparable(folder: Path, render: Render) -> None:
    results(folder, NAMES[1], {}, {"threads": 1})
    status, printed = render()
    assert status == 1
    assert "different machines or settings" in printed
    (folder / NAMES[2] / "results.json").unlink()
    status, printed = render()
    assert status == 1
    assert "no results of qat_mobilenet" in printed
    assert "old" in (folder / "page.md").read_text()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"workload": {', "JSONDecodeError"),
        ('{"quick": false}', "KeyError('workload')"),
        ('{"workload": {"name": "of another version"}}', "TypeError"),
    ],
)
def test_says_which_file_it_cannot_read(
    folder: Path, render: Render, broken: str, reason: str
) -> None:
    path = folder / NAMES[1] / "results.json"
    path.write_text(broken)
    status, printed = render()
    assert status == 1
    assert f"no results of static_unet in {path}: {reason}" in printed


def test_refuses_a_document_without_a_place(folder: Path, render: Render) -> None:
    (folder / "page.md").write_text("<!-- workloads: begin -->\n")
    status, printed = render()
    assert status == 1
    assert "page.md: no place for the table" in printed


def test_runs_each_in_a_process_of_its_own(
    folder: Path, render: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    status = 0

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
    assert render("--quick", "--seed", "7", "--threads", "2", runs=True)[0] == 0
    assert len(commands) == len(NAMES)
    for name, command in zip(NAMES, commands, strict=True):
        assert command[:2] == [sys.executable, str(EXAMPLES / f"{name}.py")]
        options = ["--output", str(folder / name), "--seed", "7", "--quick", "--threads", "2"]
        assert command[2:] == options
    assert "old" not in (folder / "page.md").read_text()  # the results are of whole runs
    status = 3
    assert "dynamic_transformer ended with status 3" in render(runs=True)[1]


def test_busy_machines_are_told(folder: Path, render: Render) -> None:
    for name in NAMES:
        results(folder, name, {}, {"machine": {**CONTEXT["machine"], "load_average": 9.0}})
    assert "busy: up to 9.0 processes on 2 cores" in render()[1]


def test_documents_have_a_place() -> None:
    text = (ROOT / "docs" / "tutorials" / "index.md").read_text()
    assert text.count("<!-- workloads: begin -->") == text.count("<!-- workloads: end -->") == 1
