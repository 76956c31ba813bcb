"""What the examples share, by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import shared

    yield shared
    for name in [name for name in sys.modules if name.split(".")[0] == "shared"]:
        del sys.modules[name]


def engines() -> list[str]:
    """Those of this torch that compute."""
    found = getattr(torch.backends, "quantized", None)
    return [name for name in getattr(found, "supported_engines", ()) if name != "none"]


@pytest.mark.skipif(len(engines()) < 2, reason="this torch has no two engines")
def test_torchs_engine_is_put_back(shared: Any) -> None:
    before = torch.backends.quantized.engine
    other = next(name for name in engines() if name != before)
    with shared.torch_engine(other):
        assert torch.backends.quantized.engine == other
        with shared.torch_engine(None):
            assert torch.backends.quantized.engine == other
    assert torch.backends.quantized.engine == before
    with pytest.raises(ArithmeticError), shared.torch_engine(other):
        raise ArithmeticError
    assert torch.backends.quantized.engine == before


def test_a_torch_without_engines(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.best_engine() in (engines() or [None])
    monkeypatch.setattr(torch.backends, "quantized", None, raising=False)
    assert shared.best_engine() is None
    with shared.torch_engine(None):
        pass


def test_float_is_timed_in_both_memory_formats(shared: Any) -> None:
    torch.manual_seed(0)
    model, images = nn.Conv2d(3, 4, 3).eval(), torch.rand(2, 3, 5, 5)
    calls = shared.float_calls(model, images)
    formats = {
        "float": torch.contiguous_format,
        "float, channels last": torch.channels_last,
    }
    assert list(calls) == list(formats)
    for name, memory_format in formats.items():
        assert calls[name].func.weight.is_contiguous(memory_format=memory_format)
        assert calls[name].args[0].is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(calls[name](), model(images))
    assert model.weight.is_contiguous()  # not the one that was given
    assert list(shared.float_calls(nn.Linear(5, 2), images)) == ["float"]


def test_the_faster_format_counts(shared: Any) -> None:
    times = {"float": 3.0, "int8": 1.0, "float, channels last": 2.0}
    assert shared.with_faster_float(times) == {"float": 2.0, "int8": 1.0}
    assert shared.with_faster_float({"float": 3.0, "int8": 1.0}) == {"float": 3.0, "int8": 1.0}


def test_progress_passes_everything_on(shared: Any) -> None:
    assert list(shared.progress(iter("abc"), 3, "letters")) == ["a", "b", "c"]


def test_results_say_brackets(
    shared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(output=tmp_path, quick=True, seed=0, threads=1)
    results = shared.Results("an example", arguments)
    head = capsys.readouterr().out
    assert "[b]" not in head
    results.say("list[int] and [b]bold[/b] :x:")
    assert capsys.readouterr().out == "list[int] and [b]bold[/b] :x:\n"
