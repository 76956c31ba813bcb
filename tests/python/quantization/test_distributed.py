"""Observers in several processes: DistributedDataParallel, and reduction after calibration."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import octavo.quantization as tq

WORLD = 2
SCRIPT = Path(__file__).with_name("distributed_worker.py")


def _worker() -> Any:
    spec = importlib.util.spec_from_file_location("distributed_worker", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process saved."""
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    directory = tmp_path_factory.mktemp("ranks")
    commands = [
        [sys.executable, str(SCRIPT), str(rank), str(WORLD), str(directory)]
        for rank in range(WORLD)
    ]
    logs = [directory / f"{rank}.log" for rank in range(WORLD)]
    processes = []
    for command, log in zip(commands, logs, strict=True):
        with log.open("w") as output:
            processes.append(subprocess.Popen(command, stdout=output, stderr=output))
    try:
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(timeout=240) == 0, log.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def assert_close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_each_step_is_observed_as_one_batch(ranks: list[dict[str, Any]]) -> None:
    """Every rank holds what one process holds that saw the batches of all."""
    worker = _worker()
    model = worker.Watched()
    for step in range(worker.STEPS):
        model(worker.data(step, WORLD))
    model(worker.data(0, WORLD)[:1])
    expected = worker.states(model)
    for rank in ranks:
        for name, state in expected.items():
            assert_close(rank["together"][name], state)


def test_reduction_after_calibration(ranks: list[dict[str, Any]]) -> None:
    """Extremes of all data; histograms of all data; the mean of moving averages."""
    worker = _worker()
    model = worker.Watched()
    for step in range(worker.STEPS):
        model(worker.data(step, WORLD))
    expected = worker.states(model)
    first, second = ranks
    for name in expected:
        assert_close(first["apart"][name], second["apart"][name])
    for name in ("minmax", "channels"):
        assert_close(first["apart"][name], expected[name])
    for name in ("average", "channel_average"):
        for key in ("min_val", "max_val"):
            mean = (first["alone"][name][key] + second["alone"][name][key]) / 2
            assert_close(first["apart"][name][key], mean)
    histogram = first["apart"]["histogram"]
    for key in ("min_val", "max_val"):
        assert_close(histogram[key], expected["histogram"][key])
    assert_close(histogram["histogram"].sum(), expected["histogram"]["histogram"].sum())
    difference = (histogram["histogram"] - expected["histogram"]["histogram"]).cumsum(0).abs().max()
    assert float(difference) < 0.1 * float(histogram["histogram"].sum())
    assert [rank["ignored"] for rank in ranks] == [worker.STEPS] * WORLD


def test_channels_seen_on_some_ranks_only(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "'channels' has seen 0 channels on one rank and 3 on another" in rank["message"]


def test_observer_of_ones_own(ranks: list[dict[str, Any]]) -> None:
    """It merges itself, or the call says that it cannot be merged, before anything is merged."""
    worker = _worker()
    expected = worker.data(0, WORLD).nan_to_num().abs().max()
    for rank in ranks:
        assert torch.equal(rank["largest"], expected)
        assert "'own' is a" in rank["refused"]
        assert "Unmergeable" in rank["refused"]
        assert "all_reduce(process_group)" in rank["refused"]


def test_learnable_scales(ranks: list[dict[str, Any]]) -> None:
    """Estimates become those of all data; what is being learned stays."""
    worker = _worker()
    alone = worker.learnable_step()
    alone(worker.data(0, WORLD).nan_to_num())
    for rank in ranks:
        for got, expected in zip(
            rank["learnable"]["estimated"], alone.calculate_qparams(), strict=True
        ):
            assert torch.equal(got, expected)
        assert float(rank["learnable"]["learned"][0]) == 0.5


@pytest.mark.parametrize("capture", ["fx", "export"])
def test_calibration_in_steps(ranks: list[dict[str, Any]], capture: str) -> None:
    """``octavo.prepare``, merged and converted on each rank: the bits of one process."""
    worker = _worker()
    batches = [worker.data(step, WORLD) for step in range(worker.STEPS)]
    parts = [part for batch in batches for part in batch.split(worker.ROWS)]
    expected = worker.int8_states(capture, parts, False)
    for rank in ranks:
        assert rank["workflow"][capture].keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(rank["workflow"][capture][key], value), key
    local = worker.int8_states(capture, parts[1::2], False)
    assert any(not torch.equal(local[key], value) for key, value in expected.items())


def test_without_processes() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        tq.all_reduce_observers(nn.Sequential(tq.MinMaxObserver()))
