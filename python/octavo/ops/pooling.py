"""Pooling on 8-bit images of one to three spatial dimensions.

``q`` is (N, C, spatial...) or (C, spatial...), any strides; the result is channels last and keeps
the input's scale and zero point. All raise TypeError for storage other than uint8 and int8 and for
arguments that are no integers (flags: not True or False), ArgumentError, which is a ValueError and
a RuntimeError, for values that torch refuses too and for images without elements, and RuntimeError
for an image smaller than the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from octavo import _C
from octavo._errors import ArgumentError
from octavo.ops._common import Tensor
from octavo.ops._image import Image, check_not_empty, flag, in_three, numbers

Numbers = int | Sequence[int]


class _Windows(NamedTuple):
    """As the extension takes them: for depth, height and width."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    output_size: tuple[int, ...]  # of the image's own dimensions


def _windows(
    name: str,
    x: Image,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    dilation: Numbers,
    ceil_mode: bool,
) -> _Windows:
    dims = len(x.size)
    kernel = numbers(name, "kernel_size", kernel_size, dims)
    absent = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    step = kernel if absent else numbers(name, "stride", stride, dims)
    pad = numbers(name, "padding", padding, dims)
    dil = numbers(name, "dilation", dilation, dims)
    ceil = flag(name, "ceil_mode", ceil_mode)
    return _checked(name, x.tensor.shape, kernel, step, pad, dil, ceil)


@lru_cache(maxsize=256)  # a model asks for the same few at every call
def _checked(
    name: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> _Windows:
    for argument, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(values) < 1:
            raise ArgumentError(f"{name}: {argument} must be at least 1, got {values}")
    for p, k, d in zip(padding, kernel, dilation, strict=True):
        if not 0 <= p <= (d * (k - 1) + 1) // 2:
            raise ArgumentError(
                f"{name}: padding must be between 0 and half the kernel, got padding={padding} for "
                f"kernel_size={kernel}"
            )
    check_not_empty(name, shape)
    sizes = tuple(
        _C.pool_output_size(size, k, s, p, d, ceil_mode)
        for size, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    if min(sizes) < 1:
        raise RuntimeError(
            f"{name}: input {tuple(shape)} is too small for kernel_size={kernel}, "
            f"stride={stride}, padding={padding}, dilation={dilation}: the output would be {sizes}"
        )
    return _Windows(
        in_three(kernel, 1),
        in_three(stride, 1),
        in_three(padding, 0),
        in_three(dilation, 1),
        ceil_mode,
        sizes,
    )


def _max_pool(
    dims: int,
    q: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    dilation: Numbers,
    ceil_mode: bool,
) -> Tensor:
    name = f"max_pool{dims}d"
    x = Image(name, q, dims)
    w = _windows(name, x, kernel_size, stride, padding, dilation, ceil_mode)
    out = x.new(w.output_size)
    _C.max_pool(
        *x.arguments(),
        w.kernel,
        w.stride,
        w.padding,
        w.dilation,
        w.ceil_mode,
        out.data_ptr(),
    )
    return x.finish(out)


def max_pool1d(
    q: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool1d` without indices; padding never wins."""
    return _max_pool(1, q, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    q: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool2d` without indices; padding never wins."""
    return _max_pool(2, q, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    q: Tensor,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.max_pool3d` without indices; padding never wins."""
    return _max_pool(3, q, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool(
    dims: int,
    q: Tensor,
    zero_point: int,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    name = f"avg_pool{dims}d"
    x = Image(name, q, dims)
    w = _windows(name, x, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None:
        divisor_override = numbers(name, "divisor_override", divisor_override, 1)[0]
        if divisor_override == 0 or not -(2**31) <= divisor_override < 2**31:
            raise ArgumentError(
                f"{name}: divisor_override must not be 0 and fit int32, got {divisor_override}"
            )
    out = x.new(w.output_size)
    _C.avg_pool(
        *x.arguments(),
        zero_point,
        w.kernel,
        w.stride,
        w.padding,
        w.ceil_mode,
        flag(name, "count_include_pad", count_include_pad),
        divisor_override or 0,
        out.data_ptr(),
    )
    return x.finish(out)


def avg_pool1d(
    q: Tensor,
    zero_point: int,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool1d`; arithmetic as :func:`avg_pool2d`."""
    return _avg_pool(
        1, q, zero_point, kernel_size, stride, padding, ceil_mode, count_include_pad, None
    )


def avg_pool2d(
    q: Tensor,
    zero_point: int,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool2d`.

    ``zero_point + round_half_even(sum(q - zero_point) * (1 / divisor))``, the sum exact.
    ``divisor_override`` must not be 0.
    """
    return _avg_pool(
        2,
        q,
        zero_point,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool3d(
    q: Tensor,
    zero_point: int,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool3d`; arithmetic as :func:`avg_pool2d`."""
    return _avg_pool(
        3,
        q,
        zero_point,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


OutputSize = int | Sequence[int | None]


def _adaptive(
    kind: str, dims: int, q: Tensor, zero_point: int | None, output_size: OutputSize
) -> Tensor:
    name = f"adaptive_{kind}_pool{dims}d"
    x = Image(name, q, dims)
    size = _adaptive_size(name, output_size, x.size)
    if min(size) < 0:
        raise ArgumentError(f"{name}: output_size must not be negative, got {size}")
    check_not_empty(name, x.tensor.shape)
    out = x.new(size)
    if out.numel():
        to = in_three(size, 1)
        if zero_point is None:
            _C.adaptive_max_pool(*x.arguments(), to, out.data_ptr())
        else:
            _C.adaptive_avg_pool(*x.arguments(), zero_point, to, out.data_ptr())
    return x.finish(out)


def _adaptive_size(name: str, wanted: OutputSize, have: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(wanted, (tuple, list)):
        return numbers(name, "output_size", wanted, len(have))
    if len(wanted) != len(have):
        raise ArgumentError(
            f"{name}: output_size: expected one or {len(have)} integers, got {wanted!r}"
        )
    filled = [there if want is None else want for want, there in zip(wanted, have, strict=True)]
    return numbers(name, "output_size", filled, len(have))


def adaptive_avg_pool1d(q: Tensor, zero_point: int, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool1d`; arithmetic as :func:`avg_pool2d`."""
    return _adaptive("avg", 1, q, zero_point, output_size)


def adaptive_avg_pool2d(q: Tensor, zero_point: int, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d`; arithmetic as :func:`avg_pool2d`.

    ``output_size``: one integer or two; ``None`` among two keeps the input's size.
    """
    return _adaptive("avg", 2, q, zero_point, output_size)


def adaptive_avg_pool3d(q: Tensor, zero_point: int, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool3d`; arithmetic as :func:`avg_pool2d`."""
    return _adaptive("avg", 3, q, zero_point, output_size)


def adaptive_max_pool1d(q: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_max_pool1d` without indices."""
    return _adaptive("max", 1, q, None, output_size)


def adaptive_max_pool2d(q: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_max_pool2d` without indices."""
    return _adaptive("max", 2, q, None, output_size)


def adaptive_max_pool3d(q: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_max_pool3d` without indices."""
    return _adaptive("max", 3, q, None, output_size)
