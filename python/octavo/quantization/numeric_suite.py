"""Which layer lost the accuracy: an int8 model beside the float one, layer by layer.

    rows = compare_layers(float_model, int8_model, [(x,), ...])
    print(rows)                 # worst first: SQNR, cosine, largest error
    rows.plot("layers.png")

:func:`compare_weights` and :func:`compare_model_outputs` are those of
``torch.ao.ns._numeric_suite``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize
from octavo.quantization.tables import Table, Tabular, as_json, number
from octavo.tensor import QTensor

__all__ = [
    "LayerComparison",
    "LayerReport",
    "compare_layers",
    "compare_model_outputs",
    "compare_weights",
    "cosine_similarity",
    "sqnr",
]

_FUNCTIONALS = ("FXFloatFunctional", "FloatFunctional", "QFunctional")
_FUSED_AWAY = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Tanh),
)
_OPERATIONS = ("add", "add_relu", "add_scalar", "cat", "matmul", "mul", "mul_scalar")


def sqnr(reference: Tensor, value: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``20 log10(|reference| / |reference - value|)``.

    Args:
        reference, value: tensors of the same shape, float or quantized.

    Returns:
        inf where they are equal; nan where either holds NaN or the reference is 0 everywhere.

    Raises:
        ValueError: different shapes.

    Source: ``torch.ao.ns.fx.utils.compute_sqnr``.
    """
    signal, noise = _norms(reference, value)
    if noise == 0:
        return math.inf
    return 20 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else math.nan


def cosine_similarity(reference: Tensor, value: Tensor) -> float:
    """The cosine between two tensors of the same shape, taken as vectors; nan where either is 0.

    Source: ``torch.ao.ns.fx.utils.compute_cosine_similarity``.
    """
    a, b = _plain(reference).reshape(-1).double(), _plain(value).reshape(-1).double()
    _check_shapes(reference, value)
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else math.nan


def _norms(reference: Tensor, value: Tensor) -> tuple[float, float]:
    _check_shapes(reference, value)
    a, b = _plain(reference).double(), _plain(value).double()
    return float(a.norm()), float((a - b).norm())


def _check_shapes(reference: Tensor, value: Tensor) -> None:
    if tuple(reference.shape) != tuple(value.shape):
        raise ValueError(
            f"the tensors to compare must have one shape, got {tuple(reference.shape)} and "
            f"{tuple(value.shape)}"
        )


def _plain(x: Tensor) -> Tensor:
    x = x.detach()
    return x.dequantize() if isinstance(x, QTensor) or x.is_quantized else x.float()


def compare_weights(
    float_dict: Mapping[str, Any], quantized_dict: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """The weights of a float and an int8 model side by side.

    Args:
        float_dict: ``state_dict()`` of the float model, fused as the other one.
        quantized_dict: ``state_dict()`` of the int8 model.

    Returns:
        For each quantized layer, ``"conv.weight"`` to ``{"float": weight, "quantized": weight}``,
        both float32 of the same shape.

    Raises:
        ValueError: no layer of the int8 model has a float weight of its name and shape.

    Source: ``torch.ao.ns._numeric_suite.compare_weights``.
    """
    result = {}
    for key, plain in quantized_dict.items():
        if not key.endswith("weight_int8"):
            continue
        prefix = key.removesuffix("weight_int8")
        # A fused float module holds the weight in its first part.
        names = (f"{prefix}weight", f"{prefix}0.weight")
        name = next((n for n in names if n in float_dict), None)
        if name is None or tuple(float_dict[name].shape) != tuple(plain.shape):
            continue
        wanted = float_dict[name].detach().float()
        scale = quantized_dict[f"{prefix}weight_scale"]
        zero_point = quantized_dict[f"{prefix}weight_zero_point"]
        weight = _dequantized(plain, scale, zero_point, wanted)
        result[f"{prefix}weight"] = {"float": wanted, "quantized": weight}
    if not result:
        raise ValueError(
            "compare_weights: no quantized weight has a float one of the same name and shape; give "
            "the state dict of the float model, fused as the int8 one"
        )
    return result


def _dequantized(plain: Tensor, scale: Tensor, zero_point: Tensor, like: Tensor) -> Tensor:
    """A weight in float. State dicts do not say on which axis its channels are (transposed
    convolutions have them on the second), so it is the one on which the weight comes out like the
    float one."""
    candidates = []
    for axis in range(min(2, plain.dim())):
        if scale.numel() in (1, plain.shape[axis]):
            shape = [1] * plain.dim()
            shape[axis] = scale.numel()
            levels = plain.float() - zero_point.view(shape).float()
            candidates.append(levels * scale.view(shape))
    return min(candidates, key=lambda weight: float((weight - like).norm()))


def compare_model_outputs(
    float_model: nn.Module,
    q_model: nn.Module,
    *data: Any,
    allow_list: Iterable[type] | None = None,
) -> dict[str, dict[str, list[Tensor]]]:
    """The outputs of the layers of both models for the same input.

    Args:
        float_model: the float model, fused as the other one, in eval mode.
        q_model: the int8 model.
        data: arguments of one call.
        allow_list: classes of the int8 model to look at; default: all quantized modules.

    Returns:
        ``"conv"`` to ``{"float": [output, ...], "quantized": [output, ...]}``, one output for each
        time that the layer ran, float32.

    Raises:
        ValueError: the models have no such layers in common.

    Source: ``torch.ao.ns._numeric_suite.compare_model_outputs``.
    """
    names = _common_layers(float_model, q_model, allow_list)
    with torch.no_grad():
        wanted = _outputs_of(float_model, names, data)
        got = _outputs_of(q_model, names, data)
    return {
        name: {
            "float": [_as_layer(q_model.get_submodule(name), x) for x in wanted[name]],
            "quantized": [_plain(x) for x in got[name]],
        }
        for name in names
    }


def _common_layers(
    float_model: nn.Module, q_model: nn.Module, allow_list: Iterable[type] | None
) -> list[str]:
    kinds = tuple(allow_list) if allow_list is not None else (QuantizedModule,)
    theirs = dict(float_model.named_modules())
    names: list[str] = []
    for name, module in q_model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in names if outer)
        border = isinstance(module, (Quantize, DeQuantize))
        if name and name in theirs and isinstance(module, kinds) and not (inside or border):
            names.append(name)
    if not names:
        raise ValueError(
            "compare_model_outputs: no quantized module has a float one of the same name; give the "
            "float model that was prepared, fused as it was then"
        )
    return names


def _as_layer(quantized: nn.Module, float_output: Tensor) -> Tensor:
    """A float layer's output as what the int8 layer computes, which may have a ReLU fused that the
    float model has behind the layer; after a fused float layer this changes nothing.
    """
    plain = _plain(float_output)
    return plain.relu() if getattr(quantized, "_relu", False) else plain


def _outputs_of(
    model: nn.Module, names: Iterable[str], data: tuple[Any, ...]
) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor):
                outputs[name].append(output.detach().clone())

        return hook

    with ExitStack() as stack:
        for name in outputs:
            module = model.get_submodule(name)
            if _is_functional(module):
                _hook_operations(module, keep(name), stack)
            else:
                stack.callback(module.register_forward_hook(keep(name)).remove)
        model(*data)
    return outputs


def _is_functional(module: nn.Module) -> bool:
    """Whether it has operations and no forward; torch.ao's, too."""
    return any(cls.__name__ in _FUNCTIONALS for cls in type(module).__mro__)


def _hook_operations(module: Any, hook: Callable[..., None], stack: ExitStack) -> None:
    """Calls ``hook`` after each operation of a functional, until ``stack`` is closed."""

    def hooked(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = operation(*args, **kwargs)
            hook(module, args, output)
            return output

        return call

    for name in _OPERATIONS:
        setattr(module, name, hooked(getattr(module, name)))
        stack.callback(delattr, module, name)


@dataclass(frozen=True)
class LayerReport:
    """One layer, over all batches.

    Attributes:
        name: its path in the model.
        type: name of the int8 class.
        sqnr: in dB; higher is better, 6 dB are one bit.
        cosine: between the float and the int8 output.
        max_error: the largest difference of one value.
        range: the largest magnitude of the float output.
    """

    name: str
    type: str
    sqnr: float
    cosine: float
    max_error: float
    range: float


class LayerComparison(Tabular, list[LayerReport]):
    """The layers in the order of the model; prints as a table, worst SQNR first."""

    def worst_first(self) -> list[LayerReport]:
        """The layers by SQNR, those with NaN before all others."""
        return sorted(self, key=lambda row: (not math.isnan(row.sqnr), row.sqnr))

    def _table(self) -> Table:
        rows = [
            (
                row.name,
                row.type,
                number(row.sqnr, ".1f"),
                number(row.cosine, ".5f"),
                number(row.max_error, ".4g"),
                number(row.range, ".4g"),
            )
            for row in self.worst_first()
        ]
        headers = ("layer", "type", "SQNR, dB", "cosine", "max error", "range")
        return Table(headers, rows, frozenset(range(2, 6)))

    def to_json(self) -> str:
        """The rows as a JSON list of objects; numbers that JSON lacks are null."""
        return json.dumps(as_json([asdict(row) for row in self]), indent=2)

    def plot(self, path: str | Path) -> None:
        """Draws SQNR, distance of the cosine from 1 and largest error (as a part of the range) over
        the layers, in the order of the model, into an image file.

        Layers that are equal to the float ones have full bars of SQNR, marked "equal", and no
        others; NaN is marked as such.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "LayerComparison.plot needs matplotlib: pip install matplotlib"
            ) from error
        figure = Figure(figsize=(14, 1.2 + 0.25 * len(self)), layout="constrained")
        left, middle, right = figure.subplots(1, 3, sharey=True)
        places = range(len(self))
        ratios = [row.sqnr for row in self]
        top = max([1.0, *(ratio for ratio in ratios if math.isfinite(ratio))])
        left.barh(places, [min(r, top) if not math.isnan(r) else 0.0 for r in ratios])
        for place, ratio in zip(places, ratios, strict=True):
            if not math.isfinite(ratio):
                left.text(0, place, " NaN" if math.isnan(ratio) else " equal", va="center")
        left.set_yticks(places, [row.name for row in self])
        left.invert_yaxis()
        left.set_xlabel("SQNR of the layer's output, dB (6 dB are one bit)")
        middle.barh(places, [_bar(1 - row.cosine) for row in self])
        middle.set_xlabel("1 - cosine")
        middle.locator_params(axis="x", nbins=5)
        right.barh(places, [_bar(row.max_error / (row.range or math.inf)) for row in self])
        right.set_xlabel("largest error / range")
        figure.savefig(path)


def _bar(length: float) -> float:
    """What is drawn for a number; nothing where there is none."""
    return max(0.0, length) if math.isfinite(length) else 0.0


class _Sums:
    """What a layer's figures are computed from, added up over batches."""

    def __init__(self) -> None:
        self.signal = self.noise = self.product = self.other = 0.0
        self.max_error = self.range = 0.0

    def add(self, want: Tensor, got: Tensor) -> None:
        a, b = want.reshape(-1).double(), got.reshape(-1).double()
        if a.numel() == 0:
            return
        difference = a - b
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        self.noise += float(difference @ difference)
        self.max_error = max(self.max_error, float(difference.abs().max()))
        self.range = max(self.range, float(a.abs().max()))

    def report(self, name: str, kind: str) -> LayerReport:
        ratio = math.nan
        if self.noise == 0:
            ratio = math.inf
        elif self.signal > 0 and math.isfinite(self.noise):
            ratio = 10 * math.log10(self.signal / self.noise)
        length = math.sqrt(self.signal * self.other)
        cosine = self.product / length if length > 0 else math.nan
        return LayerReport(name, kind, ratio, cosine, self.max_error, self.range)


def _check_fused(float_model: nn.Module, q_model: nn.Module) -> None:
    """Raises where fusing left an Identity in the int8 model and the float one has the module: the
    layer before it would be compared without what was fused into it.
    """
    parts = dict(float_model.named_modules())
    for name, module in q_model.named_modules():
        if type(module) is nn.Identity and isinstance(parts.get(name), _FUSED_AWAY):
            raise ValueError(
                f"compare_layers: '{name}' is a {type(parts[name]).__name__} in the float model "
                "and was fused into the layer before it in the int8 one, so the outputs of their "
                "layers differ; give the float model that fuse_modules() returned"
            )


def compare_layers(
    float_model: nn.Module, q_model: nn.Module, data: Iterable[Any]
) -> LayerComparison:
    """How far each layer of an int8 model is from the float one, over some batches.

    Errors add up on the way, so the first layer where the SQNR drops is the one to look at.

    Args:
        float_model: the float model, fused as the other one, in eval mode.
        q_model: the int8 model, static or dynamic.
        data: batches: a tensor, or a tuple of the arguments of one call.

    Raises:
        ValueError: no batches; no quantized layers in common; layers whose outputs have different
            shapes in the two models; a float model that is not fused as the int8 one is.
    """
    _check_fused(float_model, q_model)
    sums: dict[str, _Sums] = {}
    for batch in data:
        arguments = batch if isinstance(batch, tuple) else (batch,)
        for name, both in compare_model_outputs(float_model, q_model, *arguments).items():
            total = sums.setdefault(name, _Sums())
            for want, got in zip(both["float"], both["quantized"], strict=False):
                if want.shape != got.shape:
                    raise ValueError(
                        f"compare_layers: '{name}' gives {tuple(want.shape)} in the float model "
                        f"and {tuple(got.shape)} in the int8 one; fuse the float model as it was"
                    )
                total.add(want, got)
    if not sums:
        raise ValueError("compare_layers: data has no batches")
    return LayerComparison(
        total.report(name, type(q_model.get_submodule(name)).__name__)
        for name, total in sums.items()
    )
