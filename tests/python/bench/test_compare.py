"""``octavo bench compare``."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from octavo.bench import cli, document
from octavo.bench.commands import compare


def _case(name: str, median: float, iqr: float = 0.1) -> dict[str, Any]:
    return {
        "command": "gemm",
        "kind": "linear",
        "name": name,
        "isa": "avx2",
        "threads": 1,
        "parameters": {},
        "operations": 2,
        "bytes": 3,
        "kernel": "k",
        "unavailable": {},
        "ratios": {},
        "times": {
            "octavo": {
                "median_us": median,
                "iqr_us": iqr,
                "samples_us": [median],
                "calls_per_sample": 1,
                "check": "exact",
                "close": True,
            }
        },
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    settings = {"threads": 1, "rounds": 3, "seconds": 0.1, "cold": False, "kernel": None}
    before = document.new(["gemm"], {**settings, "quick": True, "peers": []})
    before["cases"] = [_case("slower", 10), _case("faster", 10), _case("same", 10), _case("a", 1)]
    after = copy.deepcopy(before)
    after["cases"] = [_case("slower", 20), _case("faster", 5), _case("same", 10.2), _case("b", 1)]
    assert document.problems(before) == document.problems(after) == []
    paths = (tmp_path / "a.json", tmp_path / "b.json")
    for path, content in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_ratios_and_verdicts(files: tuple[Path, Path]) -> None:
    found = compare.changes(*(document.read(file) for file in files))
    assert {change.key[2]: change.verdict for change in found} == {
        name: name for name in ("slower", "faster", "same")
    }
    assert found[0].speedup == pytest.approx(0.5)


def test_a_change_within_the_spread_of_the_rounds_is_noise() -> None:
    before, after = ({"cases": [_case("x", median, iqr=3.0)]} for median in (10.0, 13.0))
    (change,) = compare.changes(before, after)
    assert change.verdict == "same"
    assert change.noise > 0.3


def test_output(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *map(str, files)]) == 0
    out = capsys.readouterr().out
    assert "only in" in out
    assert "gemm a (avx2)" in out
    assert "gemm b (avx2)" in out
    assert "3 cases: geometric mean 0.993" in out
    assert "1 slower beyond noise" in out


def test_fail_under(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *map(str, files), "--fail-under", "0.9"]) == 0
    assert cli.main(["compare", *map(str, files), "--fail-under", "0.999"]) == 1
    assert "below --fail-under 0.999" in capsys.readouterr().out


def test_what_cannot_be_compared(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = str(files[0])
    broken, foreign, old, invalid = (tmp_path / f"{i}.json" for i in range(4))
    broken.write_text("{")
    foreign.write_text("{}")
    good = json.loads(files[0].read_text())
    old.write_text(json.dumps({**good, "version": 0}))
    invalid.write_text(json.dumps({**good, "cases": [{"name": "x"}]}))
    for arguments, message in (
        ([before, str(tmp_path / "none.json")], "none.json"),
        ([before, str(broken)], "not JSON"),
        ([before, str(foreign)], "not written by"),
        ([before, str(old)], "version 0"),
        ([before, str(invalid)], "$.cases[0]"),
        ([before, before, "--contender", "nobody"], "no case in common"),
    ):
        assert cli.main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
