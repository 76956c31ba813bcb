"""examples/distributed_calibration.py: what it says of merged observers and of training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

SCRIPT = Path(__file__).parents[2] / "examples" / "distributed_calibration.py"
KINDS = ("minmax", "average", "histogram", "percentile", "mse")


@pytest.fixture(scope="module")
def done(run_example: Callable[..., Any]) -> Any:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    return run_example("distributed_calibration", "--launch", "2", "--quick")


@pytest.fixture(scope="module")
def ways(done: Any) -> dict[str, dict[str, Any]]:
    return {row["observers"]: row for row in done.table("Calibration, against one process")}


def assert_same_bits(row: dict[str, Any]) -> None:
    for key in ("qparams", "tensors"):
        equal, of = row[key].split("/")
        assert equal == of
    assert int(row["qparams"].split("/")[1]) > 5
    assert (row["scale %"], row["zero"], row["same %"]) == (0, 0, 100)


def test_merged_extremes_are_those_of_one_process(ways: dict[str, dict[str, Any]]) -> None:
    assert_same_bits(ways["minmax, merged"])


def test_shards_alone_are_not_enough(ways: dict[str, dict[str, Any]]) -> None:
    """Else the comparison would show nothing."""
    for kind in KINDS:
        row = ways[f"{kind}, own shard"]
        assert row["scale %"] > 0.5
        assert row["agree"] == "no"


@pytest.mark.parametrize("kind", KINDS)
def test_joint_steps_are_those_of_one_process(kind: str, ways: dict[str, dict[str, Any]]) -> None:
    assert_same_bits(ways[f"{kind}, each step"])


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_hold_one_model(kind: str, ways: dict[str, dict[str, Any]]) -> None:
    assert ways[f"{kind}, merged"]["agree"] == "yes"
    assert ways[f"{kind}, each step"]["agree"] == "yes"


def test_merged_histograms(done: Any, ways: dict[str, dict[str, Any]]) -> None:
    """Extremes and totals of one process; values are counted at most some bins away."""
    rows = {row["observers"]: row for row in done.table("Histograms, against one process")}
    merged, joint = rows["histogram, merged"], rows["histogram, each step"]
    equal, of = merged["equal extremes"].split("/")
    assert equal == of
    assert merged["total off by %"] < 1e-3
    assert merged["past some border %"] < 1
    assert merged["past some border %"] < rows["histogram, own shard"]["past some border %"]
    assert joint["total off by %"] == joint["in another bin %"] == 0
    for kind in ("histogram", "percentile", "mse"):
        assert ways[f"{kind}, merged"]["scale %"] < 3


def test_training(done: Any) -> None:
    found = done.results["values"]["training"]
    assert found["fake-quantize modules"] > 10
    assert found["of them equal on all ranks"] == found["fake-quantize modules"]
    assert found["batch norm statistics that differ"] > 0
    assert found["int8 models equal before averaging these"] is False
    assert found["int8 models equal after"] is True
    accuracy = done.results["values"]["accuracy"]
    assert accuracy["float32"] > 90
    assert accuracy["int8, calibrated on all ranks"] > accuracy["float32"] - 1
    assert accuracy["int8, trained on all ranks"] > accuracy["float32"] - 1


def test_file(done: Any) -> None:
    state = torch.load(done.folder / "int8.pt", weights_only=True)
    assert {value.dtype for value in state.values()} >= {torch.int8, torch.float32}


def test_without_torchrun(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert "torchrun --nproc-per-node 2" in ended.stderr
    assert "--launch 2" in ended.stderr
    assert not list(tmp_path.iterdir())
