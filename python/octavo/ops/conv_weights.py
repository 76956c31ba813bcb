"""Packed weights of convolutions of 1, 2 and 3 spatial dimensions, and the calls that use them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import (
    EIGHT_BIT,
    FLOAT_TYPE,
    OUT_FLOAT,
    Tensor,
    check_cpu,
    check_storage,
    is_channels_last,
)
from octavo.ops._tracing import int_list, record, tracing
from octavo.ops.weights import _bias_address, _check_weight, _out_kind, _Weight

Ints = int | Sequence[int]
Clamp = tuple[float, float]

_NO_CLAMP = (-math.inf, math.inf)


def _spatial(name: str, value: Ints, rank: int, missing: int) -> tuple[int, int, int]:
    """``value`` for (depth, height, width), with ``missing`` for those that the tensors lack."""
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) == 1:
        values = values * rank
    if len(values) != rank:
        raise ValueError(f"{name}: expected one integer or {rank} of them, got {values}")
    d, h, w = (missing,) * (3 - rank) + values
    return d, h, w


def _shape_text(first: str, rank: int) -> str:
    return f"({first}, {', '.join(('depth', 'height', 'width')[-rank:])})"


def new_channels_last(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialized (N, C, ...) tensor, dense in the order N, ..., C."""
    return torch.empty((shape[0], *shape[2:], shape[1]), dtype=dtype).movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    """8-bit ``x`` or a copy of it, dense in the order N, ..., C."""
    if is_channels_last(x):
        return x
    out = new_channels_last(x.shape, x.dtype)
    if not x.is_contiguous():
        return out.copy_(x)
    n, c = x.shape[:2]
    _C.to_channels_last(x.data_ptr(), n, c, x[0, 0].numel(), out.data_ptr())
    return out


def check_float_images(x: Tensor) -> None:
    """TypeError or RuntimeError unless x is a CPU tensor that dynamic convolutions take."""
    if x.dtype not in FLOAT_TYPE:
        raise TypeError(f"input: expected a float32, bfloat16 or float16 tensor, got {x.dtype}")
    check_cpu("input", x)


def dense_floats(x: Tensor) -> tuple[Tensor, bool]:
    """An (N, C, ...) tensor as it is where contiguous or channels last, else a contiguous copy; and
    whether it is channels last."""
    x = x.detach().resolve_neg()
    last = is_channels_last(x)
    return (x if last else x.contiguous()), last


def with_batch(x: Tensor, rank: int, channels: int) -> Tensor:
    """The input of a convolution with a batch dimension; ValueError unless it has ``rank`` spatial
    dimensions and so many channels."""
    if x.dim() not in (rank + 1, rank + 2):
        sizes = ", ".join("L" if rank == 1 else "DHW"[-rank:])
        raise ValueError(
            f"input: expected a (N, C, {sizes}) or (C, {sizes}) input, got shape {tuple(x.shape)}"
        )
    if x.shape[-1 - rank] != channels:
        raise ValueError(f"input: expected {channels} channels, got shape {tuple(x.shape)}")
    return x if x.dim() == rank + 2 else x.unsqueeze(0)


def run_on_floats(
    run: Callable[..., None], x: Tensor, batched: Tensor, shape: Sequence[int], *options: object
) -> Tensor:
    """What a packed weight makes of float images.

    Args:
        run: its ``run_dynamic``, which takes ``options`` between the images and the output.
        batched: ``x``, with a batch dimension.
        shape: of the output, with a batch dimension.
    """
    images, last = dense_floats(batched)
    out = new_channels_last(shape, x.dtype)
    rank = images.dim() - 2
    size = _spatial("input", images.shape[2:], rank, 1)
    source = (images.data_ptr(), FLOAT_TYPE[x.dtype], images.shape[0], size, last)
    run(*source, *options, out.data_ptr())
    return out if x.dim() == images.dim() else out.squeeze(0)


class ConvWeight(_Weight):
    """Weight of a quantized convolution of 1, 2 or 3 spatial dimensions, packed for the CPU it runs
    on; immutable and safe to share by threads.

    Args:
        weight: int8 (out_channels, in_channels / groups, kernel sizes); its rank is that of the
            tensors.
        scales, zero_points: 1-D, of length 1 (per tensor) or out_channels (per channel).
        bias: float32 (out_channels,), or None.
        stride, padding, dilation: one integer or one for each spatial dimension. ``padding`` is
            what precedes the image.
        padding_end: what follows the image where it differs from ``padding``.

    Raises:
        TypeError, ValueError: as :class:`LinearWeight`, and for geometry below its minimum or
            groups that do not divide out_channels.
    """

    _ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        bias: Tensor | None,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        padding_end: Ints | None = None,
    ) -> None:
        self.rank = rank = weight.dim() - 2 if weight.dim() - 2 in self._ranks else self._ranks[-1]
        dims = _shape_text("out_channels, in_channels / groups", rank)
        weight = _check_weight(weight, dims, rank + 2)
        self.out_channels, per_group, *kernel = (int(size) for size in weight.shape)
        self.in_channels = per_group * groups
        self.kernel_size = tuple(kernel)
        self.groups = groups
        super().__init__(self.out_channels, scales, zero_points, bias)
        # As operators of a graph take it.
        self._geometry = (
            int_list(stride, rank),
            int_list(padding, rank),
            int_list(padding if padding_end is None else padding_end, rank),
            int_list(dilation, rank),
            groups,
        )
        taps_last = weight.movedim(1, -1).contiguous()
        self._packed = _C.ConvWeight(
            taps_last.data_ptr(),
            rank,
            self.out_channels,
            per_group,
            groups,
            _spatial("kernel_size", kernel, rank, 1),
            _spatial("stride", stride, rank, 1),
            _spatial("padding", padding, rank, 0),
            _spatial("padding_end", padding if padding_end is None else padding_end, rank, 0),
            _spatial("dilation", dilation, rank, 1),
            self._scales.data_ptr(),
            self._zero_points.data_ptr(),
            _bias_address(self.bias),
        )
        self.direct = self._packed.run_direct
        self.dynamic_direct = self._packed.run_dynamic_direct
        del self._scales, self._zero_points

    @property
    def packed_bytes(self) -> int:
        """Memory that the packed weight takes."""
        return self._packed.packed_bytes()

    def unpack(self) -> Tensor:
        """The plain int8 (out_channels, in_channels / groups, kernel sizes) weight."""
        shape = (self.out_channels, *self.kernel_size, self.in_channels // self.groups)
        weight = torch.empty(shape, dtype=torch.int8)
        self._packed.unpack(weight.data_ptr())
        return weight.movedim(-1, 1).contiguous()

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        out_scale: float,
        out_zero: int,
        out_dtype: QDType,
        relu: bool = False,
        add: Tensor | None = None,
        add_scale: float = 1.0,
        add_zero: int = 0,
        clamp: Clamp | None = None,
    ) -> Tensor:
        """``requantize(conv(x) + bias + add)``, clamped at the zero point from below where
        ``relu``.

        Args:
            x: uint8 or int8 (N, C, ...) or (C, ...), any strides; read without a copy where
                channels last.
            out_dtype: quint8 or qint8.
            add: uint8 or int8 of the output's shape, in its own qparams; or None.
            clamp: real bounds (lo, hi), which are rounded to the output's grid: what
                ``hardtanh`` or ``relu6`` of the result would give.

        Returns:
            Storage laid out channels last.

        Raises:
            TypeError: dtype of x, add or out_dtype.
            ValueError: channels, rank, shape of add, qparams out of range, a clamp whose bounds are
                NaN or out of order.
            RuntimeError: an image smaller than the kernel.
        """
        if tracing(x):
            weight = (*self._arguments(), *self._geometry)
            output = (out_scale, out_zero, out_dtype.storage, relu)
            limits = None if clamp is None else list(clamp)
            residual = (add, add_scale, add_zero)
            return record("conv", x, x_scale, x_zero, *weight, *output, limits, *residual)
        out = (_out_kind(out_dtype), out_scale, out_zero, out_dtype.storage)
        return self._run(x, x_scale, x_zero, out, relu, clamp, add, add_scale, add_zero)

    def dequantized_output(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        relu: bool = False,
        clamp: Clamp | None = None,
    ) -> Tensor:
        """The same without requantization: float32, laid out channels last."""
        if tracing(x):
            weight = (*self._arguments(), *self._geometry)
            limits = None if clamp is None else list(clamp)
            return record("conv_float", x, x_scale, x_zero, *weight, relu, limits)
        return self._run(x, x_scale, x_zero, (OUT_FLOAT, 1.0, 0, torch.float32), relu, clamp)

    def dynamic(
        self,
        x: Tensor,
        per_tensor: bool = False,
        reduce_range: bool = False,
        relu: bool = False,
    ) -> Tensor:
        """``conv(x) + bias`` on floats: x is quantized on the way to unsigned integers of 8 bits (7
        with ``reduce_range``), each image of the batch with a scale and zero point of its own, or
        with ``per_tensor`` all with one.

        Takes one byte of memory for each element of the images in work, at most one for each
        thread, besides the output; an x that is neither contiguous nor channels last is copied.

        An image (with ``per_tensor``: an x) that holds NaN or infinities gives NaN in all of its
        outputs, and changes no other image's. ``dynamic_direct`` with the same four arguments does
        the same in a fraction of the time, or returns None where it does not take x as it is.

        Args:
            x: float32, bfloat16 or float16 (N, C, ...) or (C, ...).

        Returns:
            (N, O, ...) in x's dtype, laid out channels last. It carries no gradient.

        Raises:
            TypeError: dtype of x.
            ValueError: channels or rank; values so large that no float32 scale fits the results.
            RuntimeError: an image smaller than the kernel.
        """
        if tracing(x):
            weight = (*self._arguments(), *self._geometry)
            return record("conv_dynamic", x, *weight, per_tensor, reduce_range, relu)
        check_float_images(x)
        how = (per_tensor, reduce_range, relu)
        return run_on_floats(self._packed.run_dynamic, x, *self._shapes(x), *how)

    def _run(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        output: tuple[int, float, int, torch.dtype],
        relu: bool,
        clamp: Clamp | None,
        add: Tensor | None = None,
        add_scale: float = 1.0,
        add_zero: int = 0,
    ) -> Tensor:
        check_storage("input", x, EIGHT_BIT)
        batched, shape = self._shapes(x)
        image = channels_last(batched)
        kind, out_scale, out_zero, dtype = output
        out = new_channels_last(shape, dtype)
        residual = None if add is None else self._residual(add, out, x.dim())
        self._packed.run(
            image.data_ptr(),
            image.shape[0],
            _spatial("input", image.shape[2:], self.rank, 1),
            image.dtype == torch.int8,
            x_scale,
            x_zero,
            kind,
            out_scale,
            out_zero,
            relu,
            *(_NO_CLAMP if clamp is None else clamp),
            0 if residual is None else residual.data_ptr(),
            add_scale,
            add_zero,
            residual is not None and residual.dtype == torch.int8,
            out.data_ptr(),
        )
        return out.squeeze(0) if x.dim() == self.rank + 1 else out

    def _shapes(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input with a batch dimension, and the shape of its output; ValueError or RuntimeError
        where there is none."""
        batched = with_batch(x, self.rank, self.in_channels)
        n, _, *size = batched.shape
        out_size = self._packed.output_size(_spatial("input", size, self.rank, 1))[-self.rank :]
        if min(out_size) < 1:
            raise RuntimeError(
                f"input: a padded image of {_by(size)} is smaller than the kernel of "
                f"{_by(self.kernel_size)}, so there would be no output"
            )
        if 0 in size:
            raise RuntimeError(f"input: the image is empty, got shape {tuple(x.shape)}")
        return batched, (n, self.out_channels, *out_size)

    @staticmethod
    def _residual(add: Tensor, out: Tensor, dims: int) -> Tensor:
        check_storage("add", add, EIGHT_BIT)
        residual = add.unsqueeze(0) if add.dim() == out.dim() - 1 == dims else add
        if residual.shape != out.shape:
            expected = tuple(out.shape)[out.dim() - dims :]
            raise ValueError(f"add: expected the output's shape {expected}, got {tuple(add.shape)}")
        return channels_last(residual)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)


class Conv1dWeight(ConvWeight):
    """:class:`ConvWeight` of a convolution of (N, C, L) tensors."""

    _ranks = (1,)


class Conv2dWeight(ConvWeight):
    """:class:`ConvWeight` of a convolution of (N, C, H, W) tensors."""

    _ranks = (2,)


class Conv3dWeight(ConvWeight):
    """:class:`ConvWeight` of a convolution of (N, C, D, H, W) tensors."""

    _ranks = (3,)
