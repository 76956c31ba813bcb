"""Quantized pooling."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo import ops
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["MaxPool2d"]


class MaxPool2d(QuantizedModule):
    """2-D max pooling of a quantized tensor; scale and zero point are the input's.

    Args: those of :class:`torch.nn.MaxPool2d`; ``return_indices`` must be False.

    Shape: input ``[N, C, H, W]`` or ``[C, H, W]``, any strides; output in channels-last layout.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale, and
            for window arguments that are no integers.
        RuntimeError: in ``forward``, for a wrong rank, an image smaller than the window, and window
            arguments that ``torch.nn.MaxPool2d`` refuses (these are ValueErrors too).
        ValueError: ``return_indices=True``.

    Source: ``torch.nn.quantized.MaxPool2d``, which is ``torch.nn.MaxPool2d``. (That one also works
    on quantized tensors; this one accepts nothing else, and so finds a missing QuantStub.)
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        if return_indices:
            raise ValueError("MaxPool2d: return_indices=True does not exist for quantized tensors")
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = False
        self.ceil_mode = ceil_mode

    def _get_name(self) -> str:
        return "QuantizedMaxPool2d"

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )

    def forward(self, input: QTensor) -> QTensor:
        result: QTensor | None = (
            None
            if is_dynamo_compiling()
            else direct.max_pool(
                input, 2, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
        )
        if result is not None:
            return result
        q = self._activation(input)
        if q.dim() not in (3, 4):
            raise RuntimeError(
                f"{self._label()}: the input must have shape [N, C, H, W] or [C, H, W], got "
                f"{tuple(q.shape)}"
            )
        try:
            out = ops.max_pool2d(
                q, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return input._with_int(out)

    @classmethod
    def from_float(cls, mod: Any, use_precomputed_fake_quant: bool = False) -> MaxPool2d:
        """From a :class:`torch.nn.MaxPool2d`; needs no observer."""
        if not isinstance(mod, nn.MaxPool2d):
            raise TypeError(
                f"MaxPool2d.from_float: expected a torch.nn.MaxPool2d, got {type(mod).__name__}"
            )
        return cls(
            mod.kernel_size,
            mod.stride,
            mod.padding,
            mod.dilation,
            mod.return_indices,
            mod.ceil_mode,
        )
