"""The benchmark runner on tiny shapes: what it measures, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import octavo
from octavo import backend
from octavo.bench import __main__ as command
from octavo.bench import linear, peers, report


def test_shapes_are_parsed_or_refused() -> None:
    assert linear.parse_shape("128x768x3072") == (128, 768, 3072)
    for wrong in ("128x768", "0x1x1", "axbxc", "1x2x3x4", ""):
        with pytest.raises(ValueError, match="MxKxN"):
            linear.parse_shape(wrong)
    assert all(linear.parse_shape(shape) for shape in command.default_shapes())


def test_every_level_says_how_its_peers_are_limited() -> None:
    assert set(backend.built()) <= set(peers.CAPS)


def test_a_wrong_result_is_never_timed() -> None:
    plain = torch.ones((4, 4), dtype=torch.int8)
    weight = octavo.ops.LinearWeight(plain, torch.ones(4), torch.zeros(4), None)
    x = torch.full((2, 4), 105, dtype=torch.uint8)
    linear.check(weight, x, plain)
    with pytest.raises(AssertionError, match="wrong result"):
        linear.check(weight, x, -plain)


def test_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    isa = backend.supported()[0]
    files = {"--json": tmp_path / "out.json", "--markdown": tmp_path / "out.md"}
    arguments = ["--isa", isa, "--shape", "3x5x7", "--rounds", "3", "--seconds", "0.01"]
    command.main(arguments + [str(part) for pair in files.items() for part in pair])
    (result,) = json.loads(files["--json"].read_text())["results"]
    assert result["isa"] == isa
    assert result["peak_gops"] > 0
    (row,) = result["linear"]
    assert (row["m"], row["k"], row["n"]) == (3, 5, 7)
    assert row["kernel"].endswith(isa)
    assert set(row["times"]) == {"octavo", *peers.TORCH_ENGINES} - set(result["missing_peers"])
    assert all(time > 0 for time in row["times"].values())
    text = files["--markdown"].read_text()
    assert f"## {isa}" in text
    assert "| 3, 5, 7 |" in text
    assert text in capsys.readouterr().out
    for other in backend.built():
        assert other == isa or f"- {other}: " in text


def test_noise_is_reported() -> None:
    row = {"m": 1, "k": 1, "n": 1, "kernel": "k", "times": {"octavo": 1.0, "peer": 2.0}}
    level = {
        "isa": "scalar",
        "peak_gops": 1.0,
        "missing_peers": [],
        "linear": [{**row, "gops": 0.5}],
    }
    facts = dict.fromkeys(("cpu", "features", "torch", "rounds", "threads"), "")
    level["linear"][0]["spread"] = {"octavo": 0.01, "peer": 0.02}  # type: ignore[index]
    assert "Noisy" not in report.markdown(facts, [level], {})
    level["linear"][0]["spread"] = {"octavo": 0.01, "peer": 0.5}  # type: ignore[index]
    assert "Noisy machine" in report.markdown(facts, [level], {"avx2": "this CPU lacks avx2"})


def test_bad_arguments_end_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--rounds", "1"])
    assert "--rounds" in capsys.readouterr().err
