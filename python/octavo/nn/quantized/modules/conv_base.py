"""What quantized convolutions share, static and dynamic: arguments, paddings, input checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo import ops
from octavo._errors import ArgumentError
from octavo.dtypes import as_qdtype, qint8
from octavo.nn.quantized.modules.utils import source_label
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.ops.shared import shared_weight

__all__ = ["ConvModule"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _tuple_of(value: Any, rank: int, name: str, minimum: int) -> tuple[int, ...]:
    """``value`` as a tuple of ``rank`` ints >= minimum.

    Raises:
        TypeError: it holds something else than ints.
        ArgumentError: one is below the minimum, or their number is another.
    """
    items = tuple(value) if isinstance(value, Iterable) else (value,) * rank
    if len(items) == 1:
        items = items * rank
    message = f"{name} must be an int >= {minimum} or {rank} of them, got {value!r}"
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise TypeError(message)
    if len(items) != rank or min(items) < minimum:
        raise ArgumentError(message)
    return items


def _border_index(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which of ``size`` elements each element of the padded dimension copies."""
    index = torch.arange(-before, size + after)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode == "circular":
        return index.remainder(size)
    return (size - 1) - (index.abs() - (size - 1)).abs()  # reflect, the border itself not repeated


class ConvModule(PackedWeightModule):
    """A convolution of ``_RANK`` spatial dimensions with a packed int8 weight."""

    _FLOAT_MODULE: ClassVar[type[nn.Module]]
    _RANK: ClassVar[int]

    def _configure(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        """Sets the attributes that :class:`torch.nn.Conv2d` has; raises where one is wrong, as
        :class:`octavo.nn.quantized.Conv2d` says.
        """
        self._check_arguments(in_channels, out_channels, groups, padding_mode, device, dtype)
        rank, label = self._RANK, self._label()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _tuple_of(kernel_size, rank, f"{label}: kernel_size", 1)
        self.stride = _tuple_of(stride, rank, f"{label}: stride", 1)
        self.dilation = _tuple_of(dilation, rank, f"{label}: dilation", 1)
        if not isinstance(padding, str):
            padding = _tuple_of(padding, rank, f"{label}: padding", 0)
        self.padding = padding
        self.groups = groups
        self.padding_mode = padding_mode
        self.transposed = False
        self.output_padding = (0,) * rank
        self._plan_padding()

    def _check_arguments(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        label = self._label()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
        for name, count in counts.items():
            if not isinstance(count, int):
                raise TypeError(f"{label}: {name} must be an int, got {count!r}")
        if groups < 1 or out_channels < 1 or in_channels < 1:
            raise ArgumentError(
                f"{label}: in_channels, out_channels and groups must be >= 1, got {in_channels}, "
                f"{out_channels}, {groups}"
            )
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{label}: in_channels and out_channels must be divisible by groups, got "
                f"{in_channels}, {out_channels} and {groups}"
            )
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"{label}: padding_mode must be one of {_PADDING_MODES}, got {padding_mode!r}"
            )
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(f"{label}: quantized modules run on the CPU, got device {device}")
        if dtype is not None and as_qdtype(dtype) is not qint8:
            raise ArgumentError(
                f"{label}: dtype is the weight's and must be octavo.qint8, got {dtype}"
            )

    def _plan_padding(self) -> None:
        """Splits the padding into the kernel's part and what is laid around its input.

        ``_kernel_padding`` (before, after; per dimension): the kernel reads the zero point there.
        ``_border``: the same for the modes that copy elements of the input; else None.
        """
        none = (0,) * self._RANK
        before: tuple[int, ...]
        if self.padding == "same":
            if any(stride != 1 for stride in self.stride):
                raise ValueError(
                    f"{self._label()}: padding='same' needs stride 1, got {self.stride}"
                )
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            before = tuple(t // 2 for t in total)
            after = tuple(t - t // 2 for t in total)
        elif self.padding == "valid":
            before = after = none
        elif isinstance(self.padding, str):
            raise ValueError(
                f"{self._label()}: padding must be numbers, 'same' or 'valid', got {self.padding!r}"
            )
        else:
            before = after = self.padding
        zeros = self.padding_mode == "zeros"
        self._kernel_padding = (before, after) if zeros else (none, none)
        self._border = None if zeros or not any(after) else (before, after)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _pack(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Any:
        padding, padding_end = self._kernel_padding
        return shared_weight(
            ops.ConvWeight,
            weight,
            scales,
            zero_points,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            padding_end,
        )

    def _repr_of_geometry(self, qparams: str) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, {qparams}"
        )
        if self.padding != (0,) * self._RANK:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._RANK:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self._packed.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text

    def _with_border(self, x: Tensor) -> Tensor:
        """The input with its explicit border, if any; RuntimeError where its shape is wrong."""
        rank = self._RANK
        if x.dim() not in (rank + 1, rank + 2) or x.shape[-1 - rank] != self.in_channels:
            raise RuntimeError(
                f"{self._label()}: the input must have shape [N, {self.in_channels}, "
                f"{', '.join('DHW'[-rank:] if rank > 1 else 'L')}], or the same without N, got "
                f"{tuple(x.shape)}"
            )
        return x if self._border is None else self._bordered(x)

    def _bordered(self, x: Tensor) -> Tensor:
        """The input in a border of copies of its own elements; RuntimeError if it is too small."""
        assert self._border is not None
        for dim, (before, after) in enumerate(
            zip(*self._border, strict=True), x.dim() - self._RANK
        ):
            size = x.shape[dim]
            unlimited = after if size else 0
            limits = {"reflect": size - 1, "circular": size, "replicate": unlimited}
            if max(before, after) > limits[self.padding_mode]:
                raise RuntimeError(
                    f"{self._label()}: padding {self.padding} with mode {self.padding_mode!r} is "
                    f"too large for an input of shape {tuple(x.shape)}"
                )
            x = x.index_select(dim, _border_index(size, before, after, self.padding_mode))
        return x

    @classmethod
    def _float_conv(cls, mod: nn.Module) -> nn.Module:
        """The float convolution in the float module; TypeError where it is of another kind."""
        if not isinstance(mod, cls._FLOAT_MODULE):
            raise TypeError(
                f"{source_label(cls, mod)}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}"
            )
        return mod

    @classmethod
    def _like_float(cls, conv: Any, **more: Any) -> Any:
        """A module of this class with the arguments of a float convolution."""
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            **more,
        )
