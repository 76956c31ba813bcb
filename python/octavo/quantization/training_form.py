"""Modules that compute in training mode what no int8 model computes."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["warn_training_form"]

_NAMED = 3  # the others are counted


def warn_training_form(model: nn.Module, stacklevel: int) -> None:
    """Warns, for ``prepare``, where modules compute in their training form.

    What the model's own code does with ``self.training`` is not known.
    """
    labels = [
        f"'{name}' ({type(module).__name__})" if name else f"it ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training and _differs(module)
    ]
    if not labels:
        return
    named, more = ", ".join(labels[:_NAMED]), len(labels) - _NAMED
    rest = f" and {more} more" if more > 0 else ""
    warnings.warn(
        f"prepare: the model is in training mode; {named}{rest} would compute in training form, "
        "so calibration would see values that the int8 model never has; call model.eval() first "
        "(for quantization-aware training use prepare_qat)",
        stacklevel=stacklevel,
    )


def _differs(module: nn.Module) -> bool:
    """Whether a module's own code computes something else in training mode."""
    if isinstance(module, _NormBase):  # batch and instance norms
        return module.running_mean is not None
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return module.dropout > 0
    return isinstance(module, nn.RReLU)
