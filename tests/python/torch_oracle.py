"""torch's own quantized tensors, where this torch still has them, as an oracle."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch


@contextlib.contextmanager
def torch_quantized() -> Iterator[ModuleType]:
    """`torch` without its deprecation warnings; skips the test where the dtypes are gone."""
    if not hasattr(torch, "quantize_per_tensor") or not hasattr(torch, "quint8"):
        pytest.skip("this torch has no quantized dtypes (torch.quint8)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch
