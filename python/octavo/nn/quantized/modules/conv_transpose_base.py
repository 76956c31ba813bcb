"""What quantized transposed convolutions share, static and dynamic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from octavo import ops
from octavo.nn.quantized.modules.conv_base import ConvModule, _tuple_of
from octavo.ops.shared import shared_weight

__all__ = ["ConvTransposeModule"]


class ConvTransposeModule(ConvModule):
    """A transposed convolution of ``_RANK`` spatial dimensions with a packed int8 weight."""

    _weight_axis = 1

    def _configure_transposed(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        output_padding: Any,
        dilation: Any,
        groups: int,
        padding_mode: str,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Sets the attributes that :class:`torch.nn.ConvTranspose2d` has; raises where one is
        wrong, as :class:`octavo.nn.quantized.ConvTranspose2d` says.
        """
        if padding_mode != "zeros":
            raise ValueError(
                f"{self._label()}: padding_mode of a transposed convolution must be 'zeros', got "
                f"{padding_mode!r}"
            )
        if isinstance(padding, str):
            raise TypeError(
                f"{self._label()}: padding of a transposed convolution must be numbers, got "
                f"{padding!r}"
            )
        self._configure(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
            device,
            dtype,
        )
        self.transposed = True
        self.output_padding = _tuple_of(
            output_padding, self._RANK, f"{self._label()}: output_padding", 0
        )
        # Torch refuses other output paddings when it is called.
        self._pads_output = all(
            extra < max(stride, dilation)
            for extra, stride, dilation in zip(
                self.output_padding, self.stride, self.dilation, strict=True
            )
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def _outputs(self) -> int:
        return self.out_channels

    def _pack(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Any:
        return shared_weight(
            ops.ConvTransposeWeight,
            weight,
            scales,
            zero_points,
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if any(self.output_padding):
            text += f", output_padding={self.output_padding}"
        return text

    def _output_padding(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output padding of a call: the module's own, RuntimeError where torch refuses it; or
        the one that gives ``output_size``, ValueError where none does.
        """
        if output_size is None:
            if self._pads_output:
                return self.output_padding
            raise RuntimeError(
                f"{self._label()}: output_padding must be smaller than either stride or dilation, "
                f"got {self.output_padding} with stride {self.stride} and dilation {self.dilation}"
            )
        rank = self._RANK
        sizes = tuple(int(size) for size in output_size)
        if len(sizes) == x.dim():
            sizes = sizes[-rank:]
        if len(sizes) != rank:
            raise ValueError(
                f"{self._label()}: output_size must have {rank} or {x.dim()} elements for an input "
                f"of shape {tuple(x.shape)}, got {tuple(output_size)}"
            )
        least = tuple(
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                x.shape[-rank:],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                strict=True,
            )
        )
        most = tuple(size + stride - 1 for size, stride in zip(least, self.stride, strict=True))
        if not all(low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)):
            raise ValueError(
                f"{self._label()}: output_size must be from {least} to {most} for an input of "
                f"shape {tuple(x.shape)}, got {sizes}"
            )
        return tuple(size - low for size, low in zip(sizes, least, strict=True))

    @classmethod
    def _like_float(cls, conv: Any, **more: Any) -> Any:
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.output_padding,
            conv.groups,
            conv.bias is not None,
            conv.dilation,
            conv.padding_mode,
            **more,
        )
