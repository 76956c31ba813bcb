"""Bias correction: what quantization moves a layer's outputs by on average goes into its bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.quantization.numeric_suite import compare_model_outputs

__all__ = ["bias_correction"]


def bias_correction(
    float_model: nn.Module,
    quantized_model: nn.Module,
    img_data: Iterable[Any],
    target_modules: Iterable[type] | None = None,
) -> None:
    """Corrects the biases of an int8 model, in place, layer after layer in the order of the model.

    Rounding a weight can move a channel's mean output; the mean difference to the float model over
    some data, which is what earlier layers have left by then, is added to the bias.

    Args:
        float_model: the float model, fused as the other one, in eval mode.
        quantized_model: what ``convert`` or ``quantize_dynamic`` made of it. Layers without a bias
            stay as they are.
        img_data: batches: a tensor, or a tuple of the arguments of one call.
        target_modules: classes of the layers to correct; default: all that have int8 weights.

    Raises:
        ValueError: no batches; models without layers in common.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
    (ICCV 2019); ``torch.ao.quantization._correct_bias.bias_correction``.
    """
    kinds = tuple(target_modules) if target_modules is not None else (PackedWeightModule,)
    batches = [b if isinstance(b, tuple) else (b,) for b in img_data]
    if not batches:
        raise ValueError("bias_correction: img_data has no batches")
    for name, module in list(quantized_model.named_modules()):
        if not (name and isinstance(module, kinds) and isinstance(module, PackedWeightModule)):
            continue
        bias = module.bias()
        if bias is None:
            continue
        means = [
            _mean_difference(module, both["float"], both["quantized"])
            for batch in batches
            for both in [_outputs(float_model, quantized_model, name, type(module), batch)]
            if both["float"]
        ]
        if means:
            module.set_weight_bias(module.weight(), bias + torch.stack(means).mean(0))


def _outputs(
    float_model: nn.Module, quantized_model: nn.Module, name: str, kind: type, batch: Any
) -> dict[str, list[Tensor]]:
    return compare_model_outputs(float_model, quantized_model, *batch, allow_list=[kind])[name]


def _mean_difference(module: PackedWeightModule, wanted: list[Tensor], got: list[Tensor]) -> Tensor:
    """The mean of float less int8, for each output channel."""
    rank = getattr(module, "_RANK", 0)
    means = []
    for want, value in zip(wanted, got, strict=True):
        difference = (want - value).movedim(-1 - rank, -1)  # channels last, of any rank
        means.append(difference.reshape(-1, difference.shape[-1]).mean(0))
    return torch.stack(means).mean(0)
