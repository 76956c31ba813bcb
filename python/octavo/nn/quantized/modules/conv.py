"""Quantized convolutions."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo._elsewhere import elsewhere
from octavo.dtypes import quint8
from octavo.nn.quantized.modules.conv_base import ConvModule
from octavo.nn.quantized.modules.utils import observed_float, source_label
from octavo.nn.quantized.modules.weighted import WeightedQuantizedModule
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["Conv1d", "Conv2d", "Conv3d"]


class _ConvNd(ConvModule, WeightedQuantizedModule):
    """Static convolutions of 1, 2 and 3 spatial dimensions: quantized in, quantized out."""

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
        self._set_output(1.0, 0, quint8)
        self._reset_weight(bias)

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def extra_repr(self) -> str:
        return self._repr_of_geometry(f"scale={self._scale}, zero_point={self._zero_point}")

    def forward(self, input: QTensor) -> QTensor:
        if self._border is None and not is_dynamo_compiling():
            result: QTensor | None = self._packed.direct(
                input, self._scale, self._zero_point, self._out_qdtype, self._relu
            )
            if result is not None:
                return result
        return self._forward(input)

    def _forward(self, input: QTensor) -> QTensor:
        """`forward` for what the packed weight does not take directly."""
        x = self._with_border(self._activation(input))
        scale, zero_point, qdtype = self._scale, self._zero_point, self._out_qdtype
        out = self._run(x, input._scale, input._zero_point, scale, zero_point, qdtype, self._relu)
        return QTensor._wrap(out, scale, zero_point, qdtype)

    @classmethod
    def _options_of(cls, mod: nn.Module) -> dict[str, Any]:
        """Further arguments of the constructor for a float module that `_float_conv` takes."""
        return {}

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """A quantized module with the weights and the observed output range of a float one.

        Args:
            mod: prepared and calibrated: it has ``qconfig`` and ``activation_post_process``. Or the
                form of such a module in quantization-aware training.
            use_precomputed_fake_quant: take a weight fake-quantize's qparams as they are, without
                showing it the weight again.

        Raises:
            TypeError: wrong kind of module; observers of dtypes that are not 8-bit (qint8 for
                weights).
            ValueError: no qconfig or observer; NaN or Inf in weight or bias.
        """
        label = source_label(cls, mod)
        mod = observed_float(mod)
        conv: Any = cls._float_conv(mod)
        result = cls._like_float(conv, **cls._options_of(mod))
        result._take_float(conv, mod, label, use_precomputed_fake_quant)
        return result


class Conv1d(_ConvNd):
    """1-D convolution on quantized tensors: as :class:`Conv2d`, for ``[N, C, L]`` or ``[C, L]``.

    The output is channels last too: the channels of a position lie together, strides
    ``(L * C, 1, C)``.

    Source: ``torch.ao.nn.quantized.Conv1d``; the differences are those of :class:`Conv2d`.
    """

    _FLOAT_MODULE = nn.Conv1d
    _RANK = 1


class Conv2d(_ConvNd):
    """2-D convolution on quantized tensors: int8 weights, exact int32 accumulation.

    Args: those of :class:`torch.nn.Conv2d`, all of its paddings ('same' and 'valid' too) and
    padding modes included. ``device`` must be the CPU, ``dtype`` is that of the weight,
    ``octavo.qint8``.

    Shape: input ``[N, C, H, W]`` or ``[C, H, W]``, quint8 or qint8, one scale for the whole tensor,
    any strides (channels last is what the kernels read; other layouts are converted once per call);
    output ``[N, O, H', W']`` in channels-last layout with the module's ``scale`` and
    ``zero_point``, of the activation observer's dtype (quint8 unless from_float found another).
    Padding reads as real zero. N may be 0.

    A module that was constructed directly has zero weights; see :meth:`from_float`,
    :meth:`set_weight_bias`, ``load_state_dict``.

    Raises:
        TypeError: arguments of the wrong type; in ``forward``, anything but an 8-bit quantized
            tensor with one scale.
        RuntimeError: in ``forward``, for a wrong rank or number of channels, or a kernel larger
            than the padded input.
        ValueError: wrong arguments; so many inputs per output that int32 could overflow.

    Wrong arguments are refused here, when the module is made, also those that
    :class:`torch.nn.Conv2d` takes and refuses when it is called. Where torch raises a RuntimeError
    (a stride of 0, negative padding, tuples of the wrong length), the error is a RuntimeError and a
    ValueError.

    Source: ``torch.ao.nn.quantized.Conv2d``. Differences: ``weight`` and ``bias`` can be read as
    attributes too; string paddings, the modes replicate and circular, unbatched input and qint8
    input are accepted.
    """

    _FLOAT_MODULE = nn.Conv2d
    _RANK = 2


class Conv3d(_ConvNd):
    """3-D convolution on quantized tensors: as :class:`Conv2d`, for ``[N, C, D, H, W]`` or
    ``[C, D, H, W]``.

    The output is in torch's ``channels_last_3d`` layout.

    Source: ``torch.ao.nn.quantized.Conv3d``; the differences are those of :class:`Conv2d`, and the
    padding mode reflect is accepted, as all others are.
    """

    _FLOAT_MODULE = nn.Conv3d
    _RANK = 3


# In torch transposed convolutions are here; their module imports this one.
__getattr__ = elsewhere(
    __name__,
    "octavo.nn.quantized.modules.conv_transpose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
)
