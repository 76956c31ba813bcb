"""octavo.export: int8 models as programs and files, which run in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.quantized as nnq
from octavo import StaticQuantConfig
from workflow_support import Classifier, calibration, digits, tokens, trained_cnn

_LOAD = """
import sys
import torch
import octavo

inputs = torch.load(sys.argv[1] + "/inputs", weights_only=True)
results = {}
for name, batch in inputs.items():
    program = torch.export.load(f"{sys.argv[1]}/{name}.pt2")
    results[name] = torch.utils._pytree.tree_leaves(program.module()(**batch))
torch.save(results, sys.argv[1] + "/results")
"""


def check_plain(program: torch.export.ExportedProgram) -> None:
    operators = 0
    for node in program.graph.nodes:
        for value in torch.utils._pytree.tree_leaves(node.meta.get("val")):
            assert not isinstance(value, octavo.QTensor)
        operators += str(node.target).startswith("octavo.")
    assert operators
    for constant in (*program.constants.values(), *program.state_dict.values()):
        assert type(constant) in (Tensor, nn.Parameter)


def test_results_of_every_capture_run_in_another_process(tmp_path: Path) -> None:
    """With sizes that the export did not see."""
    wanted: dict[str, list[Tensor]] = {}
    inputs: dict[str, Any] = {}

    def add(name: str, int8: nn.Module, example: dict[str, Tensor], batch: Any) -> None:
        check_plain(octavo.export(int8, example, tmp_path / f"{name}.pt2"))
        inputs[name] = batch
        wanted[name] = torch.utils._pytree.tree_leaves(int8(**batch))

    images = calibration()[:1]
    for capture in ("fx", "export", "eager", "layers"):
        int8 = octavo.quantize(trained_cnn(), images, capture=capture).model
        add(capture, int8, {"x": images[0]}, {"x": digits().test_images[:5]})
    data = tokens(2)
    # The mean over a sequence has its length in the graph: batches alone vary.
    batch = {name: value[:3] for name, value in data[0].items()}
    add("text", octavo.quantize(Classifier(), data, capture="export").model, data[0], batch)
    dynamic = octavo.quantize(Classifier().eval(), mode="dynamic").model
    add("dynamic", dynamic, data[0], batch)
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=64
    )
    ids = {"input_ids": data[0]["ids"], "attention_mask": data[0]["mask"].long()}
    fewer = {name: value[:1, :5] for name, value in ids.items()}
    model = transformers.DistilBertModel(config)
    add("distilbert", octavo.quantize(model, [ids], capture="export").model, ids, fewer)

    torch.save(inputs, tmp_path / "inputs")
    subprocess.run([sys.executable, "-c", _LOAD, str(tmp_path)], check=True)
    results = torch.load(tmp_path / "results", weights_only=True)
    for name, want in wanted.items():
        tensors = [x for x in want if isinstance(x, Tensor)]
        got = [x for x in results[name] if isinstance(x, Tensor)]
        assert len(got) == len(tensors) > 0, name
        for a, b in zip(got, tensors, strict=True):
            assert torch.equal(a, b), name


def test_which_sizes_may_vary() -> None:
    images = calibration()[:1]
    int8 = octavo.quantize(trained_cnn(), images, capture="export").model
    x = digits().test_images
    program = octavo.export(int8, images[0])
    assert torch.equal(program.module()(x[:7]), int8(x[:7]))
    fixed = octavo.export(int8, (images[0],), dynamic_shapes={})
    with pytest.raises((AssertionError, RuntimeError)):
        fixed.module()(x[:7])
    batch = torch.export.Dim("batch", min=2, max=9)
    named = octavo.export(int8, (images[0][:4],), dynamic_shapes=({0: batch},))
    assert "VR[2, 9]" in str(named.range_constraints)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    images = calibration()[:1]
    int8 = octavo.quantize(nn.Linear(4, 4), [torch.randn(2, 4)]).model
    x = torch.randn(2, 4)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got dict"):
        octavo.export({}, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"suffix \.pt2, got .*model\.onnx"):
        octavo.export(int8, x, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="fails on example_inputs"):
        octavo.export(int8, torch.randn(2, 5))
    prepared = octavo.prepare(trained_cnn(), StaticQuantConfig(), images[0])
    with pytest.raises(ValueError, match=r"run convert\(\) first"):
        octavo.export(prepared, images[0])
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        octavo.export(nn.Linear(4, 4), x)
    with pytest.raises(TypeError, match="returns a quantized tensor"):
        octavo.export(nnq.Quantize(0.1, 3, octavo.quint8).eval(), x)

    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(RuntimeError, match=r"torch\.export cannot export the Depends"):
        octavo.export(Depends().eval(), x)
