"""The migration examples: the scripts differ in their imports only, and the models agree."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

MIGRATE = Path(__file__).parents[2] / "examples" / "migrate"
CHECKPOINT = MIGRATE / "checkpoints" / "torch_ao_static.pt"
KINDS = ("dynamic", "static", "qat", "fx")
THEIRS, SAME, OWN = "torch.ao", "Octavo, torch's settings", "Octavo, own settings"
HAS_TORCH_AO = all(map(importlib.util.find_spec, ("torch.ao", "torch.ao.quantization")))

# What a migration may change: the docstring, imports, and the one dtype.
ALLOWED = re.compile(
    r'$|"""|(import|from) (octavo|torch\.ao)|from (octavo|torch_ao)_static import'
    r"|    return tq\.quantize_dynamic\(model, .*, dtype=(octavo|torch)\.qint8\)$"
)


def run(script: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What a script writes as results.json with ``--quick``."""
    shared = ("--quick", "--threads", "1", "--output", folder)
    command = [sys.executable, MIGRATE / script, *shared, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def rows(results: dict[str, Any], table: str, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in results["tables"][table]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run("compare.py", tmp_path_factory.mktemp("compare"))


@pytest.mark.parametrize("kind", KINDS)
def test_models_agree(compared: dict[str, Any], kind: str) -> None:
    models = rows(compared, kind, "model")
    least = 70 if kind == "dynamic" else 95  # a recurrent network learns more slowly
    assert models["float"]["accuracy, %"] > least
    assert list(models) == ["float", *([THEIRS] if HAS_TORCH_AO else []), SAME, OWN]
    for name in (SAME, OWN):
        assert models[name]["as float, %"] > 98, name
        assert models[name]["accuracy, %"] > models["float"]["accuracy, %"] - 1.5, name
        assert models[name]["file, kB"] < 0.4 * models["float"]["file, kB"], name
        assert models[name]["ms for 256 images"] > 0, name
        if HAS_TORCH_AO:
            # Training has many ways to the same place; other kinds only round.
            assert models[name]["as torch.ao, %"] > (98 if kind == "qat" else 99), name


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(MIGRATE), *sys.path])
    yield importlib.import_module("compare")
    for name in set(sys.modules) - before:
        if str(MIGRATE.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_float_is_timed_with_batch_norms_folded(
    compare: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    model = compare.KINDS[kind].Net()
    model(images)  # batch norms get statistics
    model.eval()
    timed: dict[str, Any] = {}

    def milliseconds(calls: dict[str, Any], *, quick: bool) -> dict[str, float]:
        timed.update(calls)
        return {name: float(number + quick) for number, name in enumerate(calls)}

    monkeypatch.setattr(compare, "milliseconds", milliseconds)
    data = compare.digits.Digits(images, labels, images, labels)
    fast = compare.folded(kind, model)
    (row,) = compare.measured({"float": model}, fast, data, quick=True)
    assert row["ms for 256 images"] == 1.0
    assert list(timed) == ["float", "float, channels last"][: 1 if kind == "dynamic" else 2]
    assert batch_norms(model) == (0 if kind == "dynamic" else 2)
    for call in timed.values():
        assert batch_norms(call.func) == 0
        torch.testing.assert_close(call(), model(images))


@pytest.mark.parametrize("kind", KINDS)
def test_a_migration_changes_imports(compared: dict[str, Any], kind: str) -> None:
    lines = compared["values"][f"{kind}.diff"]
    changed = [line[1:] for line in lines[2:] if line[0] in "+-"]
    assert any(line.startswith("import octavo") for line in changed)
    assert [line for line in changed if not ALLOWED.match(line)] == []


def check_checkpoint(results: dict[str, Any]) -> None:
    (logits,) = results["tables"]["logits in the file, beside Octavo's"]
    assert logits["equal"] + logits["one step"] == logits["values"] == 1000
    assert logits["one step"] < 0.03 * logits["values"]
    values = results["values"]
    assert values["same digits"] > 0.98
    assert values["accuracy"] > 0.95
    assert values["int8.pt has the same bits"] is True
    assert CHECKPOINT.stat().st_size < 100_000


def test_the_checkpoint_loads_where_torch_has_no_torch_ao(tmp_path: Path) -> None:
    results = run("load_checkpoint.py", tmp_path, "--hide-torch-ao")
    check_checkpoint(results)
    assert len(results["tables"]) == 1
    assert (tmp_path / "int8.pt").exists()


@pytest.mark.skipif(not HAS_TORCH_AO, reason="this torch has no torch.ao")
def test_the_checkpoint_beside_torch_ao(tmp_path: Path) -> None:
    results = run("load_checkpoint.py", tmp_path)
    check_checkpoint(results)
    assert results["values"]["from_torch_ao has the bits of load_torch_ao"] is True
    engines = rows(results, "logits of torch's engines, beside Octavo's", "engine")
    assert engines
    for row in engines.values():
        assert row["equal"] + row["one step"] == row["values"]
    layers = results["tables"]["values one step from Octavo's, each layer with the same inputs"]
    assert len(layers) == 6
    for row in layers:
        assert all(row[name] < 0.01 * row["values"] for name in engines)
        assert all(row[f"{name}, more"] == 0 for name in engines)


def test_another_file_is_refused(tmp_path: Path) -> None:
    """A checkpoint of another network: an error that says what is missing, not a wrong model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that typed storages go
        state = torch.load(CHECKPOINT, weights_only=True)
    del state["state_dict"]["conv.weight"]
    torch.save(state, tmp_path / "other.pt")
    command = [
        sys.executable,
        MIGRATE / "load_checkpoint.py",
        "--checkpoint",
        tmp_path / "other.pt",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "'conv'" in done.stderr
    assert "Missing key" in done.stderr
