"""Exported programs in files: another process gets the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graph_support import converted, same_bits
from octavo.library import conv

MODELS = ("residual", "functions", "lstm", "encoder", "embedding")

_LOAD = """
import sys
import torch
import octavo

inputs = torch.load(sys.argv[1], weights_only=True)
results = {}
for name, x in inputs.items():
    program = torch.export.load(f"{sys.argv[2]}/{name}.pt2")
    results[name] = torch.utils._pytree.tree_leaves(program.module()(x))
torch.save(results, sys.argv[3])
"""


def test_saved_programs_run_in_another_process(tmp_path: Path) -> None:
    inputs, wanted = {}, {}
    for name in MODELS:
        model, x = converted(name)
        batch = torch.export.Dim("batch", max=64)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
        torch.export.save(program, tmp_path / f"{name}.pt2")
        inputs[name] = torch.cat([x, x[:1]])
        wanted[name] = torch.utils._pytree.tree_leaves(model(inputs[name]))
    torch.save(inputs, tmp_path / "inputs")
    arguments = [str(tmp_path / "inputs"), str(tmp_path), str(tmp_path / "results")]
    subprocess.run([sys.executable, "-c", _LOAD, *arguments], check=True)
    results = torch.load(tmp_path / "results", weights_only=True)
    for name in MODELS:
        assert same_bits(results[name], wanted[name]), name


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.9's own load
def test_loaded_weights_are_packed_once(tmp_path: Path) -> None:
    model, x = converted("residual")
    torch.export.save(torch.export.export(model, (x,), strict=False), tmp_path / "model.pt2")
    run = torch.export.load(tmp_path / "model.pt2").module()
    run(x)
    before = dict(conv.WEIGHT._entries)
    for _ in range(3):
        assert same_bits(run(x), model(x))
    assert before == conv.WEIGHT._entries
