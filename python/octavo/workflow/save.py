"""Int8 models in files: plain tensors, and how the float model becomes such a model again.

octavo.save(int8, "model.pt")
int8 = octavo.load("model.pt", float_model)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization.files import read_safetensors, read_torch, takes_safetensors
from octavo.quantization.fold import copy_model
from octavo.quantization.load import int8_form, replaced_from_state
from octavo.quantization.qconfig import default_dynamic_qconfig
from octavo.workflow.capture import CaptureError
from octavo.workflow.choose import captures
from octavo.workflow.config import DynamicQuantConfig
from octavo.workflow.dynamic import qconfig_for, quantize_named, quantize_parts
from octavo.workflow.recipe import recipe_of, remember

__all__ = ["load", "save"]

_FORMAT = "octavo"
_VERSION = 1


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes an int8 model's tensors and how it was made.

    Args:
        model: from :func:`octavo.quantize`, :func:`octavo.convert`, :func:`octavo.autotune` or
            :func:`octavo.load`.
        path: with the suffix ``.safetensors`` a file of safetensors, else one of ``torch.save``
            that ``torch.load(..., weights_only=True)`` reads. Packed weights are not in it: a file
            made on one CPU runs on another.

    Raises:
        TypeError: something else than a module.
        ValueError: another model.
        ImportError: a .safetensors file without the safetensors package.
    """
    given: Any = model
    if not isinstance(given, nn.Module):
        hint = "; octavo.quantize() returns (model, report)"
        raise TypeError(
            f"save: model must be a torch.nn.Module, got {type(given).__name__}"
            f"{hint if hasattr(given, 'report') or isinstance(given, tuple) else ''}"
        )
    recipe = recipe_of(model)
    if recipe is None:
        raise ValueError(
            f"save: this {type(model).__name__} does not know how it was quantized; save() is for "
            "models from octavo.quantize() or octavo.convert(). For others, such as those of "
            "octavo.quantization.convert() and quantize_dynamic(), save state_dict() and use "
            "octavo.quantization.load_quantized()"
        )
    recipe = {**recipe, "int8": _int8_modules(model)}
    state = {key: value.detach() for key, value in model.state_dict().items()}
    path = Path(path)
    if not takes_safetensors(path):
        torch.save(
            {"format": _FORMAT, "version": _VERSION, "recipe": recipe, "state_dict": state}, path
        )
        return
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(
            f"save: {path.name} takes the safetensors package: pip install safetensors"
        ) from error
    text = json.dumps({"version": _VERSION, "recipe": recipe})
    separate = {key: value.contiguous().clone() for key, value in state.items()}
    save_file(separate, path, {_FORMAT: text})


def _int8_modules(model: nn.Module) -> list[str]:
    """The paths of the int8 modules, without what is inside of these."""
    inner: set[int] = set()
    names = []
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule) and id(module) not in inner:
            inner |= {id(part) for part in module.modules()}
            names.append(name)
    return names


def load(path: str | os.PathLike[str], float_model: nn.Module) -> nn.Module:
    """The int8 model of a file.

    Args:
        path: a file of :func:`save`.
        float_model: a float model of the same architecture; its weights do not matter. It is not
            changed.

    Returns:
        The model in eval mode, without data or calibration: the same bits as the one that was
        saved.

    Raises:
        ValueError: a file of something else, of a later version, or damaged; another architecture.
        RuntimeError: tensors that the model does not have, or that the file lacks.
        ImportError: a .safetensors file without the safetensors package.
    """
    if not isinstance(float_model, nn.Module):
        raise TypeError(
            f"load: float_model must be a torch.nn.Module, got {type(float_model).__name__}"
        )
    path = Path(path)
    recipe, state = _read(path)
    try:
        dynamic = {name: DynamicQuantConfig(**own) for name, own in recipe["dynamic"].items()}
        way = captures(recipe["capture"])[0] if recipe["capture"] else None
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    int8 = set(recipe["int8"])
    if way:
        try:
            model = way.restore(float_model, recipe)
        except CaptureError as error:
            raise ValueError(
                f"load: float_model is not what {path.name} was made of: {error}"
            ) from error
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        if way.restores_int8:
            return _filled(model, recipe, dynamic, state)
    else:
        model = copy_model(float_model).eval()
    missing = sorted(int8 - {name for name, _ in model.named_modules()})
    if missing:
        raise ValueError(
            f"load: {path.name} has int8 modules {missing}, which float_model lacks; give a "
            "model of the architecture that was quantized"
        )

    def make(module: nn.Module, own: Mapping[str, Any], name: str) -> nn.Module | None:
        if name not in int8:
            return None
        if name not in dynamic:
            return int8_form(module, own, name, True, default_dynamic_qconfig)
        config = dynamic[name]
        new = quantize_named(module, {"": (config, qconfig_for(module, config))})
        new.load_state_dict(own)
        return new

    model = replaced_from_state(model, state, make, True, "load")
    remember(model, {key: value for key, value in recipe.items() if key != "int8"})
    return model


def _filled(
    model: nn.Module,
    recipe: Mapping[str, Any],
    dynamic: Mapping[str, DynamicQuantConfig],
    state: Mapping[str, Tensor],
) -> nn.Module:
    """An int8 model without the right numbers, with those of a checkpoint."""
    spec = {}
    for name, config in dynamic.items():
        spec[name] = (config, qconfig_for(model.get_submodule(name), config))
    model = quantize_parts(model, spec)
    model.load_state_dict(state)
    remember(model, {key: value for key, value in recipe.items() if key != "int8"})
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The recipe and the tensors of a file.

    Raises:
        ValueError: it is not one of :func:`save`, or is damaged.
    """
    about: Any
    if takes_safetensors(path):
        held, metadata = read_safetensors(path, "load")
        about = metadata.get(_FORMAT)
        if about is not None:
            try:
                about = {**json.loads(about), "state_dict": held}
            except (TypeError, ValueError) as error:
                raise _damaged(path, error) from error
    else:
        about = read_torch(path, "load")
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            about = None
    if about is None:
        raise ValueError(
            f"load: {path.name} was not written by octavo.save(); a state dict of an int8 model is "
            "for octavo.quantization.load_quantized()"
        )
    if not isinstance(about.get("version"), int):
        raise _damaged(path, "no version")
    if about["version"] > _VERSION:
        raise ValueError(
            f"load: {path.name} has version {about['version']} of the format, and this Octavo "
            f"knows versions up to {_VERSION}; update Octavo"
        )
    recipe, state = about.get("recipe"), about.get("state_dict")
    if not isinstance(state, dict) or not _is_recipe(recipe):
        raise _damaged(path, "no recipe or no state dict")
    return recipe, state


def _is_recipe(recipe: Any) -> bool:
    """Whether it has what every recipe has."""
    return (
        isinstance(recipe, dict)
        and isinstance(recipe.get("capture", 0), str | None)
        and isinstance(recipe.get("int8"), list)
        and all(isinstance(name, str) for name in recipe["int8"])
        and isinstance(recipe.get("dynamic"), dict)
        and all(isinstance(settings, dict) for settings in recipe["dynamic"].values())
    )


def _damaged(path: Path, why: object) -> ValueError:
    text = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    return ValueError(
        f"load: {path.name} is damaged: it does not say how the model was made ({text})"
    )
