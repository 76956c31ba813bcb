"""examples/batch_inference_ray.py: every image once, the bits of one process, nothing left over."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def done(run_example: Callable[..., Any]) -> Any:
    if importlib.util.find_spec("ray") is None:
        pytest.skip('Ray is not installed: pip install "ray[data]"')
    # One thread: training would wait for the slower of two wherever the machine is shared.
    return run_example("batch_inference_ray", "--quick", "--threads", "1")


@pytest.fixture(scope="module")
def ways(done: Any) -> dict[str, dict[str, Any]]:
    return {row["way"]: row for row in done.table("Images per second")}


def test_bits_are_those_of_one_process(ways: dict[str, dict[str, Any]]) -> None:
    assert len(ways) >= 3
    assert [row["logits that differ"] for row in ways.values()] == [0] * len(ways)


def test_workers(ways: dict[str, dict[str, Any]]) -> None:
    """One and two, both of which worked."""
    assert sorted(row["workers"] for name, row in ways.items() if "Ray" in name) == [1, 2]
    # There is no rate (NaN) where one worker's first batch ended after all of the other's began.
    assert not any(row["images/s"] <= 0 or row["seconds in all"] <= 0 for row in ways.values())


def test_model(done: Any) -> None:
    rows = {row["model"]: row for row in done.table("The model")}
    assert rows["float32"]["accuracy %"] > 80
    assert rows["int8"]["accuracy %"] > rows["float32"]["accuracy %"] - 1
    assert rows["int8"]["bytes"] < rows["float32"]["bytes"] / 3
    saved = torch.load(done.folder / "int8.pt", weights_only=True)
    assert torch.int8 in {value.dtype for value in saved["state_dict"].values()}


def test_quiet_and_local(done: Any) -> None:
    assert done.results["values"]["address"] == "127.0.0.1"
    for word in ("Traceback", "\tWARNING", "\tINFO", "dashboard"):
        assert word not in done.text
    # Warnings for this example's own code; Ray has some for its own.
    assert not re.search(r"batch_inference_ray\.py:\d+: \w*Warning", done.text)
