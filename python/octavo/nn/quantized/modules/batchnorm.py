"""Quantized batch normalization, with the statistics of training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.nn.quantized.modules.parametrized import FloatParameters
from octavo.nn.quantized.modules.utils import source_label
from octavo.ops import direct
from octavo.ops._tracing import record, tracing
from octavo.tensor import QTensor

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "ChannelAffine"]


class ChannelAffine(FloatParameters):
    """Modules that can be ``factor[c] * x + offset[c]``, from statistics of training."""

    eps: float
    _relu = False

    def _constants(self) -> Tensor:
        """Factors and offsets of the channels, float64 [2, C]; kept until a parameter changes."""
        parameters: tuple[Any, ...] = tuple(
            getattr(self, name) for name in ("weight", "bias", "running_mean", "running_var")
        )
        # Tensors of inference mode do not count their changes; nothing is kept for them.
        counts = not any(p is not None and p.is_inference() for p in parameters)
        key = (self.eps, *((id(p), getattr(p, "_version", 0) if counts else 0) for p in parameters))
        known: Any = self.__dict__.get("_known_constants")
        if known is None or known[0] != key or not counts:
            weight, bias, mean, variance = parameters
            constants = ops.batch_norm_constants(mean, variance, weight, bias, self.eps)
            # The parameters are kept so that their ids are not used again.
            known = (key, constants, parameters)
            self.__dict__["_known_constants"] = known
        result: Tensor = known[1]
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_known_constants"}

    def _affine(self, x: Tensor, input: QTensor) -> QTensor:
        qdtype = self._out_qdtype or input._qdtype
        scale, zero_point, relu = self._scale, self._zero_point, self._relu
        if tracing(x):
            parameters: tuple[Any, ...] = (self.running_mean, self.running_var, self.weight)
            return QTensor._wrap(
                record(
                    "batch_norm",
                    x,
                    input._scale,
                    input._zero_point,
                    *parameters,
                    self.bias,
                    self.eps,
                    scale,
                    zero_point,
                    qdtype.storage,
                    relu,
                ),
                scale,
                zero_point,
                qdtype,
            )
        constants = self._constants()
        if x is input._int:
            address, channels = constants.data_ptr(), constants.shape[1]
            quick: QTensor | None = direct.channel_affine(
                input, address, channels, relu, scale, zero_point, qdtype
            )
            if quick is not None:
                return quick
        try:
            out = ops.channel_affine(
                x,
                input._scale,
                input._zero_point,
                constants[0],
                constants[1],
                scale,
                zero_point,
                qdtype,
                relu,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, scale, zero_point, qdtype)

    def _check_shape(self, x: Tensor, ranks: tuple[int, ...], channels: int) -> None:
        if x.dim() not in ranks or x.shape[1] != channels:
            wanted = " or ".join(f"{rank}-D" for rank in ranks)
            raise RuntimeError(
                f"{self._label()}: the input must be {wanted} with {channels} channels in "
                f"dimension 1, got shape {list(x.shape)}"
            )


class _BatchNorm(ChannelAffine):
    _PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    _RANKS: ClassVar[tuple[int, ...]]

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        shape = (num_features,)
        self.weight, self.bias = torch.ones(shape), torch.zeros(shape)
        self.running_mean, self.running_var = torch.zeros(shape), torch.ones(shape)
        self.num_batches_tracked = torch.tensor(0)
        self._set_output(1.0, 0, None)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, scale={self._scale}, "
            f"zero_point={self._zero_point}"
        )

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        self._check_shape(x, self._RANKS, self.num_features)
        return self._affine(x, input)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """From a calibrated float module: one with ``activation_post_process``.

        Raises:
            TypeError: another kind of module, or an observer of another dtype than quint8 or qint8.
            ValueError: no activation observer; no running statistics; NaN or Inf in a parameter or
                a statistic, or a negative variance.
        """
        bn = cls._checked_float(mod)
        label = source_label(cls, mod)
        if bn.running_mean is None or bn.running_var is None:
            raise ValueError(
                f"{label}: the batch norm has no running statistics (track_running_stats=False), "
                "and those of the batch would tie the elements of a batch together; leave it float "
                "(qconfig = None)"
            )
        result = cls(bn.num_features, bn.eps, bn.momentum)
        result._qualified_name = getattr(mod, "_qualified_name", "")
        for name in ("weight", "bias", "running_mean", "running_var"):
            result._set_parameter(name, getattr(bn, name), (bn.num_features,))
        if bool((result.running_var < 0).any()):
            raise ValueError(f"{label}: running_var is negative")
        result.num_batches_tracked = bn.num_batches_tracked.detach().cpu().clone()
        result._take_output(mod)
        return result


class BatchNorm1d(_BatchNorm):
    """:class:`BatchNorm2d` of [N, C] or [N, C, L]. Octavo's own."""

    _RANKS = (2, 3)
    _FLOAT_MODULE = nn.BatchNorm1d


class BatchNorm2d(_BatchNorm):
    """``(x - running_mean) / sqrt(running_var + eps) * weight + bias`` on quantized tensors, one
    multiplication and one addition for each element; :func:`octavo.ops.channel_affine` says how it
    is rounded.

    Args:
        num_features: channels.
        eps, momentum: as in :class:`torch.nn.BatchNorm2d`; momentum has no effect.
        device, dtype: accepted for compatibility.

    Shape: [N, C, H, W] quint8 or qint8 with one scale; the output has the module's ``scale`` and
    ``zero_point``, and the memory format of the input.

    State dict: ``weight``, ``bias``, ``running_mean``, ``running_var`` (float32 [C]),
    ``num_batches_tracked``, ``scale``, ``zero_point``.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.
        RuntimeError: in ``forward``, for another shape.

    Source: ``torch.ao.nn.quantized.BatchNorm2d``.
    """

    _RANKS = (4,)
    _FLOAT_MODULE = nn.BatchNorm2d


class BatchNorm3d(_BatchNorm):
    """:class:`BatchNorm2d` of [N, C, D, H, W].

    Source: ``torch.ao.nn.quantized.BatchNorm3d``.
    """

    _RANKS = (5,)
    _FLOAT_MODULE = nn.BatchNorm3d
