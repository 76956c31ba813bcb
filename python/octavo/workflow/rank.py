"""How much each layer of an int8 model loses by itself, whatever the layers before it lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize
from octavo.quantization.numeric_suite import sqnr
from octavo.tensor import QTensor, quantize_per_tensor
from octavo.workflow.calibrate import Batch

__all__ = ["own_sqnr"]

Requantize = Callable[[Any], Any]


def own_sqnr(reference: nn.Module, int8: nn.Module, batch: Batch) -> dict[str, float]:
    """SQNR in dB of each layer's output where it gets the float model's input, quantized as the
    int8 model quantizes it; the lowest of its calls.

    :func:`octavo.quantization.compare_layers` compares what comes out after all layers before have
    lost something; this tells the layer that loses most from those that come after it.

    Args:
        reference: float, with the paths of ``int8``.
        int8: static or dynamic.
        batch: one call.

    Returns:
        By path.
    """
    entering = _entering(int8, batch)
    result: dict[str, float] = {}

    def compare(name: str, layer: nn.Module, as_seen: list[Requantize]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            inputs = [seen(x) for seen, x in zip(as_seen, args, strict=True)]
            wanted, got = _first(output), _first(layer(*inputs))
            loss = sqnr(wanted.float(), got.dequantize() if isinstance(got, QTensor) else got)
            result[name] = min(loss, result.get(name, loss), key=_badness)

        return hook

    theirs = dict(reference.named_modules())
    handles = [
        theirs[name].register_forward_hook(compare(name, int8.get_submodule(name), as_seen))
        for name, as_seen in entering.items()
        if name in theirs
    ]
    try:
        batch.run(reference)
    finally:
        for handle in handles:
            handle.remove()
    return result


def _badness(loss: float) -> tuple[bool, float]:
    """Orders SQNRs: NaN, then the lowest."""
    return not math.isnan(loss), loss


def _first(output: Any) -> Any:
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output


def _entering(model: nn.Module, batch: Batch) -> Mapping[str, list[Requantize]]:
    """For each layer, what makes of each of its float inputs what the layer gets."""
    found: dict[str, list[Requantize]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            found[name] = [_as(value) if isinstance(value, QTensor) else _same for value in args]

        return hook

    handles = []
    inner: set[int] = set()
    for name, module in model.named_modules():
        layer = isinstance(module, QuantizedModule) and id(module) not in inner
        if layer and not isinstance(module, (Quantize, DeQuantize)):
            inner |= {id(part) for part in module.modules()}
            handles.append(module.register_forward_pre_hook(keep(name)))
    try:
        batch.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _same(value: Any) -> Any:
    return value


def _as(seen: QTensor) -> Requantize:
    scale, zero_point, dtype = seen.q_scale(), seen.q_zero_point(), seen._qdtype
    return lambda x: quantize_per_tensor(x.float().contiguous(), scale, zero_point, dtype)
