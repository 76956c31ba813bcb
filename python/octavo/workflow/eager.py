"""Capture without a graph: any model that can be called.

The model runs once, and what is seen of tensors going from module to module says where float values
become int8 ones and back: layers that follow each other directly stay in int8, additions and other
code of the model in between is float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from octavo.nn import intrinsic as nni
from octavo.quantization.dataflow import Dataflow
from octavo.quantization.fold import copy_model
from octavo.quantization.fuse_modules import fuse_modules
from octavo.quantization.qconfig import QConfig
from octavo.quantization.quantization_mappings import get_default_static_quant_module_mappings
from octavo.quantization.quantize import convert, prepare
from octavo.quantization.report import RUN_ON_QUANTIZED
from octavo.quantization.stubs import DeQuantStub, QuantStub
from octavo.quantization.swap import replaced
from octavo.quantization.units import canonical_type, find_entry
from octavo.workflow.calibrate import Batch
from octavo.workflow.capture import Capture, Captured, CaptureError, Configs
from octavo.workflow.config import StaticQuantConfig
from octavo.workflow.fusing import flow_of, fused, same_outputs, units, users_of

__all__ = ["EagerCapture", "Layer"]

# What is worth quantizing by itself.
_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    *(getattr(nn, f"{kind}{rank}d") for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)),
    *(getattr(nni, f"Conv{kind}{rank}d") for kind in ("ReLU", "Hardtanh") for rank in (1, 2, 3)),
    nni.LinearReLU,
    nni.LinearLeakyReLU,
    nni.LinearTanh,
)
# What is quantized between two of these.
_BETWEEN: tuple[type[nn.Module], ...] = (
    *RUN_ON_QUANTIZED,
    *(getattr(nn, f"{kind}Norm{rank}d") for kind in ("Batch", "Instance") for rank in (1, 2, 3)),
    *(nn.ELU, nn.GELU, nn.GroupNorm, nn.Hardswish, nn.LayerNorm, nn.LeakyReLU),
    *(nn.PReLU, nn.ReLU6, nn.SiLU, nni.BNReLU2d, nni.BNReLU3d),
)

Ends = dict[str, tuple[bool, bool]]  # quantizes, dequantizes

_UNCALLED = "the first batch of calibration data does not call it"
_BY_CONFIG = "the config leaves it float"
_ALONE = "has float values before it; quantizing it by itself would only cost"


class Layer(nn.Module):
    """A layer that takes float values, gives them, or both, in a model that computes in float.

    Attributes that it lacks are those of the layer, so that code that asks for these goes on
    working.

    Args:
        module: a module whose first argument and result are tensors.
        enter, leave: quantize the argument; dequantize the result.
    """

    module: nn.Module

    def __init__(self, module: nn.Module, enter: bool, leave: bool) -> None:
        super().__init__()
        qconfig: Any = getattr(module, "qconfig", None)
        self.quant = QuantStub(qconfig) if enter else None
        self.module = module
        self.dequant = DeQuantStub(qconfig) if leave else None
        self.train(module.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("_modules", {}).get("module")
            if inner is None or name.startswith("__"):
                raise
            return getattr(inner, name)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's result for ``x``."""
        if self.quant is not None:
            x = self.quant(x)
        x = self.module(x, *args, **kwargs)
        return x if self.dequant is None else self.dequant(x)


class EagerCapture(Capture):
    """Finds layers and what is between them by running the model.

    Args:
        joined: keep values in int8 from one layer to the next. Without it every layer takes and
            gives float values, which suits models that take another path for other data.
    """

    def __init__(self, joined: bool = True) -> None:
        self.joined = joined
        self.name = "eager" if joined else "layers"

    def capture(
        self, model: nn.Module, configs: Configs, example: Batch, others: Sequence[Batch] = ()
    ) -> Captured:
        """See :meth:`Capture.capture`; models with QuantStubs of their own are fused, and otherwise
        taken as they are.
        """
        qconfigs = _qconfigs(configs)
        wanted = example.run(model)
        plain, groups = fused(model, example, lambda name: qconfigs.get(name) is not None)
        reasons = {name: f"folded into '{group[0]}'" for group in groups for name in group[1:]}
        stubs = any(issubclass(canonical_type(m), QuantStub) for m in plain.modules())
        if stubs:
            ends: Ends = {}
            chosen = dict(units(plain))
            notes = ["the model has QuantStubs of its own, and is quantized between them"]
        else:
            ends, chosen = self._ends(plain, qconfigs, flow_of(plain, example), reasons)
            notes = []
        _set_qconfigs(plain, qconfigs, chosen)
        reference = _wrapped(plain, ends)
        if not same_outputs(reference, example, wanted):
            raise CaptureError("the model computes something else when its layers are wrapped")
        prepared = prepare(reference)
        both = {name: list(pair) for name, pair in ends.items()}
        recipe = {"capture": self.name, "fused": groups, "ends": both}
        return Captured(prepared, reference, recipe, _paths(ends), reasons, notes)

    def _ends(
        self,
        model: nn.Module,
        qconfigs: Mapping[str, QConfig | None],
        flow: Dataflow,
        reasons: dict[str, str],
    ) -> tuple[Ends, dict[str, nn.Module]]:
        """Where values are quantized and dequantized, and what computes in int8."""
        parts = units(model)
        layers: dict[str, nn.Module] = {}
        between: dict[str, nn.Module] = {}
        for name, module in parts.items():
            if name in reasons:
                continue
            reason = _unfit(module, qconfigs.get(name), name in flow.outputs)
            one = all(isinstance(y, Tensor) for y in flow.outputs.get(name, ()))
            if reason or not one or not all(_is_float(x) for x in flow.inputs.get(name, ())):
                reasons[name] = reason or "takes or gives something else than one float tensor"
            elif find_entry(module, _LAYERS)[0] is not None:
                layers[name] = module
            elif self.joined:
                between[name] = module
            else:
                reasons[name] = _ALONE
        if not layers:
            raise CaptureError("the model has no layer that can be quantized statically")
        both = {**layers, **between}
        out = _stays_int8(both, layers, flow, parts) if self.joined else {}
        ends: Ends = {}
        chosen = dict(layers)
        for name, module in both.items():
            enter = not (self.joined and _fed(name, flow, out))
            leave = not out.get(name, False)
            if name in between and enter:
                reasons[name] = _ALONE
                continue
            chosen[name] = module
            handed_on = name in flow.in_place
            if enter or (leave and not handed_on):
                ends[name] = (enter, leave)
        return ends, chosen

    def convert(self, captured: Captured) -> nn.Module:
        """See :meth:`Capture.convert`."""
        return convert(captured.prepared)

    def restore(self, model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
        """See :meth:`Capture.restore`."""
        model = copy_model(model).eval()
        names = {name for name, _ in model.named_modules(remove_duplicate=False)}
        needed = {*recipe["ends"], *(name for group in recipe["fused"] for name in group)}
        if missing := sorted(needed - names):
            raise ValueError(
                f"load: float_model lacks the modules {missing}, which the int8 model was made of; "
                "give a model of the architecture that was quantized"
            )
        for module in model.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        fused_model = fuse_modules(model, recipe["fused"], inplace=True)
        return _wrapped(fused_model, {k: (v[0], v[1]) for k, v in recipe["ends"].items()})


def _qconfigs(configs: Configs) -> dict[str, QConfig | None]:
    """What the static configs among them stand for."""
    made: dict[int, QConfig | None] = {}
    for config in configs.values():
        if isinstance(config, StaticQuantConfig) and id(config) not in made:
            made[id(config)] = config.qconfig()
    return {name: made.get(id(config)) for name, config in configs.items()}


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _unfit(module: nn.Module, qconfig: QConfig | None, called: bool) -> str:
    """Why a module stays float, or ""."""
    if qconfig is None:
        return _BY_CONFIG
    if not called:
        return _UNCALLED
    entry, reason = find_entry(module, (*_LAYERS, *_BETWEEN))
    if entry is not None:
        return ""
    if find_entry(module, get_default_static_quant_module_mappings())[0] is not None or isinstance(
        module, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
    ):
        return (
            f"{type(module).__name__} is not quantized statically without a graph; for a dynamic "
            "form give it a DynamicQuantConfig with set_local"
        )
    return reason


def _stays_int8(
    both: Mapping[str, nn.Module],
    layers: Collection[str],
    flow: Dataflow,
    parts: Mapping[str, nn.Module],
) -> dict[str, bool]:
    """For each module whether its output goes on in int8: all that take it are modules that get
    nothing but int8 values, and can. The largest such set.
    """
    out = {}
    for name in both:
        users = [users_of(flow, tensor, parts) for tensor in flow.outputs[name]]
        takers = [taker for each in users for taker in each - {name}]
        handed_on = name in flow.in_place
        used = all(each - {name} for each in users)
        out[name] = used and not handed_on and set(takers) <= set(both)
    changed = True
    while changed:
        changed = False
        for name in both:
            if _fed(name, flow, out):
                continue
            # It takes float values in one place, so all that feeds it has to be float.
            feeding = {flow.producer.get(id(x), "") for x in flow.inputs[name]}
            if name not in layers:
                feeding.add(name)
            for source in feeding:
                if out.get(source):
                    out[source] = False
                    changed = True
    return out


def _fed(name: str, flow: Dataflow, out: Mapping[str, bool]) -> bool:
    """Whether a module gets int8 values in all its calls."""
    return all(out.get(flow.producer.get(id(x), ""), False) for x in flow.inputs[name])


def _set_qconfigs(
    model: nn.Module, qconfigs: Mapping[str, QConfig | None], chosen: Mapping[str, nn.Module]
) -> None:
    for _, module in model.named_modules():
        module.qconfig = None
    for name, module in chosen.items():
        module.qconfig = qconfigs.get(name)  # type: ignore[assignment]


def _wrapped(model: nn.Module, ends: Mapping[str, tuple[bool, bool]]) -> nn.Module:
    """A model with its layers in :class:`Layer`, in place where it is not one itself."""
    modules = dict(model.named_modules(remove_duplicate=False))
    made: dict[int, nn.Module] = {}
    for name, (enter, leave) in ends.items():
        module = modules[name]
        made.setdefault(id(module), Layer(module, enter, leave))
    return replaced(model, made)


def _paths(ends: Mapping[str, tuple[bool, bool]]) -> dict[str, str | None]:
    paths: dict[str, str | None] = {}
    for name in ends:
        prefix = f"{name}." if name else ""
        paths[f"{prefix}module"] = name
        paths |= {f"{prefix}quant": None, f"{prefix}dequant": None}
    return paths
