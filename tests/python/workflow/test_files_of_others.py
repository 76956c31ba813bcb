"""Files that something else wrote, or that are damaged: octavo.load and load_quantized say so, and
run nothing that is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import octavo
import octavo.quantization as tq

LOADERS = {
    "load": lambda path: octavo.load(path, nn.Sequential(nn.Linear(4, 4))),
    "load_quantized": lambda path: tq.load_quantized(nn.Sequential(nn.Linear(4, 4)), path),
}


class Malicious:
    """What a pickle may do: call any function, this one to leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return LOADERS[request.param]


def test_no_code_of_a_file_runs(tmp_path: Path, loader: Callable[[Path], Any]) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    torch.save({"0.weight_int8": Malicious(trace)}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # the file does what it is here for
    trace.unlink()
    with pytest.raises(ValueError, match=r"model\.pt cannot be read: .*more than plain tensors"):
        loader(path)
    assert not trace.exists()


def test_whole_models_are_told(tmp_path: Path, loader: Callable[[Path], Any]) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(4, 4), path)
    with pytest.raises(ValueError, match=r"save the model's state_dict\(\), or use octavo\.save"):
        loader(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", bytes(64)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_of_anything_else(
    tmp_path: Path, content: bytes, suffix: str, loader: Callable[[Path], Any]
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\{suffix} cannot be read"):
        loader(path)


def test_files_that_are_not_there(tmp_path: Path, loader: Callable[[Path], Any]) -> None:
    for suffix in (".pt", ".safetensors"):
        with pytest.raises(FileNotFoundError):
            loader(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_cut_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    octavo.save(octavo.quantize(nn.Linear(4, 4), [torch.randn(2, 4)]).model, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        octavo.load(path, nn.Linear(4, 4))


@pytest.mark.parametrize("capture", ["fx", "export", "eager", None])
def test_damaged_recipes(tmp_path: Path, capture: str | None) -> None:
    """Whatever is left out of a recipe, or is of another kind, is one kind of error."""
    path = tmp_path / "model.pt"
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    data = [torch.randn(2, 4), torch.randn(3, 4)]
    if capture is None:
        int8 = octavo.quantize(model, config=octavo.DynamicQuantConfig()).model
    else:
        int8 = octavo.quantize(model, data, capture=capture).model
    octavo.save(int8, path)
    held = torch.load(path, weights_only=True)
    damages: list[dict[str, Any]] = [
        {**held, "recipe": 3},
        {**held, "state_dict": 3},
        {**held, "version": "one"},
        {key: value for key, value in held.items() if key != "version"},
    ]
    for key in held["recipe"]:
        damages.append({**held, "recipe": {k: v for k, v in held["recipe"].items() if k != key}})
        damages.append({**held, "recipe": {**held["recipe"], key: 3.5}})
    damages.append({**held, "recipe": {**held["recipe"], "dynamic": {"0": {"no_such": 1}}}})
    damages.append({**held, "recipe": {**held["recipe"], "capture": "no_such"}})
    for damage in damages:
        torch.save(damage, path)
        with pytest.raises(ValueError, match=r"model\.pt"):
            octavo.load(path, model)
    torch.save(held, path)
    assert torch.equal(octavo.load(path, model)(data[0]), int8(data[0]))
