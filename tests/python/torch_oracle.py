"""torch's own quantized tensors, where this torch still has them, as an oracle."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from module_support import weight_arrays
from octavo import QTensor


@contextlib.contextmanager
def torch_quantized() -> Iterator[ModuleType]:
    """`torch` without its deprecation warnings; skips the test where the dtypes are gone."""
    if not hasattr(torch, "quantize_per_tensor") or not hasattr(torch, "quint8"):
        pytest.skip("this torch has no quantized dtypes (torch.quint8)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch


def assert_close_to_torch(module: Any, x: QTensor, name: str, *geometry: Any) -> None:
    """The output for halves of the module's weight and of ``x``, where torch's engines do not
    saturate, is that of the engine, but for one step near ties.

    Args:
        name: of torch's operator.
        geometry: what the operator that packs its weight takes besides weight and bias.
    """
    w, scales, _, bias = (None if a is None else torch.from_numpy(a) for a in weight_arrays(module))
    w, half = w // 2, x.int_repr() // 2
    zeros = torch.zeros(len(w), dtype=torch.int64)
    with torch_quantized():
        theirs_w = torch._make_per_channel_quantized_tensor(w, scales.double(), zeros, 0)
        theirs_x = torch._make_per_tensor_quantized_tensor(half, 0.02, 50)
        ops: Any = torch.ops.quantized
        packed = getattr(ops, f"{name.removesuffix('_relu')}_prepack")(theirs_w, bias, *geometry)
        theirs = getattr(ops, name)(theirs_x, packed, module.scale, module.zero_point)
    module.set_weight_bias(QTensor.from_int_repr(w, scales, zeros, axis=0), bias)
    ours = module(QTensor.from_int_repr(half, 0.02, 50))
    assert ours.shape == theirs.shape
    difference = (ours.int_repr().int() - theirs.int_repr().int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
