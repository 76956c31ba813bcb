"""Quantized normalizations by the statistics of the input, with float parameters.

Sums are exact integers, so results depend neither on the CPU nor on the number of threads;
:func:`octavo.ops.layer_norm` and :func:`octavo.ops.group_norm` say how they are rounded.

State dict: ``weight`` and ``bias`` (float32; none where absent), ``scale``, ``zero_point``.

``forward`` raises TypeError for anything but an 8-bit quantized tensor with one scale, and
RuntimeError or ValueError for another shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.nn.quantized.modules.batchnorm import ChannelAffine
from octavo.nn.quantized.modules.parametrized import FloatParameters
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm"]


class LayerNorm(FloatParameters):
    """Layer normalization over the last dimensions.

    Args:
        normalized_shape: the sizes of these dimensions.
        weight, bias: float tensors of that shape, or None.
        scale, zero_point: of the output.
        eps: added to the variance.
        elementwise_affine: kept; whether there are parameters is what ``weight`` and ``bias`` say.
        device, dtype: accepted for compatibility.

    Shape: ``[*, *normalized_shape]``, quint8 or qint8.

    Source: ``torch.ao.nn.quantized.LayerNorm``.
    """

    _FLOAT_MODULE = nn.LayerNorm

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        weight: Tensor | None,
        bias: Tensor | None,
        scale: float,
        zero_point: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._set_parameter("weight", weight, self.normalized_shape)
        self._set_parameter("bias", bias, self.normalized_shape)
        self._set_output(scale, zero_point, None)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, scale={self._scale}, "
            f"zero_point={self._zero_point}"
        )

    def forward(self, input: QTensor) -> QTensor:
        quick: QTensor | None = (
            None
            if is_dynamo_compiling()
            else direct.layer_norm(
                input,
                self.normalized_shape,
                self.weight,
                self.bias,
                self.eps,
                self._scale,
                self._zero_point,
                self._out_qdtype,
            )
        )
        if quick is not None:
            return quick
        x = self._activation(input)
        qdtype = self._out_qdtype or input._qdtype
        try:
            out = ops.layer_norm(
                x,
                input._scale,
                input._zero_point,
                self.normalized_shape,
                self.weight,
                self.bias,
                self.eps,
                self._scale,
                self._zero_point,
                qdtype,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, self._scale, self._zero_point, qdtype)

    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> LayerNorm:
        """From a calibrated float module: one with ``activation_post_process``.

        Raises:
            TypeError: another kind of module, or an observer of another dtype than quint8 or qint8.
            ValueError: no activation observer; NaN or Inf in a parameter.
        """
        norm = cls._checked_float(mod)
        result = cls(
            norm.normalized_shape,
            norm.weight,
            norm.bias,
            1.0,
            0,
            norm.eps,
            norm.elementwise_affine,
        )
        result._take_output(mod)
        return result


def _group_norm(
    module: FloatParameters,
    x: Tensor,
    input: QTensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> QTensor:
    qdtype = module._out_qdtype or input._qdtype
    scale, zero_point = module._scale, module._zero_point
    if x is input._int:
        quick: QTensor | None = (
            None
            if is_dynamo_compiling()
            else direct.group_norm(
                input, groups, weight, bias, eps, scale, zero_point, module._out_qdtype
            )
        )
        if quick is not None:
            return quick
    try:
        out = ops.group_norm(
            x,
            input._scale,
            input._zero_point,
            groups,
            weight,
            bias,
            eps,
            scale,
            zero_point,
            qdtype,
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise module._named(error) from error
    return QTensor._wrap(out, scale, zero_point, qdtype)


class GroupNorm(FloatParameters):
    """Normalization of each group of channels of an image.

    Args:
        num_groups: divides ``num_channels``.
        num_channels: channels.
        weight, bias: float tensors [C], or None.
        scale, zero_point: of the output.
        eps: added to the variance.
        affine: kept; whether there are parameters is what ``weight`` and ``bias`` say.
        device, dtype: accepted for compatibility.

    Shape: ``[N, C, *]``, quint8 or qint8; the output has the memory format of the input.

    Source: ``torch.ao.nn.quantized.GroupNorm``.
    """

    _FLOAT_MODULE = nn.GroupNorm

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: float,
        zero_point: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"{self._label()}: num_groups must divide num_channels, got {num_groups} and "
                f"{num_channels}"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        self._set_parameter("weight", weight, (num_channels,))
        self._set_parameter("bias", bias, (num_channels,))
        self._set_output(scale, zero_point, None)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, scale={self._scale}, "
            f"zero_point={self._zero_point}"
        )

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        if x.dim() < 2 or x.shape[1] != self.num_channels:
            raise RuntimeError(
                f"{self._label()}: the input must have {self.num_channels} channels in dimension "
                f"1, got shape {list(x.shape)}"
            )
        return _group_norm(self, x, input, self.num_groups, self.weight, self.bias, self.eps)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> GroupNorm:
        """From a calibrated float module; raises as :meth:`LayerNorm.from_float` does."""
        norm = cls._checked_float(mod)
        result = cls(
            norm.num_groups,
            norm.num_channels,
            norm.weight,
            norm.bias,
            1.0,
            0,
            norm.eps,
            norm.affine,
        )
        result._take_output(mod)
        return result


class _InstanceNorm(ChannelAffine):
    _PARAMETERS = ("weight", "bias", "running_mean", "running_var")
    _RANK: ClassVar[int]  # with batch dimension

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(
        self,
        num_features: int,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: float,
        zero_point: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        shape = (num_features,)
        self._set_parameter("weight", weight, shape)
        self._set_parameter("bias", bias, shape)
        self.running_mean = torch.zeros(shape) if track_running_stats else None
        self.running_var = torch.ones(shape) if track_running_stats else None
        self._set_output(scale, zero_point, None)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, scale={self._scale}, "
            f"zero_point={self._zero_point}"
        )

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        unbatched = x.dim() == self._RANK - 1
        x = x.unsqueeze(0) if unbatched else x
        self._check_shape(x, (self._RANK,), self.num_features)
        if self.running_mean is None:
            channels = self.num_features
            out = _group_norm(self, x, input, channels, self.weight, self.bias, self.eps)
        else:
            out = self._affine(x, input)
        return out._with_int(out._int.squeeze(0)) if unbatched else out

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """From a calibrated float module; raises as :meth:`LayerNorm.from_float` does.

        A module with running statistics uses them, as the float one does in eval mode.
        """
        norm = cls._checked_float(mod)
        result = cls(
            norm.num_features,
            norm.weight,
            norm.bias,
            1.0,
            0,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.running_mean is not None,
        )
        for name in ("running_mean", "running_var"):
            result._set_parameter(name, getattr(norm, name), (norm.num_features,))
        result._take_output(mod)
        return result


class InstanceNorm1d(_InstanceNorm):
    """:class:`InstanceNorm2d` of [N, C, L] or [C, L].

    Source: ``torch.ao.nn.quantized.InstanceNorm1d``.
    """

    _RANK = 3
    _FLOAT_MODULE = nn.InstanceNorm1d


class InstanceNorm2d(_InstanceNorm):
    """Normalization of each channel of an image.

    Args:
        num_features: channels.
        weight, bias: float tensors [C], or None.
        scale, zero_point: of the output.
        eps: added to the variance.
        momentum, affine: kept, without effect.
        track_running_stats: normalize by statistics of training, ``running_mean`` and
            ``running_var``, which are then part of the state dict. (torch's quantized module
            ignores them.)
        device, dtype: accepted for compatibility.

    Shape: [N, C, H, W] or [C, H, W], quint8 or qint8; the output has the memory format of the
    input.

    Source: ``torch.ao.nn.quantized.InstanceNorm2d``.
    """

    _RANK = 4
    _FLOAT_MODULE = nn.InstanceNorm2d


class InstanceNorm3d(_InstanceNorm):
    """:class:`InstanceNorm2d` of [N, C, D, H, W] or [C, D, H, W].

    Source: ``torch.ao.nn.quantized.InstanceNorm3d``.
    """

    _RANK = 5
    _FLOAT_MODULE = nn.InstanceNorm3d
