"""README.md: its example runs, and it gives the two commands that are promised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[2] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in _blocks("python"):  # the later ones use the imports of the first
        exec(compile(example, str(README), "exec"), names)
    state = torch.load("int8.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in state.values())


def test_commands() -> None:
    commands = [block.strip() for block in _blocks("sh")[:2]]
    assert commands == [
        'pip install "torch==2.13.0" ".[demo]" && octavo demo',
        'pip install "torch==2.13.0" ".[test]" && pytest',
    ]
