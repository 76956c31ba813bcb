"""Statically quantized LSTM."""

from __future__ import annotations

from typing import Any, ClassVar

from octavo.nn import quantizable
from octavo.nn.quantized.modules.of_parts import MadeOfParts

__all__ = ["LSTM"]


class LSTM(MadeOfParts, quantizable.LSTM):
    """What ``convert`` makes of an observed :class:`octavo.nn.quantizable.LSTM`: each Linear layer,
    sum and product on quantized tensors, step by step.

    Arguments and shapes are those of that class. The input is quantized, and so are the states, if
    they are given, the outputs and the final states. The input's part of the gates is computed for
    all steps at once.

    Raises: in ``forward``, as that class, and TypeError for a float input.

    Source: ``torch.ao.nn.quantized.LSTM``, whose constructor makes float parts. For a float input
    and most models :class:`octavo.nn.quantized.dynamic.LSTM` is faster and more accurate.
    """

    _FLOAT_MODULE: ClassVar[Any] = quantizable.LSTM

    def _get_name(self) -> str:
        return "QuantizedLSTM"
