"""Which of its engines torch computes with on quantized tensors, where it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BEST_FIRST = ("onednn", "x86", "fbgemm", "qnnpack")


def best_engine() -> str | None:
    """The engine to compare with; None where this torch has none (any more)."""
    found = getattr(torch.backends, "quantized", None)
    names = getattr(found, "supported_engines", ())
    return next((name for name in _BEST_FIRST if name in names), None)


@contextmanager
def torch_engine(name: str | None) -> Iterator[None]:
    """With another engine of torch's; the one before is put back. None: with the one there is.

    Models of ``torch.ao`` are converted and run with the same one. Octavo has no such setting.
    """
    if name is None:
        yield
        return
    quantized: Any = torch.backends.quantized
    before = quantized.engine
    quantized.engine = name
    try:
        yield
    finally:
        quantized.engine = before
