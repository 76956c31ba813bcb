"""Pooling on 8-bit images of one to three spatial dimensions.

``q`` is (N, C, spatial...) or (C, spatial...), any strides; the result is channels last and keeps
the input's scale and zero point. All raise TypeError for storage other than uint8 and int8 and for
arguments that are no integers (flags: not True or False), ArgumentError, which is a ValueError and
a RuntimeError, for values that torch refuses too and for images without elements, and RuntimeError
for an image smaller than the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from octavo import _C
from octavo._errors import ArgumentError
from octavo.ops._common import Tensor
from octavo.ops._image import Image, check_not_empty, flag, how_many, in_three, numbers
from octavo.ops._tracing import int_list, record, tracing

Numbers = int | Sequence[int]
OutputSize = int | Sequence[int | None]


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


def _int_lists(
    dims: int, kernel_size: Numbers, stride: Numbers | None, padding: Numbers
) -> tuple[list[int], list[int], list[int]]:
    """As operators of a graph take them."""
    kernel = int_list(kernel_size, dims)
    step = int_list(stride, dims) if stride is not None else []
    return kernel, step or kernel, int_list(padding, dims)


def _filled(wanted: OutputSize, have: Sequence[int]) -> list[int]:
    """An adaptive output size as operators of a graph take it."""
    if not isinstance(wanted, (tuple, list)):
        return [wanted] * len(have)  # type: ignore[list-item]
    return [there if want is None else want for want, there in zip(wanted, have, strict=True)]


def _max_pool(dims: int) -> Callable[..., Tensor]:
    name = f"max_pool{dims}d"

    def max_pool(
        q: Tensor,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        ceil_mode: bool = False,
    ) -> Tensor:
        if tracing(q):
            window = _int_lists(dims, kernel_size, stride, padding)
            more = (int_list(dilation, dims), ceil_mode)
            return record("max_pool", q, *window, *more)
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

    max_pool.__name__ = max_pool.__qualname__ = name
    max_pool.__doc__ = (
        f":func:`torch.nn.functional.{name}` without indices; padding never wins a maximum."
    )
    return max_pool


max_pool1d, max_pool2d, max_pool3d = map(_max_pool, (1, 2, 3))


def _avg_pool(dims: int) -> Callable[..., Tensor]:
    name = f"avg_pool{dims}d"

    def avg_pool(
        q: Tensor,
        zero_point: int,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        if tracing(q):
            window = _int_lists(dims, kernel_size, stride, padding)
            more = (ceil_mode, count_include_pad, divisor_override)
            return record("avg_pool", q, zero_point, *window, *more)
        x = Image(name, q, dims)
        w = _windows(name, x, kernel_size, stride, padding, 1, ceil_mode)
        out = x.new(w.output_size)
        _C.avg_pool(
            *x.arguments(),
            zero_point,
            w.kernel,
            w.stride,
            w.padding,
            w.ceil_mode,
            flag(name, "count_include_pad", count_include_pad),
            _divisor(name, divisor_override),
            out.data_ptr(),
        )
        return x.finish(out)

    avg_pool.__name__ = avg_pool.__qualname__ = name
    avg_pool.__doc__ = f""":func:`torch.nn.functional.{name}`.

    ``zero_point + round_half_even(sum(q - zero_point) * (1 / divisor))``, the sum exact.
    ``divisor_override`` must not be 0.
    """
    return avg_pool


def _divisor(name: str, override: int | None) -> int:
    """As the extension takes it: 0 for the window's size."""
    if override is None:
        return 0
    divisor = numbers(name, "divisor_override", override, 1)[0]
    if divisor == 0 or not -(2**31) <= divisor < 2**31:
        raise ArgumentError(
            f"{name}: divisor_override must not be 0 and must fit int32, got {divisor}"
        )
    return divisor


avg_pool1d, avg_pool2d, avg_pool3d = map(_avg_pool, (1, 2, 3))


def _adaptive_size(name: str, wanted: OutputSize, have: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(wanted, (tuple, list)):
        return numbers(name, "output_size", wanted, len(have))
    if len(wanted) != len(have):
        raise ArgumentError(f"{name}: output_size: expected {how_many(len(have))}, got {wanted!r}")
    filled = [there if want is None else want for want, there in zip(wanted, have, strict=True)]
    return numbers(name, "output_size", filled, len(have))


def _adaptive(
    kind: str, dims: int, q: Tensor, zero_point: int | None, output_size: OutputSize
) -> Tensor:
    name = f"adaptive_{kind}_pool{dims}d"
    if tracing(q):
        wanted = _filled(output_size, q.shape[-dims:])
        if zero_point is None:
            return record("adaptive_max_pool", q, wanted)
        return record("adaptive_avg_pool", q, zero_point, wanted)
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


def _adaptive_avg_pool(dims: int) -> Callable[[Tensor, int, OutputSize], Tensor]:
    def adaptive_avg_pool(q: Tensor, zero_point: int, output_size: OutputSize) -> Tensor:
        return _adaptive("avg", dims, q, zero_point, output_size)

    name = f"adaptive_avg_pool{dims}d"
    adaptive_avg_pool.__name__ = adaptive_avg_pool.__qualname__ = name
    adaptive_avg_pool.__doc__ = f""":func:`torch.nn.functional.{name}`; arithmetic as
    :func:`avg_pool2d`.

    ``output_size``: one integer, or one for each dimension, where ``None`` keeps the input's size.
    """
    return adaptive_avg_pool


def _adaptive_max_pool(dims: int) -> Callable[[Tensor, OutputSize], Tensor]:
    def adaptive_max_pool(q: Tensor, output_size: OutputSize) -> Tensor:
        return _adaptive("max", dims, q, None, output_size)

    name = f"adaptive_max_pool{dims}d"
    adaptive_max_pool.__name__ = adaptive_max_pool.__qualname__ = name
    adaptive_max_pool.__doc__ = f":func:`torch.nn.functional.{name}` without indices."
    return adaptive_max_pool


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(_adaptive_avg_pool, (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_adaptive_max_pool, (1, 2, 3))
