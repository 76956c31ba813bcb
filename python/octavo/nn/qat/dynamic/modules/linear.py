"""Fully connected layer of training for dynamic quantization."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from octavo.nn.qat.modules.linear import Linear as StaticLinear

__all__ = ["Linear"]


class Linear(StaticLinear):
    """:class:`octavo.nn.qat.Linear` that will be an ``octavo.nn.quantized.dynamic.Linear``.

    ``prepare_qat`` with the mapping ``{nn.Linear: octavo.nn.qat.dynamic.Linear}`` makes it and
    fake-quantizes its inputs; ``convert`` with ``get_default_dynamic_quant_module_mappings()``
    replaces it by one with a scale for the whole input, as in training.

    Args: those of ``torch.nn.Linear``, and
        qconfig: such as ``octavo.quantization.default_dynamic_qat_qconfig``.

    Raises:
        ValueError: a qconfig that is none, or whose activation observer remembers earlier inputs
            (a moving average with another constant than 1).

    Source: ``torch.ao.nn.qat.dynamic.Linear``.
    """

    def _set_qconfig(self, qconfig: Any) -> None:
        # octavo.quantization needs the modules of octavo.nn first.
        from octavo.quantization.qconfig import _activation_is_memoryless

        super()._set_qconfig(qconfig)
        if not _activation_is_memoryless(qconfig):
            raise ValueError(
                f"{type(self).__name__}: training for dynamic quantization needs an activation "
                "observer without memory, a moving average with averaging_constant=1, such as that "
                "of octavo.quantization.default_dynamic_qat_qconfig"
            )

    # Its own, so that mappings do not take it for the static module that it derives from.
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight_fake_quant(self.weight), self.bias)
