"""What is chosen for the user: the mode, and the ways of capturing."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo.workflow.capture import Capture
from octavo.workflow.config import DynamicQuantConfig, QuantConfig, StaticQuantConfig, near
from octavo.workflow.eager import EagerCapture
from octavo.workflow.exported import ExportCapture
from octavo.workflow.graph import FxCapture

__all__ = ["CAPTURES", "captures", "choose_mode"]

CAPTURES: tuple[Capture, ...] = (
    FxCapture(),
    ExportCapture(),
    EagerCapture(),
    EagerCapture(joined=False),
)
"""The ways of capturing, in the order in which they are tried.

- ``"fx"`` (torch.fx) traces Python code. The result keeps the model's modules, takes batches of any
  size that its code takes, and is exported and compiled like others.
- ``"export"`` (torch.export, :func:`octavo.lower`) writes down what runs for the calibration data:
  models that torch.fx cannot follow, such as those of the transformers package. Its integers are
  those of ``"fx"`` where both work. The result takes calls of the form and of the sizes that
  calibration has shown, and refuses others.
- ``"eager"`` keeps the model's code and replaces layers; what stands between them in that code is
  float. It is for control flow that depends on data.
- ``"layers"`` is the same with float values between all layers.
"""

_MODES = ("static", "dynamic", "auto")
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_OTHERS = (nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding)


def captures(name: str | None) -> tuple[Capture, ...]:
    """All ways of capturing, or the one of a name.

    Raises:
        ValueError: there is none of that name.
    """
    if name is None:
        return CAPTURES
    known = {way.name: way for way in CAPTURES}
    if name not in known:
        raise ValueError(
            f"capture must be one of {', '.join(map(repr, known))}, got {name!r}"
            f"{near(str(name), known)}"
        )
    return (known[name],)


def choose_mode(model: nn.Module, mode: Any, config: Any) -> tuple[str, str, QuantConfig]:
    """The mode, why it was chosen ("" where the user did), and the config.

    Raises:
        TypeError: a config of another kind.
        ValueError: an unknown mode; one that the config is not for.
    """
    if config is not None and not isinstance(config, (StaticQuantConfig, DynamicQuantConfig)):
        raise TypeError(
            "config must be a StaticQuantConfig, a DynamicQuantConfig or None, got "
            f"{type(config).__name__}"
        )
    if mode is not None and mode not in _MODES:
        raise ValueError(
            f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}"
            f"{near(str(mode), _MODES)}"
        )
    why = ""
    given = None
    if config is not None:
        given = "dynamic" if isinstance(config, DynamicQuantConfig) else "static"
    if mode == "auto":
        mode, why = _suits(model)
        if given is not None and given != mode:
            mode, why = given, "what the config is"
    mode = mode or given or "static"
    if given is not None and given != mode:
        raise ValueError(
            f"mode={mode!r} does not go with a {type(config).__name__}; leave mode out, or give a "
            f"{'Dynamic' if mode == 'dynamic' else 'Static'}QuantConfig"
        )
    if config is None:
        config = DynamicQuantConfig() if mode == "dynamic" else StaticQuantConfig()
    return mode, why, config


def _suits(model: nn.Module) -> tuple[str, str]:
    """The mode for a model by what its layers are, and why."""
    modules = list(model.modules())
    convolutions = sum(isinstance(module, _CONVOLUTIONS) for module in modules)
    others = sum(isinstance(module, _OTHERS) for module in modules)
    counts = f"{convolutions} convolutions, {others} linear, recurrent and embedding layers"
    return ("static" if convolutions >= others else "dynamic"), f"it has {counts}"
