"""What the constructors of recurrent modules of every kind refuse."""

from __future__ import annotations

import warnings
from typing import Any

from octavo.nn.quantized.modules.utils import describe

__all__ = ["check_recurrent_arguments", "check_sizes"]


def check_sizes(label: str, **sizes: Any) -> None:
    """Raises TypeError for a size that is no int, ValueError for one that is not positive."""
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{label}: {name} must be an int, got {describe(size)}")
        if size <= 0:
            raise ValueError(f"{label}: {name} must be greater than zero, got {size}")


def check_recurrent_arguments(
    label: str,
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    dropout: Any,
    proj_size: Any,
    stacklevel: int,
) -> None:
    """Checks arguments of ``torch.nn.LSTM``, and warns of a dropout that nothing comes after.

    Args:
        stacklevel: that of the warning in the constructor that calls this: 2 is its caller.

    Raises:
        TypeError: a size that is no int.
        ValueError: a size that is not positive, ``dropout`` outside [0, 1], ``proj_size`` not below
            ``hidden_size``.
    """
    check_sizes(label, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
    is_number = isinstance(dropout, (int, float)) and not isinstance(dropout, bool)
    if not is_number or not 0 <= dropout <= 1:
        raise ValueError(
            f"{label}: dropout must be a probability, a number from 0 to 1, got {dropout!r}"
        )
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"{label}: proj_size must be 0 (no projection) or positive and less than "
            f"hidden_size = {hidden_size}, got {proj_size}"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"{label}: dropout comes after all but the last layer, so dropout={dropout} with "
            "num_layers=1 does nothing",
            stacklevel=stacklevel + 1,
        )
