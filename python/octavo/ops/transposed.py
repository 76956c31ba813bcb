"""Packed weights of transposed convolutions of 1, 2 and 3 spatial dimensions, and the calls that
use them."""

from __future__ import annotations

import torch

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import EIGHT_BIT, OUT_FLOAT, Tensor, check_storage
from octavo.ops._tracing import int_list, record, tracing
from octavo.ops.conv_weights import (
    Ints,
    _shape_text,
    _spatial,
    channels_last,
    check_float_images,
    new_channels_last,
    run_on_floats,
    with_batch,
)
from octavo.ops.weights import _bias_address, _check_weight, _out_kind, _Weight


class ConvTransposeWeight(_Weight):
    """Weight of a quantized transposed convolution of 1, 2 or 3 spatial dimensions, packed for the
    CPU it runs on; immutable and safe to share by threads.

    Args:
        weight: int8 (in_channels, out_channels / groups, kernel sizes); its rank is that of the
            tensors.
        scales, zero_points: 1-D, of length 1 (per tensor), out_channels / groups (one for each
            channel of a group, the same in all groups) or out_channels.
        bias: float32 (out_channels,), or None.
        stride, padding, output_padding, dilation: one integer or one for each spatial dimension.

    Raises:
        TypeError, ValueError: as :class:`LinearWeight`, and for geometry below its minimum or
            groups that do not divide in_channels.
    """

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        bias: Tensor | None,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> None:
        self.rank = rank = weight.dim() - 2 if weight.dim() - 2 in (1, 2, 3) else 2
        dims = _shape_text("in_channels, out_channels / groups", rank)
        weight = _check_weight(weight, dims, rank + 2).contiguous()
        self.in_channels, per_group, *kernel = (int(size) for size in weight.shape)
        self.out_channels = per_group * groups
        self.kernel_size = tuple(kernel)
        self.groups = groups
        self.output_padding = _spatial("output_padding", output_padding, rank, 0)
        # As operators of a graph take it, without the output padding.
        self._geometry = (
            int_list(stride, rank),
            int_list(padding, rank),
            int_list(dilation, rank),
            groups,
        )
        super().__init__(
            self.out_channels,
            _of_all_groups(scales, per_group, groups),
            _of_all_groups(zero_points, per_group, groups),
            bias,
        )
        self._packed = _C.ConvTransposeWeight(
            weight.data_ptr(),
            rank,
            self.in_channels,
            per_group,
            groups,
            _spatial("kernel_size", kernel, rank, 1),
            _spatial("stride", stride, rank, 1),
            _spatial("padding", padding, rank, 0),
            self.output_padding,
            _spatial("dilation", dilation, rank, 1),
            self._scales.data_ptr(),
            self._zero_points.data_ptr(),
            _bias_address(self.bias),
        )
        self.direct = self._packed.run_direct
        self.dynamic_direct = self._packed.run_dynamic_direct
        del self._scales, self._zero_points
        # As they were given.
        self.scales = scales.detach().reshape(-1).to("cpu", torch.float32).contiguous()
        self.zero_points = zero_points.detach().reshape(-1).to("cpu", torch.int64).contiguous()

    @property
    def packed_bytes(self) -> int:
        """Memory that the packed weight takes."""
        return self._packed.packed_bytes()

    def unpack(self) -> Tensor:
        """The plain int8 (in_channels, out_channels / groups, kernel sizes) weight."""
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        weight = torch.empty(shape, dtype=torch.int8)
        self._packed.unpack(weight.data_ptr())
        return weight

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        out_scale: float,
        out_zero: int,
        out_dtype: QDType,
        relu: bool = False,
        output_padding: Ints | None = None,
    ) -> Tensor:
        """``requantize(conv_transpose(x) + bias)``, clamped at the zero point from below where
        ``relu``.

        Args:
            x: uint8 or int8 (N, C, ...) or (C, ...), any strides; read without a copy where
                channels last.
            out_dtype: quint8 or qint8.
            output_padding: of this call; None takes the weight's.

        Returns:
            Storage laid out channels last.

        Raises:
            TypeError: dtype of x or out_dtype.
            ValueError: channels, rank, qparams out of range, a negative output padding.
            RuntimeError: an empty image, or padding that cuts off all of the output.
        """
        if tracing(x):
            weight = (*self._arguments(), *self._geometry, self._extra_list(output_padding))
            output = (out_scale, out_zero, out_dtype.storage, relu)
            return record("conv_transpose", x, x_scale, x_zero, *weight, *output)
        out = (_out_kind(out_dtype), out_scale, out_zero, out_dtype.storage)
        return self._run(x, x_scale, x_zero, out, relu, output_padding)

    def dequantized_output(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        relu: bool = False,
        output_padding: Ints | None = None,
    ) -> Tensor:
        """The same without requantization: float32, laid out channels last."""
        if tracing(x):
            weight = (*self._arguments(), *self._geometry, self._extra_list(output_padding))
            return record("conv_transpose_float", x, x_scale, x_zero, *weight, relu)
        out = (OUT_FLOAT, 1.0, 0, torch.float32)
        return self._run(x, x_scale, x_zero, out, relu, output_padding)

    def dynamic(
        self,
        x: Tensor,
        per_tensor: bool = False,
        reduce_range: bool = False,
        relu: bool = False,
        output_padding: Ints | None = None,
    ) -> Tensor:
        """``conv_transpose(x) + bias`` on floats, quantized as :meth:`ConvWeight.dynamic` does it.

        Args:
            x: float32, bfloat16 or float16 (N, C, ...) or (C, ...).
            output_padding: of this call; None takes the weight's.

        Returns:
            (N, O, ...) in x's dtype, laid out channels last. It carries no gradient.

        Raises:
            TypeError: dtype of x.
            ValueError, RuntimeError: as a call, and values so large that no float32 scale fits the
                results.
        """
        how = (per_tensor, reduce_range, relu)
        if tracing(x):
            weight = (*self._arguments(), *self._geometry, self._extra_list(output_padding))
            return record("conv_transpose_dynamic", x, *weight, *how)
        check_float_images(x)
        extra = self._extra(output_padding)
        return run_on_floats(self._packed.run_dynamic, x, *self._shapes(x, extra), extra, *how)

    def _extra(self, output_padding: Ints | None) -> tuple[int, int, int]:
        if output_padding is None:
            return self.output_padding
        return _spatial("output_padding", output_padding, self.rank, 0)

    def _extra_list(self, output_padding: Ints | None) -> list[int]:
        if output_padding is None:
            return list(self.output_padding[-self.rank :])
        return int_list(output_padding, self.rank)

    def _run(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        output: tuple[int, float, int, torch.dtype],
        relu: bool,
        output_padding: Ints | None,
    ) -> Tensor:
        check_storage("input", x, EIGHT_BIT)
        extra = self._extra(output_padding)
        batched, shape = self._shapes(x, extra)
        image = channels_last(batched)
        kind, out_scale, out_zero, dtype = output
        out = new_channels_last(shape, dtype)
        self._packed.run(
            image.data_ptr(),
            image.shape[0],
            _spatial("input", image.shape[2:], self.rank, 1),
            extra,
            image.dtype == torch.int8,
            x_scale,
            x_zero,
            kind,
            out_scale,
            out_zero,
            relu,
            out.data_ptr(),
        )
        return out.squeeze(0) if x.dim() == self.rank + 1 else out

    def _shapes(self, x: Tensor, extra: tuple[int, int, int]) -> tuple[Tensor, tuple[int, ...]]:
        """The input with a batch dimension, and the shape of its output; ValueError or RuntimeError
        where there is none."""
        batched = with_batch(x, self.rank, self.in_channels)
        n, _, *size = batched.shape
        if 0 in size:
            raise RuntimeError(f"input: the image is empty, got shape {tuple(x.shape)}")
        if min(extra) < 0:
            raise ValueError(f"output_padding: must be at least 0, got {extra[-self.rank :]}")
        least = self._packed.output_size(_spatial("input", size, self.rank, 1))
        out_size = [a + b for a, b in zip(least, extra, strict=True)][-self.rank :]
        if min(out_size) < 1:
            raise RuntimeError(
                f"input: the padding cuts off all of the output of an input of shape "
                f"{tuple(x.shape)}, whose sizes would be {tuple(out_size)}"
            )
        return batched, (n, self.out_channels, *out_size)


def _of_all_groups(values: Tensor, per_group: int, groups: int) -> Tensor:
    """Values for the channels of one group, repeated for every group; others as they are."""
    values = values.reshape(-1)
    return values.repeat(groups) if groups > 1 and values.numel() == per_group > 1 else values
