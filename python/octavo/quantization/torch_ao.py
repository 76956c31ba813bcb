"""Models and checkpoints that ``torch.ao.quantization`` made, as Octavo's.

    int8 = from_torch_ao(model)                               # a converted model
    int8 = load_torch_ao(float_model, torch.load("old.pt"))   # a state dict of one

Nothing of ``torch.ao`` is imported: modules are known by the names of their classes, and a
quantized torch tensor by its methods. Weights, scales and zero points are taken as they are, so
results are torch's where its kernels do not saturate, within the one step by which torch's engines
differ among themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from octavo.dtypes import quint8
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.quantized import dynamic as nnqd
from octavo.quantization.fold import copy_model
from octavo.quantization.load import replaced_from_state
from octavo.quantization.quantization_mappings import (
    DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS,
    DEFAULT_STATIC_QUANT_MODULE_MAPPINGS,
)
from octavo.quantization.stubs import DeQuantStub, QuantStub
from octavo.quantization.swap import hand_over, replaced
from octavo.quantization.torch_ao_modules import (
    from_module,
    functional,
    is_known,
    observed,
    weighted,
)
from octavo.quantization.units import adopt_foreign_modules, canonical_type, is_quantized

__all__ = ["from_torch_ao", "load_torch_ao"]

# Where torch.ao defines its quantized modules, and Octavo's packages of the same names.
_PACKAGES = (
    ("torch.ao.nn.intrinsic.quantized.dynamic.", nniqd),
    ("torch.ao.nn.intrinsic.quantized.", nniq),
    ("torch.ao.nn.quantized.dynamic.", nnqd),
    ("torch.ao.nn.quantized.", nnq),
)


# Modules inside of others, which replace them.
_PARTS = ("LinearPackedParams", "EmbeddingPackedParams", "PackedParameter")


def from_torch_ao(model: nn.Module, inplace: bool = False) -> nn.Module:
    """An Octavo model with the weights and scales of one that torch.ao converted.

    Args:
        model: what ``torch.ao.quantization.convert`` or ``quantize_dynamic`` returned. Its modules
            must still be loadable with the installed torch.
        inplace: change ``model`` instead of a deep copy.

    Returns:
        The model with each module of ``torch.ao.nn.quantized``, ``.dynamic`` and
        ``torch.ao.nn.intrinsic.quantized`` replaced by Octavo's of the same name. Float modules
        stay.

    Raises:
        ValueError: a quantized module that Octavo has no counterpart of; all are named, and nothing
            has been changed. An FX graph: its quantized operations are torch's. A model without
            quantized modules.
    """
    theirs = [(name, m) for name, m in model.named_modules() if _counterpart(m)[0]]
    _check_convertible(model, theirs)
    if not inplace:
        model = copy_model(model)
    made = {}
    for name, module in model.named_modules():
        convertible, cls = _counterpart(module)
        if convertible:
            made[id(module)] = _named(from_module(cls, module), name)
    for module in list(model.modules()):
        if id(module) in made:
            hand_over(module, made[id(module)])
    model = replaced(model, made)
    adopt_foreign_modules(model)  # cells that are quantized part by part
    return model


def _counterpart(module: nn.Module) -> tuple[bool, Any]:
    """Whether a module is one of torch.ao's quantized ones, and Octavo's class for it or None."""
    home = type(module).__module__
    if not is_quantized(module) or home.startswith("octavo."):
        return False, None
    if type(module).__name__ in _PARTS:
        return False, None
    package = next(ours for prefix, ours in _PACKAGES if home.startswith(prefix))
    return True, getattr(package, type(module).__name__, None)


def _check_convertible(model: nn.Module, theirs: list[tuple[str, nn.Module]]) -> None:
    graphs = [
        name or "the model itself"
        for name, m in model.named_modules()
        if isinstance(m, torch.fx.GraphModule) and _has_quantized_calls(m)
    ]
    if graphs:
        raise ValueError(
            f"from_torch_ao: an FX graph calls torch's quantized operations by name, which do not "
            f"take Octavo's tensors: {graphs}. Quantize the float model with octavo.quantization"
        )
    unknown = [
        f"'{name}' ({type(m).__name__})" for name, m in theirs if not is_known(_counterpart(m)[1])
    ]
    if unknown:
        raise ValueError(
            "from_torch_ao: Octavo has no counterpart of these modules: "
            + ", ".join(unknown)
            + ". Quantize the float model with octavo.quantization, or leave them float"
        )
    if not theirs:
        raise ValueError(
            "from_torch_ao: the model has no quantized modules of torch.ao; give a model that "
            "torch.ao prepared to octavo.quantization.convert, and quantize a float model with "
            "quantize_dynamic, or prepare and convert"
        )


def _has_quantized_calls(graph: torch.fx.GraphModule) -> bool:
    return any(
        node.op == "call_function" and "quantize" in str(node.target) for node in graph.graph.nodes
    )


def _named(module: Any, name: str) -> Any:
    module._qualified_name = name
    return module


# State dicts.


def load_torch_ao(
    model: nn.Module, state_dict: Mapping[str, Any], inplace: bool = False
) -> nn.Module:
    """An Octavo model with the architecture of a float one and the state of one that torch.ao
    converted. No data is needed.

    Args:
        model: the float model that was once quantized, fused as it was then; torch.ao's fused
            modules, stubs and functionals count as Octavo's.
        state_dict: ``state_dict()`` of the converted model, static or dynamic;
            ``torch.load(path, weights_only=True)`` reads it as long as torch has quantized tensors.
            With dynamic recurrent layers it holds script objects, which take
            ``weights_only=False``: only for files that are trusted.
        inplace: change ``model`` instead of a deep copy.

    Returns:
        The model in eval mode, with those modules replaced that the state dict has quantized.
        A layer with output scale 1 and zero point 0 is a dynamic one, as torch.ao writes these.

    Raises:
        ValueError: a module whose float form in the model has no counterpart, or another shape.
        RuntimeError: keys of the state dict that no module takes, or of the model that it lacks;
            where batch norms are among these the model has to be fused first. Nothing has been
            changed then.
    """
    return replaced_from_state(model, state_dict, _from_state, inplace, "load_torch_ao")


def _from_state(module: nn.Module, own: Mapping[str, Any], name: str) -> nn.Module | None:
    """What replaces a float module, from its part of the state dict; None where it stays."""
    cls = canonical_type(module)
    scaled = "scale" in own and "zero_point" in own
    if issubclass(cls, QuantStub) and scaled:
        return nnq.Quantize(float(own["scale"]), int(own["zero_point"]), quint8)
    if issubclass(cls, DeQuantStub):
        return nnq.DeQuantize()
    if issubclass(cls, nnq.FXFloatFunctional) and scaled:
        return functional(SimpleNamespace(**own))
    if issubclass(cls, (nn.Embedding, nn.EmbeddingBag)):
        return _embedding_from_state(cls, module, own)
    if issubclass(cls, (nn.LSTM, nn.GRU, nn.RNNCellBase)):
        return _recurrent_from_state(cls, module, own, name)
    packed = own.get("_packed_params._packed_params")
    weight: Any
    weight, bias = (own.get("weight"), own.get("bias")) if packed is None else packed
    if not getattr(weight, "is_quantized", False):
        return _normalization_from_state(cls, module, own, name) if scaled else None
    output = (float(own["scale"]), int(own["zero_point"])) if scaled else None
    if output == (1.0, 0):
        output = None
    table = (
        DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS
        if output is None
        else DEFAULT_STATIC_QUANT_MODULE_MAPPINGS
    )
    target = next((table[base] for base in cls.__mro__ if base in table), None)
    if target is None:
        raise ValueError(
            f"load_torch_ao: '{name}' is a {cls.__name__}, which has no int8 form for the state "
            "that the checkpoint has for it"
        )
    like = module[0] if issubclass(cls, nni._FusedModule) else module  # type: ignore[index]
    return weighted(target, like, weight, bias, output)


def _embedding_from_state(cls: Any, module: Any, own: Mapping[str, Any]) -> nn.Module | None:
    table = own.get("_packed_params._packed_weight")
    if table is None:
        return None
    like = SimpleNamespace(
        weight=lambda: table,
        num_embeddings=module.num_embeddings,
        embedding_dim=module.embedding_dim,
        include_last_offset=getattr(module, "include_last_offset", False),
    )
    return from_module(DEFAULT_STATIC_QUANT_MODULE_MAPPINGS[cls], like)


def _recurrent_from_state(
    cls: Any, module: Any, own: Mapping[str, Any], name: str
) -> nn.Module | None:
    """A dynamic recurrent layer or cell; torch.ao keeps packed weights of these in the state.

    Raises:
        ValueError: the state has another number of layers and directions.
    """
    if issubclass(cls, nn.RNNCellBase):
        names = ("_packed_weight_ih", "_packed_weight_hh")
        packed = {"": [own[key] for key in names]} if own.keys() >= set(names) else {}
    else:
        directions = 2 if module.bidirectional else 1
        count = module.num_layers * directions
        saved = [own[key] for key in own if key.startswith("_all_weight_values.")]
        if saved and len(saved) != count:
            raise ValueError(
                f"load_torch_ao: '{name}' ({cls.__name__}) has {count} layers and directions, the "
                f"state dict {len(saved)}; give a model of the architecture that was quantized"
            )
        packed = {
            f"_l{index // directions}{'_reverse' * (index % directions)}": (
                own[f"_all_weight_values.{index}.param"].__getstate__()[0][4]
            )
            for index in range(len(saved))
        }
    if not packed:
        return None
    weights, biases = {}, {}
    for suffix, parts in packed.items():
        for kind, part in zip(("ih", "hh"), parts, strict=True):
            weight, bias = part.__getstate__()[0]
            weights[f"weight_{kind}{suffix}"], biases[f"bias_{kind}{suffix}"] = weight, bias
    like = SimpleNamespace(**vars(module), get_weight=lambda: weights, get_bias=lambda: biases)
    target = next(
        DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS[base]
        for base in cls.__mro__
        if base in DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS
    )
    return from_module(target, like)


def _normalization_from_state(
    cls: Any, module: Any, own: Mapping[str, Any], name: str
) -> nn.Module | None:
    """A module that keeps its float parameters and has an output scale.

    Raises:
        RuntimeError: the state lacks parameters, or has others.
    """
    target = next(
        (
            DEFAULT_STATIC_QUANT_MODULE_MAPPINGS[base]
            for base in cls.__mro__
            if base in DEFAULT_STATIC_QUANT_MODULE_MAPPINGS
        ),
        None,
    )
    if target is None or not hasattr(target, "from_float"):
        return None
    plain = copy.deepcopy(module)
    part = plain[0] if issubclass(cls, nni._FusedModule) else plain
    floats = {key: value for key, value in own.items() if key not in ("scale", "zero_point")}
    try:
        part.load_state_dict(floats)
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise RuntimeError(
            f"load_torch_ao: what the state dict has for '{name}' ({cls.__name__}), {sorted(own)}, "
            f"is not all of it, or that of another model: {details}"
        ) from None
    made: nn.Module = target.from_float(observed(plain, own["scale"], own["zero_point"]))
    return made
