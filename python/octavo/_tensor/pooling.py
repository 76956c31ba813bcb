"""Pooling of QTensors: the functions of `torch.nn.functional`, and the modules that call them.

The result keeps the input's scale and zero point. Inputs need per-tensor parameters and 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo import ops
from octavo._tensor.compute import need_per_tensor
from octavo._tensor.dispatch import HANDLERS, refuse, register
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor


def _no_indices(name: str, q: Any) -> None:
    refuse(name, [q], "return_indices is not available; dequantize() first.")


def _max_pool(dims: int, kernel: Callable[..., torch.Tensor]) -> Callable[..., QTensor]:
    name = f"max_pool{dims}d"

    def max_pool(
        q: QTensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> QTensor:
        if not return_indices and not is_dynamo_compiling():
            result: QTensor | None = direct.max_pool(
                q, dims, kernel_size, stride, padding, dilation, ceil_mode
            )
            if result is not None:
                return result
        need_per_tensor(name, q, True)
        if return_indices:
            _no_indices(name, q)
        return q._with_int(kernel(q._int, kernel_size, stride, padding, dilation, ceil_mode))

    return register(name)(max_pool)


max_pool1d = _max_pool(1, ops.max_pool1d)
max_pool2d = _max_pool(2, ops.max_pool2d)
max_pool3d = _max_pool(3, ops.max_pool3d)


@register("avg_pool1d")
def avg_pool1d(
    q: QTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> QTensor:
    result: QTensor | None = (
        None
        if is_dynamo_compiling()
        else direct.avg_pool(q, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)
    )
    if result is not None:
        return result
    need_per_tensor("avg_pool1d", q, True)
    return q._with_int(
        ops.avg_pool1d(
            q._int, q._zero_point, kernel_size, stride, padding, ceil_mode, count_include_pad
        )
    )


def _avg_pool(dims: int, kernel: Callable[..., torch.Tensor]) -> Callable[..., QTensor]:
    name = f"avg_pool{dims}d"

    def avg_pool(
        q: QTensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> QTensor:
        window = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        result: QTensor | None = (
            None if is_dynamo_compiling() else direct.avg_pool(q, dims, *window)
        )
        if result is not None:
            return result
        need_per_tensor(name, q, True)
        return q._with_int(kernel(q._int, q._zero_point, *window))

    return register(name)(avg_pool)


avg_pool2d = _avg_pool(2, ops.avg_pool2d)
avg_pool3d = _avg_pool(3, ops.avg_pool3d)


def _adaptive_avg_pool(dims: int, kernel: Callable[..., torch.Tensor]) -> Callable[..., QTensor]:
    name = f"adaptive_avg_pool{dims}d"

    def adaptive_avg_pool(q: QTensor, output_size: Any) -> QTensor:
        result: QTensor | None = (
            None if is_dynamo_compiling() else direct.adaptive_avg_pool(q, dims, output_size)
        )
        if result is not None:
            return result
        need_per_tensor(name, q, True)
        return q._with_int(kernel(q._int, q._zero_point, output_size))

    return register(name)(adaptive_avg_pool)


adaptive_avg_pool1d = _adaptive_avg_pool(1, ops.adaptive_avg_pool1d)
adaptive_avg_pool2d = _adaptive_avg_pool(2, ops.adaptive_avg_pool2d)
adaptive_avg_pool3d = _adaptive_avg_pool(3, ops.adaptive_avg_pool3d)


def _adaptive_max_pool(dims: int, kernel: Callable[..., torch.Tensor]) -> Callable[..., QTensor]:
    name = f"adaptive_max_pool{dims}d"

    def adaptive_max_pool(q: QTensor, output_size: Any, return_indices: bool = False) -> QTensor:
        if not return_indices and not is_dynamo_compiling():
            result: QTensor | None = direct.adaptive_max_pool(q, dims, output_size)
            if result is not None:
                return result
        need_per_tensor(name, q, True)
        if return_indices:
            _no_indices(name, q)
        return q._with_int(kernel(q._int, output_size))

    return register(name)(adaptive_max_pool)


adaptive_max_pool1d = _adaptive_max_pool(1, ops.adaptive_max_pool1d)
adaptive_max_pool2d = _adaptive_max_pool(2, ops.adaptive_max_pool2d)
adaptive_max_pool3d = _adaptive_max_pool(3, ops.adaptive_max_pool3d)


def _refuse_indices() -> None:
    """What always returns indices: `torch.adaptive_max_pool1d` and the like, and the functions that
    `torch.nn.functional` calls for `return_indices=True`."""
    for kind in ("max_pool", "adaptive_max_pool", "fractional_max_pool"):
        for dims in (1, 2, 3):
            name = f"{kind}{dims}d"

            def handler(q: Any, *args: Any, name: str = name, **kwargs: Any) -> None:
                _no_indices(name, q)

            register(f"{name}_with_indices")(handler)
            if kind == "adaptive_max_pool":
                for namespace in (torch, torch._C._nn):
                    if hasattr(namespace, name):
                        HANDLERS[getattr(namespace, name)] = handler


_refuse_indices()
