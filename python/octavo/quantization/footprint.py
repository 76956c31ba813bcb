"""What the modules of a model take (bytes), what runs them (kernels), and what they lose (SQNR).

Users call :func:`octavo.quantization.report`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavo import backend
from octavo.nn.quantized.dynamic.modules.multihead_attention import MultiheadAttention
from octavo.nn.quantized.dynamic.modules.recurrent_base import RecurrentWeights
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.weighted import PackedWeightModule
from octavo.quantization.numeric_suite import LayerReport, compare_layers
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.units import Unit, is_quantized

__all__ = ["Run", "totals"]

_WITH_NAMED_KERNELS = (PackedWeightModule, RecurrentWeights, MultiheadAttention)
_QPARAMS = ("scale", "zero_point")
_WEIGHTS = ("_int8", "_float16")


class Run:
    """What is measured of the units of a model, one call of it included if there are inputs."""

    def __init__(
        self,
        model: nn.Module,
        units: Iterable[Unit],
        float_model: nn.Module | None,
        example_inputs: Any,
        converted: bool,
    ) -> None:
        self.isa = ""
        self._converted = converted
        self._kernels: dict[str, str] = {}
        self._layers: dict[str, LayerReport] = {}
        self._float_parts = {} if float_model is None else dict(float_model.named_modules())
        if example_inputs is None:
            return
        inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        self.isa = backend.current()
        handles = [
            unit.module.register_forward_hook(self._keep_kernel(unit.name))
            for unit in units
            if isinstance(unit.module, _WITH_NAMED_KERNELS)
        ]
        try:
            if float_model is None:
                with torch.no_grad():
                    model(*inputs)
            else:
                rows = compare_layers(float_model, model, [inputs])
                self._layers = {row.name: row for row in rows}
        finally:
            for handle in handles:
                handle.remove()

    def _keep_kernel(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._kernels[name] = backend.last_kernel()

        return hook

    def of(self, unit: Unit) -> dict[str, Any]:
        """Fields of a :class:`ModuleReport`."""
        before, after = _bytes_of(unit.module)
        if after is None or not self._converted:
            after = None
        elif (source := self._float_parts.get(unit.name)) is not None:
            before = _float_bytes(source)
        layer = self._layers.get(unit.name)
        return {
            "kernel": self._kernels.get(unit.name, ""),
            "bytes_before": before,
            "bytes_after": after,
            "sqnr": None if layer is None else layer.sqnr,
            "cosine": None if layer is None else layer.cosine,
            "max_error": None if layer is None else layer.max_error,
        }


def _bytes_of(module: nn.Module) -> tuple[int | None, int | None]:
    """Bytes of the float form, weights in float32, and of the module; None where unknown."""
    if isinstance(module, QuantizedModule):
        return _before(module), sum(map(_size, module.state_dict().values()))
    if is_quantized(module):
        return None, None
    size = _float_bytes(module)
    return size, size


def _before(module: QuantizedModule) -> int:
    """Bytes of the float module that became this one."""
    rows, columns = getattr(module, "num_embeddings", 0), getattr(module, "embedding_dim", 0)
    if rows and columns:
        return 4 * int(rows) * int(columns)
    total = 0
    for key, value in module.state_dict().items():
        if key.endswith(_WEIGHTS):
            total += 4 * int(value.numel())
        elif not key.endswith(_QPARAMS):
            total += _size(value)
    return total


def _size(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _float_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, without those of observers and quantized modules."""
    if _is_activation_post_process(module) or is_quantized(module):
        return
    yield from (tensor for tensor in module._parameters.values() if tensor is not None)
    yield from (tensor for tensor in module._buffers.values() if tensor is not None)
    for child in module.children():
        yield from _float_tensors(child)


def _float_bytes(module: nn.Module) -> int:
    return sum(_size(tensor) for tensor in {id(t): t for t in _float_tensors(module)}.values())


def totals(
    model: nn.Module, rows: Sequence[tuple[int | None, int | None]]
) -> tuple[int | None, int | None]:
    """Bytes of the whole model before and after; tensors that modules share count once.

    ``rows`` are those of its units. Both are None where a unit's size before is unknown, the second
    where one's after is.
    """
    if any(before is None for before, _ in rows):
        return None, None
    after = _float_bytes(model)
    if any(now is None for _, now in rows):
        return after, None
    int8 = [m for m in model.modules() if isinstance(m, QuantizedModule)]
    inner = {id(part) for m in int8 for part in m.modules() if part is not m}
    outermost = [m for m in int8 if id(m) not in inner]
    after += sum(_size(value) for m in outermost for value in m.state_dict().values())
    grown = sum((before or 0) - (now or 0) for before, now in rows)
    return after + grown, after
