"""The figures of the documentation: their scripts run and write the files that are there, and what
one of them reads from bench/RESULTS.md are the figures of that page."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
SCRIPTS = sorted(path.stem for path in FIGURES.glob("*.py") if path.stem != "style")


@pytest.fixture
def style(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FIGURES))
    return importlib.import_module("style")


@pytest.mark.slow
def test_scripts_write_the_figures(
    style: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "HERE", tmp_path)
    for script in SCRIPTS:
        monkeypatch.setattr(sys, "argv", [script])
        runpy.run_path(str(FIGURES / f"{script}.py"), run_name="__main__")
    written = {path.name: path for path in tmp_path.iterdir()}
    kept = {path.name: path for path in FIGURES.glob("*.svg")}
    assert written.keys() == kept.keys()
    for path in (*written.values(), *kept.values()):
        assert path.stat().st_size < 100_000, path
        assert path.read_text().startswith("<?xml"), path


def test_cases_of_the_report_are_read(style: Any) -> None:
    performance = importlib.import_module("performance")
    report = ROOT / "bench" / "RESULTS.md"
    cases = list(performance.read_report(report))
    titles = set(re.findall(r"^## (\w+): (\w+),", report.read_text(), re.MULTILINE))
    read = {(case.isa, case.command) for case in cases}
    assert read >= {(isa, kind) for isa, kind in titles if kind in (*performance.KINDS, "model")}
    # The report gives ratios beside the times: of rounded figures, both.
    ratios = 0
    for line in report.read_text().splitlines():
        match = re.match(
            r"\| ([^|]+) \| (?:`[^|]+` \| )?([\d.]+) ± [^|]+\|.* ([\d.]+) \(([\d.]+)\)", line
        )
        if match:
            name, (ours, theirs, ratio) = match[1], map(float, match.groups()[1:])
            found = [c for c in cases if (c.name, c.octavo) == (name, ours)]
            assert any(theirs in case.peers.values() for case in found), line
            assert theirs / ours == pytest.approx(ratio, rel=0.02, abs=0.01), line
            ratios += 1
    assert ratios > 100


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(FIGURES.parent / "_extensions"))
    return importlib.import_module("measured")


def test_tables_are_those_of_the_report(measured: Any) -> None:
    report = (ROOT / "bench" / "RESULTS.md").read_text()
    (head, *networks), (_, *kinds) = measured.networks(report), measured.kinds(report)
    assert head[1:] == measured.levels(report)
    assert {len(row) for row in (*networks, *kinds)} == {len(head)}
    sections = measured.sections(report)
    shown = 0
    for name, *cells in networks:
        for level, cell in zip(head[1:], cells, strict=True):
            if cell == "-":
                continue
            lines = sections[level, "model"].splitlines()
            line = next(line for line in lines if line.startswith(f"| {name} | "))
            match = re.fullmatch(r"([\d.]+) \(([\d.]+) ms\)", cell)
            assert match, cell
            ratio, time = match.groups()
            ours = float(line.partition(" ±")[0].split()[-1])
            assert float(time) == pytest.approx(ours / 1000, rel=0.006)
            assert f" ({ratio}) |" in line
            shown += 1
    for row in kinds:
        for level, cell in zip(head[1:], row[1:], strict=True):
            mean, _, least = cell.strip(")").partition(" (")
            own = [text for (isa, _), text in sections.items() if isa == level]
            assert cell == "-" or any(f"mean {mean}, worst {least} (" in text for text in own), row
            shown += cell != "-"
    assert shown > 20


def test_levels_and_cases_that_were_not_measured_are_dashes(measured: Any) -> None:
    report = """
## avx2: gemm, products

- Against fp32\\*: geometric mean 2.50, worst 1.80 (a).

## avx2: model, whole networks

| case | octavo | fp32\\* |
| --- | --- | --- |
| one | 1500 ± 3.0 | 3000 (2.00) |

## scalar: model, whole networks

| case | octavo | fp32\\* |
| --- | --- | --- |
| two | 2500 ± 3.0 | 3000 (1.20) |
| three | 2500 ± 3.0 | - |

### scalar: memory

| case | octavo |
"""
    assert measured.kinds(report) == [
        ["operations", "avx2", "scalar"],
        ["products", "2.50 (1.80)", "-"],
    ]
    assert measured.networks(report) == [
        ["network", "avx2", "scalar"],
        ["one", "2.00 (1.5 ms)", "-"],
        ["two", "-", "1.20 (2.5 ms)"],
    ]
