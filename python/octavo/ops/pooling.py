"""Pooling on 8-bit images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo import _C
from octavo.ops._common import Tensor, image, image_args, new_image, pair


def _check_positive(name: str, what: str, values: tuple[int, int]) -> None:
    if min(values) < 1:
        raise ValueError(f"{name}: {what} must be at least 1, got {values}")


def _pool_geometry(
    name: str,
    q: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    ceil_mode: bool,
) -> tuple[tuple[int, ...], tuple[int, int]]:
    kernel = pair("kernel_size", kernel_size)
    step = kernel if stride is None or stride == [] else pair("stride", stride)
    pad = pair("padding", padding)
    dil = pair("dilation", dilation)
    _check_positive(name, "kernel_size", kernel)
    _check_positive(name, "stride", step)
    _check_positive(name, "dilation", dil)
    for p, k, d in zip(pad, kernel, dil, strict=True):
        if not 0 <= p <= (d * (k - 1) + 1) // 2:
            raise ValueError(
                f"{name}: padding must be between 0 and half the kernel, got padding={pad} for "
                f"kernel_size={kernel}"
            )
    if q.shape[1] == 0 or (q.shape[2] == 0 or q.shape[3] == 0):
        raise ValueError(
            f"{name}: channels, height and width must be at least 1, got {tuple(q.shape)}"
        )
    sizes = [
        _C.pool_output_size(q.shape[2 + i], kernel[i], step[i], pad[i], dil[i], ceil_mode)
        for i in (0, 1)
    ]
    if min(sizes) < 1:
        raise RuntimeError(
            f"{name}: input {tuple(q.shape)} is too small for kernel_size={kernel}, stride={step}, "
            f"padding={pad}, "
            f"dilation={dil}: the output would be {tuple(sizes)}"
        )
    return (*kernel, *step, *pad, *dil), (sizes[0], sizes[1])


def max_pool2d(
    q: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool2d` on uint8 or int8 storage; qparams stay, padding never
    wins.

    Args:
        q: (N, C, H, W) or (C, H, W), any strides.

    Returns:
        The pooled storage, channels last.

    Raises:
        TypeError: q is not uint8 or int8.
        ValueError: arguments that torch refuses too.
        RuntimeError: an image smaller than the window.
    """
    q, unbatched = image("max_pool2d", q)
    geometry, (h, w) = _pool_geometry(
        "max_pool2d", q, kernel_size, stride, padding, dilation, ceil_mode
    )
    out = new_image(q.shape[0], q.shape[1], h, w, q.dtype)
    _C.max_pool2d(*image_args(q), q.dtype == torch.int8, *geometry, ceil_mode, out.data_ptr())
    return out.squeeze(0) if unbatched else out


def avg_pool2d(
    q: Tensor,
    zero_point: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool2d` on uint8 or int8 storage; the output keeps the input's
    qparams.

    ``zero_point + round_half_even(sum(q - zero_point) * (1 / divisor))``, the sum exact.

    Args and errors as :func:`max_pool2d`; ``divisor_override`` must not be 0.
    """
    q, unbatched = image("avg_pool2d", q)
    geometry, (h, w) = _pool_geometry("avg_pool2d", q, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0")
    out = new_image(q.shape[0], q.shape[1], h, w, q.dtype)
    _C.avg_pool2d(
        *image_args(q),
        q.dtype == torch.int8,
        zero_point,
        *geometry[:6],
        ceil_mode,
        count_include_pad,
        divisor_override or 0,
        out.data_ptr(),
    )
    return out.squeeze(0) if unbatched else out


def adaptive_avg_pool2d(
    q: Tensor, zero_point: int, output_size: int | Sequence[int | None] | None
) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d` on uint8 or int8 storage; qparams stay.

    Args:
        q: (N, C, H, W) or (C, H, W), any strides.
        output_size: one or two integers; ``None`` keeps the input's size.

    Raises:
        TypeError: q is not uint8 or int8.
        ValueError: an empty image, a negative output size.
    """
    q, unbatched = image("adaptive_avg_pool2d", q)
    wanted = (
        (output_size, output_size)
        if output_size is None or isinstance(output_size, int)
        else output_size
    )
    if len(wanted) != 2:
        raise ValueError(
            f"adaptive_avg_pool2d: output_size: expected one or two integers, got {wanted}"
        )
    h, w = (int(q.shape[2 + i]) if size is None else int(size) for i, size in enumerate(wanted))
    if min(h, w) < 0:
        raise ValueError(f"adaptive_avg_pool2d: output_size must not be negative, got {(h, w)}")
    if min(q.shape[1:]) == 0:
        raise ValueError(
            f"adaptive_avg_pool2d: channels, height and width must be at least 1, got "
            f"{tuple(q.shape)}"
        )
    out = new_image(q.shape[0], q.shape[1], h, w, q.dtype)
    if out.numel():
        _C.adaptive_avg_pool2d(
            *image_args(q), q.dtype == torch.int8, zero_point, h, w, out.data_ptr()
        )
    return out.squeeze(0) if unbatched else out
