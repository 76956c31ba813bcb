"""Checks and layouts that all operators share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from octavo.dtypes import qint8, quint8

Tensor = torch.Tensor

# Codes of the extension: storage types and OutKind of csrc/abi/kernel_abi.h.
STORAGE = {torch.uint8: 0, torch.int8: 1, torch.int32: 2}
OUT_KIND = {quint8.name: 1, qint8.name: 2}
OUT_FLOAT = 3
FLOAT_TYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

EIGHT_BIT = {torch.uint8: quint8, torch.int8: qint8}


def dense(x: Tensor) -> Tensor:
    """``x`` in a layout without gaps: as it is where contiguous or channels last, else a contiguous
    copy. A negative bit is resolved: the memory holds the values."""
    x = x.resolve_neg()
    if x.is_contiguous() or is_channels_last(x):
        return x
    return x.contiguous()


def is_channels_last(x: Tensor) -> bool:
    """Whether a 4-D or 5-D tensor is laid out channels last without gaps."""
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


def check_cpu(name: str, x: Tensor) -> None:
    if torch._C._get_tracing_state() is not None:  # what torch.jit.is_tracing() reads, but cheaper
        raise RuntimeError(
            f"{name}: torch.jit.trace cannot record Octavo's kernels and would return a graph "
            "without them; save the state_dict and convert the model again where it is loaded"
        )
    if not x.is_cpu:
        raise RuntimeError(
            f"{name}: Octavo's kernels run on CPU tensors, got one on {x.device}; move it with "
            ".cpu() first"
        )


def check_storage(name: str, q: Tensor, allowed: dict[torch.dtype, Any]) -> None:
    if q.dtype not in allowed:
        names = " or ".join(str(d) for d in allowed)
        raise TypeError(f"{name}: expected quantized storage of dtype {names}, got {q.dtype}")
    check_cpu(name, q)


def check_float32(name: str, x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise TypeError(
            f"{name}: expected a float32 tensor, got {x.dtype}; convert it with .float() first"
        )
    check_cpu(name, x)


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(int(v) for v in value)
    if len(values) == 1:
        return values[0], values[0]
    if len(values) != 2:
        raise ValueError(f"{name}: expected one or two integers, got {values}")
    return values[0], values[1]


def image(name: str, q: Tensor) -> tuple[Tensor, bool]:
    """(N, C, H, W) view laid out channels last, and whether the input had no batch dimension."""
    check_storage(name, q, EIGHT_BIT)
    if q.dim() not in (3, 4):
        raise ValueError(
            f"{name}: expected a (N, C, H, W) or (C, H, W) input, got shape {tuple(q.shape)}"
        )
    unbatched = q.dim() == 3
    if unbatched:
        q = q.unsqueeze(0)
    if not q.is_contiguous(memory_format=torch.channels_last):
        q = channels_last(q)
    return q, unbatched


def channels_last(q: Tensor) -> Tensor:
    n, c, h, w = q.shape
    out = torch.empty((n, h, w, c), dtype=q.dtype).permute(0, 3, 1, 2)
    return out.copy_(q)


def new_image(n: int, c: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((n, h, w, c), dtype=dtype).permute(0, 3, 1, 2)


def image_args(q: Tensor) -> tuple[int, ...]:
    """Address, sizes and byte strides of a channels-last image, as the extension takes them."""
    n, c, h, w = q.shape
    return (q.data_ptr(), n, h, w, c, h * w * c, w * c, c)
