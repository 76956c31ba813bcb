"""Int8 checkpoints, loaded into the architecture of the float model: no data, no calibration.

torch.save(int8.state_dict(), "int8.pt")          # where the model was quantized
int8 = load_quantized(float_model, "int8.pt")     # where it is used
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.quantization.files import read_safetensors, read_torch, takes_safetensors
from octavo.quantization.fold import copy_model
from octavo.quantization.fused_calls import remove_call_counts
from octavo.quantization.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    default_per_channel_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)
from octavo.quantization.quantization_mappings import (
    CUSTOM_OBSERVED,
    CUSTOM_QUANTIZED,
    get_default_dynamic_quant_module_mappings,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.stubs import QuantStub
from octavo.quantization.swap import hand_over, replaced
from octavo.quantization.torch_ao_modules import observed
from octavo.quantization.units import adopt_foreign_modules, canonical_type, disable_nested_tensors

__all__ = ["load_quantized"]

_NAME = "load_quantized"
_OF_A_GRAPH = re.compile(r"quantize(_\d+)?")  # what graphs call the module that is a QuantStub's

# Gives what replaces a module, from its part of a state dict and its path; None where it stays.
Maker = Callable[[nn.Module, Mapping[str, Any], str], "nn.Module | None"]


def load_quantized(
    model: nn.Module,
    state_dict: Mapping[str, Tensor] | str | os.PathLike[str],
    inplace: bool = False,
    *,
    dynamic_qconfig: QConfig = default_dynamic_qconfig,
) -> nn.Module:
    """An int8 model with the architecture of a float one, and the state that an int8 one was saved
    with.

    Args:
        model: the float model, fused as it was before it was quantized. Its weights do not matter.
        state_dict: ``state_dict()`` of the int8 model, from :func:`convert` or
            :func:`quantize_dynamic`; or a file of it, by ``torch.save`` or, with the suffix
            ``.safetensors``, by safetensors.
        inplace: change ``model`` instead of a deep copy.
        dynamic_qconfig: how layers without an output scale quantize their inputs, which a state
            dict does not say: as they did when they were saved.

    Returns:
        The model in eval mode, with those modules replaced that the state dict has quantized.

    Raises:
        ValueError: a state dict of a float model, or of torch.ao; a module of the model without an
            int8 form for its part of the state dict; a file that holds something else, or is
            damaged.
        RuntimeError: keys of the state dict that no module takes, or of the model that it lacks;
            where batch norms are among these the model has to be fused first. With ``inplace``
            nothing has been changed then.
        ImportError: a .safetensors file without the safetensors package.

    torch.ao has no such function: there the empty model goes through ``prepare`` and ``convert``
    without data, and the result loads the state dict.
    """
    state = state_dict if isinstance(state_dict, Mapping) else _read(Path(state_dict))
    if any(
        "_packed_params" in key or getattr(v, "is_quantized", False) for key, v in state.items()
    ):
        raise ValueError(
            "load_quantized: torch.ao made this state dict; load it with "
            "octavo.quantization.load_torch_ao(model, state_dict)"
        )
    static = any(key.rpartition(".")[2] == "zero_point" for key in state)

    def make(module: nn.Module, own: Mapping[str, Any], name: str) -> nn.Module | None:
        return int8_form(module, own, name, static, dynamic_qconfig)

    return replaced_from_state(model, state, make, inplace, "load_quantized")


def _read(path: Path) -> Mapping[str, Tensor]:
    if takes_safetensors(path):
        return read_safetensors(path, _NAME)[0]
    state: Mapping[str, Tensor] = read_torch(path, _NAME)
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{_NAME}: {path.name} holds a {type(state).__name__}, and no state dict; save the "
            "int8 model's state_dict()"
        )
    return state


def int8_form(
    module: nn.Module, own: Mapping[str, Any], name: str, static: bool, dynamic_qconfig: QConfig
) -> nn.Module | None:
    """What replaces a float module; None where its part of the state dict is a float one."""
    if own.keys() == module.state_dict().keys() and (own or not static):
        return None
    errors: list[tuple[bool, str]] = []
    for candidate in _candidates(module, dynamic_qconfig):
        if not own and candidate.state_dict():
            continue
        try:
            candidate.load_state_dict(own)
        except RuntimeError as error:
            text = "; ".join(str(error).split("\n\t")[1:])  # without torch's headline
            errors.append((candidate.state_dict().keys() != own.keys(), text))
        else:
            return candidate
    if errors and not _is_inside(module, own):
        other_keys, closest = min(errors, key=lambda error: error[0])
        held, cure = "", ""
        if other_keys:
            held = f", {sorted(own)}"
            cure = "; the model has to be fused as it was for the checkpoint"
        elif "must have shape" in closest:
            cure = "; the model must have the sizes of the one that was quantized"
        raise ValueError(
            f"load_quantized: none of the int8 forms of '{name}' ({type(module).__name__}) takes "
            f"what the state dict has for it{held}: {closest}{cure}"
        )
    return None


def _is_inside(module: nn.Module, own: Mapping[str, Any]) -> bool:
    """Whether a module's part of a state dict is that of its children, which are looked at next."""
    children = tuple(f"{name}." for name, _ in module.named_children())
    return bool(children) and all(key.startswith(children) for key in own)


def _candidates(module: nn.Module, dynamic_qconfig: QConfig) -> Iterator[nn.Module]:
    """The int8 forms of a float module, with its own weights and, where they have one, the output
    scale 1.
    """
    weight_only = (float_qparams_weight_only_qconfig, float_qparams_weight_only_qconfig_4bit)
    linear = isinstance(module, nn.Linear)
    dynamic = (dynamic_qconfig, float16_dynamic_qconfig) if linear else (dynamic_qconfig,)
    tables = (
        (get_default_static_quant_module_mappings(), (default_per_channel_qconfig,)),
        (get_default_dynamic_quant_module_mappings(), dynamic),
    )
    seen = next((CUSTOM_OBSERVED[c] for c in type(module).__mro__ if c in CUSTOM_OBSERVED), None)
    if seen is not None:
        yield CUSTOM_QUANTIZED[seen]._unscaled(module)
    for table, qconfigs in tables:
        target = next((table[c] for c in canonical_type(module).__mro__ if c in table), None)
        if target is None:
            continue
        embedding = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for qconfig in weight_only if embedding else qconfigs:
            plain = copy.copy(module)
            if issubclass(target, QuantizedOutput) or isinstance(module, QuantStub):
                plain = observed(module, 1.0, 0)
            plain.__dict__ = {**plain.__dict__, "qconfig": qconfig}
            yield target.from_float(plain)


def replaced_from_state(
    model: nn.Module, state_dict: Mapping[str, Any], make: Maker, inplace: bool, caller: str
) -> nn.Module:
    """A float model with its modules replaced by what ``make`` gives for them, and the rest of a
    state dict loaded into those that stay.

    Raises:
        ValueError: ``make`` gives nothing.
        RuntimeError: keys that no module takes, or that the state dict lacks. Modules have not been
            replaced then.
    """
    if not inplace:
        model = copy_model(model)
    adopt_foreign_modules(model)
    made: dict[int, nn.Module] = {}
    used: set[str] = set()
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        prefix = f"{name}." if name else ""
        own = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
        new: Any = make(module, own, name)
        if new is not None:
            new._qualified_name = name
            made[id(module)] = new
            inside.update(id(part) for part in module.modules())
            used.update(prefix + key for key in own)
    if not made:
        raise ValueError(
            f"{caller}: the state dict has no quantized modules of this model; load it into the "
            "float model with load_state_dict"
        )
    rest = {key: value for key, value in state_dict.items() if key not in used}
    _check_rest(model, rest, inside, caller)
    for module in list(model.modules()):
        if id(module) in made:
            hand_over(module, made[id(module)])
    model = replaced(model, made)
    remove_call_counts(model)
    disable_nested_tensors(model)
    model.load_state_dict(rest, strict=False)
    return model.eval()


def _check_rest(model: nn.Module, rest: Mapping[str, Any], inside: set[int], caller: str) -> None:
    """Raises RuntimeError unless the float modules take all keys that are left, and no others."""
    expected: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) not in inside:
            own = dict(module.named_parameters(recurse=False))
            own |= dict(module.named_buffers(recurse=False))
            own = {key: own[key] for key in own.keys() - module._non_persistent_buffers_set}
            expected |= {f"{name}.{key}" if name else key for key in own}
    transient = {key for key in expected if key.endswith("num_batches_tracked")}
    missing, unexpected = sorted(expected - transient - rest.keys()), sorted(rest.keys() - expected)
    if missing or unexpected:
        parts = dict(model.named_children())
        first = [key.partition(".")[0] for key in unexpected]
        graph = [name for name in first if _OF_A_GRAPH.fullmatch(name) and name not in parts]
        cure = (
            "Fuse the model as it was fused for the checkpoint, with "
            "octavo.quantization.fuse_modules"
        )
        if graph:
            cure = (
                f"{graph[0]!r} is of a graph, as octavo.quantize and convert_fx make it: write "
                "models of octavo.quantize with octavo.save and read them with octavo.load, or "
                "load the state dict into a graph that was made in the same way"
            )
        raise RuntimeError(
            f"{caller}: the model and the state dict differ: missing {missing}, unexpected "
            f"{unexpected}. {cure}"
        )
