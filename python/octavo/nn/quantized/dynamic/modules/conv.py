"""Dynamically quantized convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo._elsewhere import elsewhere
from octavo.nn.quantized.modules.conv_base import ConvModule
from octavo.nn.quantized.modules.upstream import upstream_of
from octavo.nn.quantized.modules.utils import (
    describe,
    dynamic_activations,
    dynamic_weight_observer,
    source_label,
)
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class _ConvNd(ConvModule):
    """Dynamic convolutions of 1, 2 and 3 spatial dimensions: float in, float out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        reduce_range: bool = False,
        *,
        per_tensor: bool = False,
    ) -> None:
        super().__init__()
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
        self.per_tensor = bool(per_tensor)
        self.reduce_range = bool(reduce_range)
        self._reset_weight(bias)

    def _get_name(self) -> str:
        return f"DynamicQuantized{type(self).__name__}"

    def extra_repr(self) -> str:
        per_channel = self._packed.scales.numel() > 1
        return self._repr_of_geometry(
            f"qscheme=torch.per_{'channel' if per_channel else 'tensor'}_affine, "
            f"activations=per_{'tensor' if self.per_tensor else 'image'}, "
            f"bits={7 if self.reduce_range else 8}"
        )

    def forward(self, x: Tensor) -> Tensor:
        if self._border is None and not is_dynamo_compiling():
            result: Tensor | None = self._packed.dynamic_direct(
                x, self.per_tensor, self.reduce_range, self._relu
            )
            if result is not None:
                return result
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        """`forward` for what the packed weight does not take directly."""
        return self._run_dynamic(self._with_border(self._floats(x)))

    def _floats(self, x: Any) -> Tensor:
        """The input; TypeError unless it is a float tensor."""
        if isinstance(x, QTensor) or not isinstance(x, Tensor) or x.dtype not in _FLOATS:
            cure = (
                "Dequantize it first: this module takes floats and quantizes them itself."
                if isinstance(x, QTensor)
                else "Convert it with .float()."
            )
            raise TypeError(
                f"{self._label()}: input must be a float32, bfloat16 or float16 tensor, got "
                f"{describe(x)}{upstream_of(self)}. {cure}"
            )
        return x

    def _run_dynamic(self, x: Tensor, *more: Any) -> Tensor:
        try:
            out: Tensor = self._packed.dynamic(
                x, self.per_tensor, self.reduce_range, self._relu, *more
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return out

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        use_precomputed_fake_quant: bool = False,
        *,
        per_tensor: bool | None = None,
        reduce_range: bool | None = None,
    ) -> Any:
        """A dynamically quantized module with the weights of a float one.

        Args:
            mod: a float convolution of the same rank. Its ``weight_fake_quant`` or
                ``qconfig.weight()`` quantizes the weight; where it has neither, each output channel
                gets a scale of its own, symmetric, of 8 bits.
            use_precomputed_fake_quant: take a weight fake-quantize's qparams as they are, without
                showing it the weight again.
            per_tensor, reduce_range: see :class:`Conv2d`; None is what ``qconfig.activation()``
                says, or False without one.

        Raises:
            TypeError: wrong kind of module; a weight observer of another dtype than qint8.
            ValueError: NaN or Inf in weight or bias.
        """
        label = source_label(cls, mod)
        conv: Any = cls._float_conv(mod)
        activations = dynamic_activations(mod, conv, per_tensor, reduce_range)
        result = cls._like_float(conv, **activations)
        observer, seen = dynamic_weight_observer(mod, conv)
        if not seen:
            result._observe_channels(observer)
        result._take_weight(conv, observer, label, seen and use_precomputed_fake_quant)
        return result


class Conv1d(_ConvNd):
    """1-D convolution of float tensors: as :class:`Conv2d`, for ``[N, C, L]`` or ``[C, L]``.

    Source: ``torch.ao.nn.quantized.dynamic.Conv1d``; the differences are those of :class:`Conv2d`.
    """

    _FLOAT_MODULE = nn.Conv1d
    _RANK = 1


class Conv2d(_ConvNd):
    """2-D convolution of float tensors: int8 weights; activations are quantized on the way to 8
    bits, each image of the batch with a scale and zero point of its own; exact int32 accumulation.

    Args:
        others: those of :class:`torch.nn.Conv2d`, all of its paddings and padding modes included.
            ``device`` must be the CPU, ``dtype`` is that of the weight, ``octavo.qint8``.
        reduce_range: 7 bits instead of 8.
        per_tensor: one scale for the whole batch instead of one for each image. With
            ``reduce_range``, what torch does.

    Shape: input ``[N, C, H, W]`` or ``[C, H, W]``, float32, bfloat16 or float16, any strides
    (contiguous and channels last are read as they are, others are copied); output
    ``[N, O, H', W']`` of the same dtype in channels-last layout, without a gradient. N may be 0.

    Memory: the quantized images, one byte for each element, one image for each thread at most.

    An image's result does not depend on the other images of the batch. An image with NaN or
    infinities in it gives NaN; with ``per_tensor``, the whole output does.

    Raises:
        TypeError: in ``forward``, for anything but a float tensor of those dtypes.
        RuntimeError: in ``forward``, for a wrong rank or number of channels, a kernel larger than
            the padded input, or a tensor that is not on the CPU.
        ValueError: wrong arguments; so many inputs per output that int32 could overflow; in
            ``forward``, values so large that input scale times weight scale leaves float32.

    Source: ``torch.ao.nn.quantized.dynamic.Conv2d``. Differences: torch uses one scale of 7 bits
    for the whole batch, so that one bright image costs all others their accuracy, and rounds and
    clips the output to the scale and range of the input; NaN comes out as numbers there; it takes
    ``reduce_range`` in ``forward``. String paddings and the modes replicate and circular are
    accepted here, and the state dict has no output scale.
    """

    _FLOAT_MODULE = nn.Conv2d
    _RANK = 2


class Conv3d(_ConvNd):
    """3-D convolution of float tensors: as :class:`Conv2d`, for ``[N, C, D, H, W]`` or
    ``[C, D, H, W]``.

    Source: ``torch.ao.nn.quantized.dynamic.Conv3d``; the differences are those of :class:`Conv2d`.
    """

    _FLOAT_MODULE = nn.Conv3d
    _RANK = 3


# In torch transposed convolutions are here; their module imports this one.
__getattr__ = elsewhere(
    __name__,
    "octavo.nn.quantized.dynamic.modules.conv_transpose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
)
