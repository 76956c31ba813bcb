"""What an int8 model remembers of how it was made, so that it can be saved and made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from octavo.quantization.fx.graph_module import preserve
from octavo.quantization.qconfig import QConfig
from octavo.workflow.config import DynamicQuantConfig

__all__ = ["dynamic_recipe", "leave", "recipe_of", "remember"]

_ATTRIBUTE = "octavo_recipe"


def dynamic_recipe(
    spec: Mapping[str, tuple[DynamicQuantConfig, QConfig]],
) -> dict[str, dict[str, Any]]:
    """The settings of dynamically quantized modules by path."""
    return {name: config.settings for name, (config, _) in spec.items()}


def remember(model: nn.Module, recipe: dict[str, Any]) -> None:
    """Leaves a recipe on an int8 model. It holds plain values, lists and dicts only."""
    leave(model, _ATTRIBUTE, recipe)


def leave(model: nn.Module, name: str, value: Any) -> None:
    """Gives a model an attribute, which its deep copies have too."""
    if isinstance(model, fx.GraphModule):
        preserve(model, {name: value})
    else:
        setattr(model, name, value)


def recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """The recipe of an int8 model; None where it has none."""
    recipe: dict[str, Any] | None = getattr(model, _ATTRIBUTE, None)
    return recipe
