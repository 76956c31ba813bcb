"""Packed weights of linear layers and convolutions, and the calls that use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import (
    EIGHT_BIT,
    FLOAT_TYPE,
    OUT_FLOAT,
    OUT_KIND,
    Tensor,
    check_cpu,
    check_storage,
    image,
    image_args,
    new_image,
    pair,
)


def _expand(name: str, values: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """One value for each channel, as a contiguous CPU tensor."""
    values = values.detach().reshape(-1).to("cpu", dtype)
    if values.numel() == 1:
        values = values.expand(channels)
    if values.numel() != channels:
        raise ValueError(
            f"{name}: expected 1 value or one for each of the {channels} output channels, got "
            f"{values.numel()}"
        )
    return values.contiguous()


def _check_weight(weight: Tensor, dims: str, rank: int) -> Tensor:
    if weight.dtype != torch.int8:
        raise TypeError(f"weight: expected an int8 tensor, got {weight.dtype}")
    check_cpu("weight", weight)
    if weight.dim() != rank or weight.numel() == 0:
        raise ValueError(
            f"weight: expected a non-empty {dims} tensor, got shape {tuple(weight.shape)}"
        )
    return weight


def _bias_address(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.data_ptr()


def _out_kind(dtype: QDType) -> int:
    kind = OUT_KIND.get(dtype.name)
    if kind is None:
        raise TypeError(f"out_dtype: expected quint8 or qint8, got {dtype}")
    return kind


class _Weight:
    """Qparams and bias that both kinds of weight keep, as plain tensors.

    ``direct(x, out_scale, out_zero, out_dtype, relu)`` (for convolutions also ``add``) takes and
    returns a :class:`octavo.QTensor` and does the same as a call, in a fraction of the time; or it
    returns None, and the call tells why or does it.
    """

    direct: Callable[..., Any]

    def __init__(
        self, channels: int, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        self.scales = scales.detach().reshape(-1).to("cpu", torch.float32).contiguous()
        self.zero_points = zero_points.detach().reshape(-1).to("cpu", torch.int64).contiguous()
        self.bias = None if bias is None else _expand("bias", bias, channels, torch.float32)
        if bias is not None and bias.numel() != channels:
            raise ValueError(f"bias: expected {channels} values, got {bias.numel()}")
        # The addresses below are read while the extension copies them.
        self._scales = _expand("weight scale", self.scales, channels, torch.float32)
        self._zero_points = _expand("weight zero_point", self.zero_points, channels, torch.int32)


class LinearWeight(_Weight):
    """Weight of a quantized linear layer, packed for the CPU it runs on; immutable and safe to
    share by threads.

    Args:
        weight: int8 (out_features, in_features).
        scales, zero_points: 1-D, of length 1 (per tensor) or out_features (per channel); zero
            points in -128..127.
        bias: float32 (out_features,), or None.

    Raises:
        TypeError: weight is not int8.
        ValueError: shapes, scales that are not positive and finite, zero points out of range, a
            bias that is not finite, more than 65,793 input features.
    """

    def __init__(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        weight = _check_weight(weight, "(out_features, in_features)", 2).contiguous()
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        super().__init__(self.out_features, scales, zero_points, bias)
        self._packed = _C.LinearWeight(
            weight.data_ptr(),
            self.out_features,
            self.in_features,
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
        """The plain int8 (out_features, in_features) weight."""
        weight = torch.empty((self.out_features, self.in_features), dtype=torch.int8)
        self._packed.unpack(weight.data_ptr())
        return weight

    def _rows(self, x: Tensor) -> Tensor:
        check_storage("input", x, EIGHT_BIT)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"input: expected shape (..., {self.in_features}), got {tuple(x.shape)}"
            )
        return x if x.is_contiguous() else x.contiguous()

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        out_scale: float,
        out_zero: int,
        out_dtype: QDType,
        relu: bool = False,
    ) -> Tensor:
        """``requantize(x @ weight.T + bias)``, clamped at the zero point from below where ``relu``.

        Args:
            x: uint8 or int8 (..., in_features).
            out_dtype: quint8 or qint8.

        Returns:
            Storage of shape (..., out_features).

        Raises:
            TypeError: dtype of x or out_dtype.
            ValueError: feature count, qparams out of range.
        """
        x = self._rows(x)
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=out_dtype.storage)
        self._run(x, x_scale, x_zero, _out_kind(out_dtype), out_scale, out_zero, relu, out)
        return out

    def dequantized_output(
        self, x: Tensor, x_scale: float, x_zero: int, relu: bool = False
    ) -> Tensor:
        """The same without requantization: float32 (..., out_features)."""
        x = self._rows(x)
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.float32)
        self._run(x, x_scale, x_zero, OUT_FLOAT, 1.0, 0, relu, out)
        return out

    def dynamic(
        self,
        x: Tensor,
        per_tensor: bool = False,
        reduce_range: bool = False,
        relu: bool = False,
        gelu: bool = False,
    ) -> Tensor:
        """``x @ weight.T + bias`` on floats: x is quantized on the way to unsigned integers of 8
        bits (7 with ``reduce_range``), each row with a scale and zero point of its own, or with
        ``per_tensor`` all with one.

        A row (with ``per_tensor``: an x) that holds NaN or infinities gives NaN in all of its
        outputs, and changes no other row's. ``dynamic_direct`` with the same five arguments does
        the same in a fraction of the time, or returns None where it does not take x as it is.

        Args:
            x: float32, bfloat16 or float16 (..., in_features).
            gelu: GELU in its exact form (``approximate="none"``), fused, in float32; the same bits
                on every CPU, as close to the true value as torch.

        Returns:
            (..., out_features) in x's dtype. It carries no gradient.

        Raises:
            TypeError: dtype of x.
            ValueError: feature count.
        """
        if x.dtype not in FLOAT_TYPE:
            raise TypeError(f"input: expected a float32, bfloat16 or float16 tensor, got {x.dtype}")
        check_cpu("input", x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"input: expected shape (..., {self.in_features}), got {tuple(x.shape)}"
            )
        x = x.detach().resolve_neg().contiguous()
        k = self.in_features
        out = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        self._packed.run_dynamic(
            x.data_ptr(),
            FLOAT_TYPE[x.dtype],
            x.numel() // k,
            k,
            k,
            per_tensor,
            reduce_range,
            relu,
            gelu,
            out.data_ptr(),
        )
        return out

    def _run(
        self,
        x: Tensor,
        x_scale: float,
        x_zero: int,
        kind: int,
        out_scale: float,
        out_zero: int,
        relu: bool,
        out: Tensor,
    ) -> None:
        k = self.in_features
        self._packed.run(
            x.data_ptr(),
            x.numel() // k,
            k,
            k,
            x.dtype == torch.int8,
            x_scale,
            x_zero,
            kind,
            out_scale,
            out_zero,
            relu,
            out.data_ptr(),
        )


class Conv2dWeight(_Weight):
    """Weight of a quantized 2-D convolution, packed for the CPU it runs on; immutable and safe to
    share by threads.

    Args:
        weight: int8 (out_channels, in_channels / groups, kernel height, kernel width).
        scales, zero_points: 1-D, of length 1 (per tensor) or out_channels (per channel).
        bias: float32 (out_channels,), or None.
        stride, padding, dilation: one integer or (height, width). ``padding`` is what precedes the
            image.
        padding_end: what follows the image where it differs from ``padding``.

    Raises:
        TypeError, ValueError: as :class:`LinearWeight`, and for geometry below its minimum or
            groups that do not divide out_channels.
    """

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        bias: Tensor | None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_end: int | Sequence[int] | None = None,
    ) -> None:
        weight = _check_weight(weight, "(out_channels, in_channels / groups, height, width)", 4)
        self.out_channels, per_group, kh, kw = (int(size) for size in weight.shape)
        self.in_channels = per_group * groups
        self.kernel_size = (kh, kw)
        self.groups = groups
        super().__init__(self.out_channels, scales, zero_points, bias)
        pad = pair("padding", padding)
        taps_last = weight.permute(0, 2, 3, 1).contiguous()
        self._packed = _C.Conv2dWeight(
            taps_last.data_ptr(),
            self.out_channels,
            per_group,
            groups,
            kh,
            kw,
            *pair("stride", stride),
            *pad,
            *(pad if padding_end is None else pair("padding_end", padding_end)),
            *pair("dilation", dilation),
            self._scales.data_ptr(),
            self._zero_points.data_ptr(),
            _bias_address(self.bias),
        )
        self.direct = self._packed.run_direct
        del self._scales, self._zero_points

    @property
    def packed_bytes(self) -> int:
        """Memory that the packed weight takes."""
        return self._packed.packed_bytes()

    def unpack(self) -> Tensor:
        """The plain int8 (out_channels, in_channels / groups, height, width) weight."""
        kh, kw = self.kernel_size
        shape = (self.out_channels, kh, kw, self.in_channels // self.groups)
        weight = torch.empty(shape, dtype=torch.int8)
        self._packed.unpack(weight.data_ptr())
        return weight.permute(0, 3, 1, 2).contiguous()

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
    ) -> Tensor:
        """``requantize(conv2d(x) + bias + add)``, clamped at the zero point from below where
        ``relu``.

        Args:
            x: uint8 or int8 (N, C, H, W) or (C, H, W), any strides; read without a copy where
                channels last.
            out_dtype: quint8 or qint8.
            add: uint8 or int8 of the output's shape, in its own qparams; or None.

        Returns:
            Storage laid out channels last.

        Raises:
            TypeError: dtype of x, add or out_dtype.
            ValueError: channels, rank, shape of add, qparams out of range.
            RuntimeError: an image smaller than the kernel.
        """
        kind = _out_kind(out_dtype)
        q, unbatched = image("input", x)
        n, c, h, w = q.shape
        if c != self.in_channels:
            raise ValueError(
                f"input: expected {self.in_channels} channels, got shape {tuple(x.shape)}"
            )
        out_h, out_w = self._packed.output_size(h, w)
        if out_h < 1 or out_w < 1:
            raise RuntimeError(
                f"input: a padded image of {h}x{w} is smaller than the kernel of "
                f"{self.kernel_size[0]}x{self.kernel_size[1]}, so there would be no output"
            )
        out = new_image(n, self.out_channels, out_h, out_w, out_dtype.storage)
        residual = None if add is None else self._residual(add, out)
        self._packed.run(
            *image_args(q),
            q.dtype == torch.int8,
            x_scale,
            x_zero,
            kind,
            out_scale,
            out_zero,
            relu,
            0 if residual is None else residual.data_ptr(),
            add_scale,
            add_zero,
            residual is not None and residual.dtype == torch.int8,
            out.data_ptr(),
        )
        return out.squeeze(0) if unbatched else out

    @staticmethod
    def _residual(add: Tensor, out: Tensor) -> Tensor:
        residual, _ = image("add", add)
        if residual.shape != out.shape:
            raise ValueError(
                f"add: expected the output's shape {tuple(out.shape)}, got {tuple(add.shape)}"
            )
        return residual
