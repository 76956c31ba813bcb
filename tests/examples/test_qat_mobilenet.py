"""``examples/qat_mobilenet.py --quick`` keeps what it says: rounding to few levels costs accuracy,
training with it gets that back, and the network that runs is the one that was trained.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

_ORDINARY = "8 bits, a scale per channel"
_AGGRESSIVE = "3 bits, a scale per channel"


@pytest.fixture(scope="module")
def quick(run_example: Any) -> Any:
    """The run that all tests look at."""
    return run_example("qat_mobilenet", "--quick")


@pytest.fixture(scope="module")
def scores(quick: Any) -> dict[str, float]:
    """Percent of the test images, by network."""
    return {row["network"]: row["test accuracy, %"] for row in quick.table("Accuracy on")}


def test_half_of_the_images_are_for_the_test(quick: Any) -> None:
    counts = quick.results["values"]["images"]
    assert sum(counts.values()) == 1797
    assert counts["test"] == 899


def test_float_and_its_ordinary_int8_form_read_digits(scores: dict[str, float]) -> None:
    assert scores["float"] > 96.0
    assert scores[f"int8 after training, {_ORDINARY}"] > scores["float"] - 0.5


def test_training_gets_back_what_three_bits_cost(scores: dict[str, float]) -> None:
    after = scores[f"int8 after training, {_AGGRESSIVE}"]
    aware = scores[f"int8 with QAT, {_AGGRESSIVE}"]
    assert after < scores["float"] - 1.0
    assert aware > after + 1.0
    assert aware > scores["float"] - 0.7  # a quick run trains for a few epochs


def test_one_scale_for_a_layer_costs_more(quick: Any) -> None:
    row = quick.table("After training")[-1]
    channel, layer = "test accuracy, a scale per channel", "test accuracy, a scale per layer"
    assert row["bits of a weight"] == 3
    assert row[layer] < row[channel] - 1.0


def test_what_was_trained_is_what_runs(quick: Any) -> None:
    (found,) = quick.table("What was trained")
    assert found["images"] == 899
    assert found["same answer"] >= 890
    assert found["last convolution: same level, %"] > 90.0
    assert found["logits: most steps apart"] <= 4
    assert quick.results["values"]["same bits after loading"] is True


def test_file_holds_three_bits_in_int8(quick: Any) -> None:
    state = load_file(quick.folder / "int8.safetensors")
    weights = [tensor for name, tensor in state.items() if name.endswith("weight_int8")]
    float_state = load_file(quick.folder / "float.safetensors")
    assert len(weights) == sum(tensor.dim() > 1 for tensor in float_state.values())
    levels = torch.cat([weight.flatten() for weight in weights]).unique().tolist()
    assert levels == list(range(-3, 4))


def test_row_of_the_workloads(quick: Any, scores: dict[str, float]) -> None:
    row = quick.results["workload"]
    for name in ("float", "int8"):
        size = (quick.folder / f"{name}.safetensors").stat().st_size
        assert row[f"{name}_bytes"] == size
    assert row["int8_bytes"] * 2 < row["float_bytes"]
    aware = scores[f"int8 with QAT, {_AGGRESSIVE}"]  # to two decimals
    assert row["int8_score"] == pytest.approx(aware, abs=0.006)
    assert row["float_score"] > scores["float"] - 0.006
    assert min(row["float_ms"], row["int8_ms"]) > 0


def test_picture(quick: Any) -> None:
    picture = (quick.folder / "qat_mobilenet.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert 10_000 < len(picture) < 200_000
