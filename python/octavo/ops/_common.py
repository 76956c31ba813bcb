"""Checks and layouts that all operators share."""

from __future__ import annotations

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
    if x.is_contiguous() or (x.dim() in (3, 4, 5) and is_channels_last(x)):
        return x
    return x.contiguous()


def is_channels_last(x: Tensor) -> bool:
    """Whether an (N, C, ...) tensor is dense in the order N, ..., C."""
    return x.movedim(1, -1).is_contiguous()


def check_cpu(name: str, x: Tensor) -> None:
    if torch._C._get_tracing_state() is not None:  # what torch.jit.is_tracing() reads, but cheaper
        raise RuntimeError(
            f"{name}: torch.jit.trace cannot record Octavo's kernels and would return a graph "
            "without them; use octavo.export, or save the state_dict and load it where it is used "
            "with octavo.quantization.load_quantized"
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
