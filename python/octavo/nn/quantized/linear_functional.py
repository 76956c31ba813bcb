"""A fully connected layer as a function, for :mod:`octavo.nn.quantized.functional`."""

from __future__ import annotations

from torch import Tensor

from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.utils import describe, relabel
from octavo.tensor import QTensor

__all__ = ["linear"]


def linear(
    input: QTensor,
    weight: QTensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    zero_point: int | None = None,
) -> QTensor:
    """``input W^T + bias`` on quantized tensors.

    The weight is packed at each call; a module (:class:`octavo.nn.quantized.Linear`) packs it once.

    Args:
        input: ``[*, in_features]``, quint8 or qint8 with one scale.
        weight: qint8 ``[out_features, in_features]``, per tensor or per channel on axis 0.
        bias: float ``[out_features]``, or None.
        scale, zero_point: of the output; those of the input where None.

    Returns:
        ``[*, out_features]``, in the dtype of the input.

    Raises:
        TypeError: an input or weight that is not quantized so.
        ValueError, RuntimeError: shapes or numbers that do not fit.

    Source: ``torch.ao.nn.quantized.functional.linear``.
    """
    try:
        for name, q in (("input", input), ("weight", weight)):
            if not isinstance(q, QTensor):
                raise TypeError(f"{name} must be a quantized tensor, got {describe(q)}")
        if weight.dim() != 2:
            raise ValueError(f"weight must have 2 dimensions, got {describe(weight)}")
        module = Linear(weight.shape[1], weight.shape[0], bias is not None)
        module.set_weight_bias(weight, bias)
        module._set_output(
            input.q_scale() if scale is None else scale,
            input.q_zero_point() if zero_point is None else zero_point,
            input._qdtype,
        )
        return module.forward(input)
    except (TypeError, ValueError, RuntimeError) as error:
        raise relabel(error, "quantized.functional.linear") from error
