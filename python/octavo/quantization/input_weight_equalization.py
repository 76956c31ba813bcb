"""Input-weight equalization: input channels of large range are scaled down, and the weights that
multiply them up, so that one scale fits all channels of an activation. The float model computes the
same as before.

Source: ``torch.ao.quantization.fx._equalize``, which needs a traced graph. Differences: layers that
take the same tensor (query, key and value) share a scale, so that it can go into the module before
them; normalizations take it too, besides Linear and convolutions; Linear takes inputs of any rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn import intrinsic as nni
from octavo.quantization.dataflow import Dataflow, tensors_in
from octavo.quantization.equalize import SUPPORTED, grouped
from octavo.quantization.fold import copy_model, fold_weights
from octavo.quantization.observer import PerChannelMinMaxObserver
from octavo.quantization.quantize import check_float
from octavo.quantization.stubs import QuantStub
from octavo.quantization.swap import replaced
from octavo.quantization.units import (
    canonical_type,
    find_entry,
    is_leaf,
    is_whole,
    iter_modules,
)
from octavo.tensor import QTensor

__all__ = ["ChannelScale", "equalization_scale", "input_weight_equalization"]

_FUSED_TARGETS = (
    nni.LinearReLU,
    nni.LinearLeakyReLU,
    nni.LinearTanh,
    *(getattr(nni, f"Conv{kind}{rank}d") for kind in ("ReLU", "Hardtanh") for rank in (1, 2, 3)),
)
_FUSED_PRODUCERS = (
    nni.LinearReLU,
    nni.LinearLeakyReLU,
    *(getattr(nni, f"ConvReLU{rank}d") for rank in (1, 2, 3)),
    nni.BNReLU2d,
    nni.BNReLU3d,
)
_LAST_AXIS_NORMS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
_CHANNEL_NORMS = (
    nn.GroupNorm,
    *(getattr(nn, f"{kind}Norm{rank}d") for kind in ("Batch", "Instance") for rank in (1, 2, 3)),
)
# f(c x) = c f(x) for positive c, element by element; and, for pooling, channel by channel.
_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    *(getattr(nn, name) for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")),
)
_POOLING = {
    getattr(nn, f"{kind}Pool{rank}d"): rank
    for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
    for rank in (1, 2, 3)
}


class ChannelScale(nn.Module):
    """Multiplies each channel of a float tensor by a factor of its own.

    Args:
        scale: float ``[channels]``.
        spatial: how many dimensions follow that of the channels; 0 where they are the last.

    Raises:
        TypeError: in ``forward``, for a quantized tensor; its channels were rounded with one scale,
            so multiplying them afterwards wins nothing.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, spatial: int = 0) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.spatial = spatial

    def extra_repr(self) -> str:
        return f"channels={self.scale.numel()}, spatial={self.spatial}"

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, QTensor):
            raise TypeError(
                "ChannelScale: expected a float tensor, got a quantized one; equalize a model that "
                "is to be quantized statically with its QuantStubs in place, or with multiply=False"
            )
        return input * self.scale.view(-1, *[1] * self.spatial)


def equalization_scale(
    min_inputs: Tensor, max_inputs: Tensor, min_weights: Tensor, max_weights: Tensor
) -> Tensor:
    """What input channels are multiplied by, and weights divided by: ``sqrt(range of the channel's
    weights / range of its inputs)``; 1 where a range is 0 or not finite.

    Args: float ``[channels]`` each, the extremes of inputs and weights.

    Raises:
        ValueError: inputs and weights of different numbers of channels.

    Source: ``torch.ao.quantization.fx._equalize.calculate_equalization_scale``.
    """
    if min_inputs.shape != min_weights.shape:
        raise ValueError(
            f"input_weight_equalization: the inputs have {tuple(min_inputs.shape)} channels and "
            f"the weights {tuple(min_weights.shape)}"
        )
    scale = torch.sqrt((max_weights - min_weights) / (max_inputs - min_inputs))
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, 1)


@dataclass(eq=False)
class _Target:
    """A layer to equalize: the unit that is called, and the module in it that has the weight."""

    name: str
    unit: nn.Module
    layer: Any
    observer: PerChannelMinMaxObserver

    @property
    def spatial(self) -> int:
        """Dimensions behind the channels of its input."""
        return int(self.layer.weight.dim()) - 2

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Of the weights of each input channel."""
        channels = grouped(self.layer).transpose(1, 2).flatten(0, 1).flatten(1)
        return channels.amin(1), channels.amax(1)

    def divide(self, scale: Tensor) -> None:
        weight = grouped(self.layer)
        weight /= scale.view(weight.shape[0], 1, weight.shape[2], 1)


def input_weight_equalization(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str] | None = None,
    inplace: bool = False,
    multiply: bool | None = None,
) -> nn.Module:
    """Scales the input channels of Linear and convolutions so that inputs and weights have similar
    ranges in each channel: for activations with outlier channels.

    Call it on the float model, fused, in eval mode, before ``prepare`` or ``quantize_dynamic``. The
    factors go into the module that gives the layer its input, where nothing else takes that: a
    LayerNorm or other normalization, a Linear or convolution (through ReLU, pooling, dropout);
    before a QuantStub, as a :class:`ChannelScale`; or else, with ``multiply``, into a ChannelScale
    before the layer.

    Args:
        model: a float model.
        data: batches, at least one: a tensor, or a tuple or dict of the arguments of one call.
        layers: names of the layers; default: all Linear and convolutions, alone or fused, that the
            data reach.
        inplace: change ``model`` instead of a deep copy.
        multiply: whether layers may get a multiplication of their own. It works on floats, so it
            suits dynamic quantization; in static quantization their inputs are rounded by then.
            Default: where the model has no QuantStub.

    Returns:
        The model, with weights that were computed from others (weight norm, parametrizations,
        pruning) folded. ``equalized`` on it says for each layer where its factors went, or why it
        was left. A layer or QuantStub with a ChannelScale has become an ``nn.Sequential`` of both.

    Raises:
        ValueError: no batches; a model that is quantized, prepared or in training mode; a name in
            ``layers`` that is no such layer, is not reached by the data, or cannot be equalized.
        RuntimeError: the model computes something else afterwards, as one does that reads weights
            of its layers instead of calling them; name the layers that it does call.
    """
    check_float(model, "input_weight_equalization")
    if any(module.training for module in model.modules()):
        raise ValueError(
            "input_weight_equalization: the model is in training mode; call model.eval() first"
        )
    if not inplace:
        model = copy_model(model)
    units = {name: unit for name, unit in iter_modules(model) if is_leaf(unit) or is_whole(unit)}
    for unit in units.values():
        if _layer_in(unit) is not None:
            fold_weights(unit)
    targets = _targets(units, layers)
    batches = list(data)
    if not batches:
        raise ValueError("input_weight_equalization: data has no batches")
    flow = _observe(model, units, targets, batches)
    if multiply is None:
        multiply = not any(_is_quant_stub(module) for module in model.modules())
    plan = _Plan(model, units, flow, multiply)
    with torch.no_grad():
        for group in _groups(targets, flow):
            plan.add(group)
        model = plan.apply()
    refused = [f"'{name}': {plan.log[name]}" for name in layers or () if name in plan.left]
    _check_unchanged(model, batches[0], flow.result)
    if refused:
        raise ValueError("input_weight_equalization: cannot equalize " + "; ".join(refused))
    model.equalized = plan.log  # type: ignore[assignment]
    return model


def _is_quant_stub(module: nn.Module) -> bool:
    return issubclass(canonical_type(module), QuantStub)


def _layer_in(unit: nn.Module) -> Any:
    """The Linear or convolution that a unit is, or begins with; None if there is none."""
    if find_entry(unit, SUPPORTED)[0] is not None:
        return unit
    fused = find_entry(unit, _FUSED_TARGETS)[0] is not None
    return unit[0] if fused else None  # type: ignore[index]


def _targets(units: dict[str, nn.Module], names: Sequence[str] | None) -> list[_Target]:
    targets = []
    for name, unit in units.items():
        layer = _layer_in(unit)
        if layer is not None and (names is None or name in names):
            axis = 1 - layer.weight.dim()  # of the channels, from the end
            targets.append(_Target(name, unit, layer, PerChannelMinMaxObserver(ch_axis=axis)))
    unknown = sorted({*(names or ())} - {target.name for target in targets})
    if unknown:
        raise ValueError(
            f"input_weight_equalization: the model has no Linear or convolution named {unknown}"
        )
    return targets


def _called(model: nn.Module, batch: Any) -> Any:
    """What a model gives for a batch: a tensor, or a tuple or mapping of arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def _observe(
    model: nn.Module,
    units: dict[str, nn.Module],
    targets: Sequence[_Target],
    batches: Sequence[Any],
) -> Dataflow:
    """Shows the targets' inputs to their observers; returns what the first batch did."""

    def show(target: _Target) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            target.observer.ch_axis = x.dim() - 1 - target.spatial
            target.observer(x)

        return hook

    flow = Dataflow(partial(_called, model, batches[0]), units)
    handles = [target.unit.register_forward_pre_hook(show(target)) for target in targets]
    try:
        with torch.no_grad():
            for batch in batches:
                _called(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return flow


def _check_unchanged(model: nn.Module, batch: Any, wanted: Any) -> None:
    """Raises RuntimeError where a model does not give what it gave before, to rounding."""
    try:
        with torch.no_grad():
            got = list(tensors_in(_called(model, batch)))
    except (AttributeError, TypeError, RuntimeError) as error:
        raise RuntimeError(
            f"input_weight_equalization: the model fails after it, so it reads a layer instead of "
            f"calling it ({error}); give the names of others in layers, or set multiply=False"
        ) from error
    for before, after in zip(tensors_in(wanted), got, strict=True):
        if not before.is_floating_point():
            continue
        tolerance = 1e-3 if before.dtype in (torch.float32, torch.float64) else 5e-2
        largest = float(before.double().abs().max()) if before.numel() else 0.0
        change = float((before.double() - after.double()).abs().max()) if before.numel() else 0.0
        if change > tolerance * largest:
            raise RuntimeError(
                f"input_weight_equalization: the model's output differs by {change:.3g} after it, "
                "so it reads the parameters of a layer besides calling it; give the names of "
                "others in layers"
            )


def _groups(targets: Sequence[_Target], flow: Dataflow) -> list[list[_Target]]:
    """The targets, those together that take the same tensor in the only call of each."""
    groups: dict[Any, list[_Target]] = {}
    for target in targets:
        inputs = flow.inputs.get(target.name, [])
        key = (id(inputs[0]), target.spatial) if len(inputs) == 1 else target.name
        groups.setdefault(key, []).append(target)
    return list(groups.values())


class _Plan:
    """Scales that were decided on, all from the model as it was; applied together."""

    def __init__(
        self, model: nn.Module, units: dict[str, nn.Module], flow: Dataflow, multiply: bool
    ) -> None:
        self.log: dict[str, str] = {}
        self.left: set[str] = set()
        self._model, self._units, self._flow, self._multiply = model, units, flow, multiply
        self._divide: list[tuple[_Target, Tensor]] = []
        self._produce: list[tuple[nn.Module, Tensor]] = []
        self._before: dict[str, ChannelScale] = {}
        places: dict[int, int] = {}
        for _, parameter in model.named_parameters(remove_duplicate=False):
            places[id(parameter)] = places.get(id(parameter), 0) + 1
        self._shared = {key for key, count in places.items() if count > 1}

    def add(self, group: list[_Target]) -> None:
        """Decides on targets that take the same tensor."""
        usable = []
        for target in group:
            reason = self._unfit(target)
            if reason:
                self._leave(target, reason)
            else:
                usable.append(target)
        if not usable:
            return
        whole = len(usable) == len(group)
        producer, reason = self._producer(usable) if whole else ("", "a layer beside it is left")
        if producer:
            scale = _scale_of(usable)
            unit = self._units[producer]
            if _is_quant_stub(unit):
                self._before[producer] = ChannelScale(scale, usable[0].spatial)
                place = f"before '{producer}'"
            else:
                self._produce.append((unit, scale))
                place = f"in '{producer}'"
            self._divide += [(target, scale) for target in usable]
            self.log.update((target.name, place) for target in usable)
            return
        for target in usable:
            reader = self._reader_of(target)
            if reader or not self._multiply:
                self._leave(target, f"left as it was: {reader or reason}")
                continue
            scale = _scale_of([target])
            self._before[target.name] = ChannelScale(scale, target.spatial)
            self._divide.append((target, scale))
            self.log[target.name] = "before it"

    def apply(self) -> nn.Module:
        """Changes the model; returns it, or what it became."""
        for target, scale in self._divide:
            target.divide(scale)
        for unit, scale in self._produce:
            _multiply_outputs(unit, scale)
        made: dict[int, nn.Module] = {}
        for name, scaling in self._before.items():
            unit = self._units[name]
            made[id(unit)] = nn.Sequential(scaling, unit).train(unit.training)
        return replaced(self._model, made)

    def _leave(self, target: _Target, reason: str) -> None:
        self.left.add(target.name)
        self.log[target.name] = reason

    def _reader_of(self, target: _Target) -> str:
        """Where the module around a layer reads its weight, that is why it cannot be replaced."""
        parent = self._model.get_submodule(target.name.rpartition(".")[0])
        reads = isinstance(parent, nn.TransformerEncoderLayer)
        return f"{type(parent).__name__} reads its weight" if reads else ""

    def _unfit(self, target: _Target) -> str:
        """Why a layer cannot be equalized at all, or ""."""
        if id(target.layer.weight) in self._shared:
            return "left as it was: its weight is that of another module too"
        if target.name not in self._flow.inputs or not target.observer.is_calibrated:
            return "left as it was: the data do not reach it"
        return ""

    def _producer(self, group: list[_Target]) -> tuple[str, str]:
        """The unit whose output channels can be scaled for a group, or "" and why not."""
        flow, first = self._flow, group[0]
        if len(flow.inputs[first.name]) != 1:
            return "", "it is called more than once"
        tensor, takers = flow.inputs[first.name][0], {target.name for target in group}
        while True:
            users = {n for n in flow.users[id(tensor)] if not self._scales_in_place(n)}
            if not users <= takers:
                return "", "its input goes elsewhere too"
            name = flow.producer.get(id(tensor), "") or self._stub_of(tensor)
            if not name:
                return "", "its input is not a module's output"
            if len(flow.inputs[name]) != 1:
                return "", f"'{name}', which gives its input, is called more than once"
            if not self._passes(name, first.spatial):
                break
            tensor, takers = flow.inputs[name][0], {name}
        reason = self._unscalable(self._units[name], flow.outputs[name][0], first)
        return ("", f"'{name}', which gives its input, {reason}") if reason else (name, "")

    def _stub_of(self, tensor: Any) -> str:
        """The QuantStub that a tensor passed, which gives back what it gets."""
        names = (name for name in self._flow.in_place if _is_quant_stub(self._units[name]))
        return next((n for n in names if self._flow.inputs[n][0] is tensor), "")

    def _scales_in_place(self, name: str) -> bool:
        elementwise = name and find_entry(self._units[name], _ELEMENTWISE)[0] is not None
        return bool(elementwise) and name in self._flow.in_place

    def _passes(self, name: str, spatial: int) -> bool:
        """Whether a unit gives back each channel times its factor."""
        unit = self._units[name]
        if find_entry(unit, _ELEMENTWISE)[0] is not None:
            return True
        pooling = find_entry(unit, _POOLING)[0]
        one_output = isinstance(self._flow.outputs[name][0], Tensor)
        return pooling is not None and one_output and _POOLING[pooling] == spatial

    def _unscalable(self, unit: nn.Module, output: Any, target: _Target) -> str:
        """Why the output channels of a unit cannot be scaled for a layer, or ""."""
        if _is_quant_stub(unit):
            return ""
        part: Any = unit[0] if find_entry(unit, _FUSED_PRODUCERS)[0] is not None else unit  # type: ignore[index]
        if find_entry(part, SUPPORTED)[0] is not None:
            spatial = part.weight.dim() - 2
        elif find_entry(part, _LAST_AXIS_NORMS)[0] is not None:
            spatial = 0
        elif find_entry(part, _CHANNEL_NORMS)[0] is not None:
            spatial = output.dim() - 2
        else:
            return "has no output channels to scale"
        if part.weight is None or (part.weight.dim() != 1 and isinstance(part, _LAST_AXIS_NORMS)):
            return "has no factor for each channel"
        channels = self._flow.inputs[target.name][0].shape[-1 - target.spatial]
        if spatial != target.spatial or output.shape[-1 - spatial] != channels:
            return "has its channels in another dimension"
        if any(id(parameter) in self._shared for parameter in part.parameters()):
            return "shares its parameters"
        return ""


def _scale_of(targets: Sequence[_Target]) -> Tensor:
    """One scale for layers that take the same tensor."""
    extremes = [target.extremes() for target in targets]
    low = torch.stack([low for low, _ in extremes]).amin(0)
    high = torch.stack([high for _, high in extremes]).amax(0)
    observer = targets[0].observer
    return equalization_scale(observer.min_val, observer.max_val, low, high)


def _multiply_outputs(unit: nn.Module, scale: Tensor) -> None:
    """Scales the output channels of a normalization, Linear or convolution, alone or fused."""
    part: Any = unit[0] if isinstance(unit, nni._FusedModule) else unit
    if isinstance(part, SUPPORTED):
        weight = grouped(part)
        weight *= scale.view(weight.shape[0], weight.shape[1], 1, 1)
    else:
        part.weight.mul_(scale)
    if getattr(part, "bias", None) is not None:
        part.bias.mul_(scale)
