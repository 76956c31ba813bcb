"""Reading checkpoints: plain tensors alone, whatever else a file holds."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_safetensors", "read_torch", "takes_safetensors"]


def takes_safetensors(path: Path) -> bool:
    """Whether a file of this name is one of safetensors."""
    return path.suffix == ".safetensors"


def read_torch(path: Path, caller: str) -> Any:
    """What ``torch.save`` wrote, on the CPU; nothing of it runs.

    Raises:
        ValueError: it is no such file, is damaged, or holds more than tensors and plain values.
        OSError: it cannot be opened.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        # Torch's own message advises weights_only=False, which runs what is in the file.
        raise ValueError(
            f"{caller}: {path.name} cannot be read: it is no checkpoint or is damaged, or it holds "
            "more than plain tensors, such as a whole model, which could run any code. If you "
            "trust where it comes from, load it with torch.load(..., weights_only=False) and save "
            "the model's state_dict(), or use octavo.save()"
        ) from error


def read_safetensors(path: Path, caller: str) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors of a file of safetensors, and its metadata.

    Raises:
        ValueError: it is no such file, or is damaged.
        OSError: it cannot be opened.
        ImportError: there is no safetensors package.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"{caller}: {path.name} takes the safetensors package: pip install safetensors"
        ) from error
    try:
        with safe_open(path, "pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return held, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{caller}: {path.name} cannot be read: it is no file of safetensors, or is damaged "
            f"({error})"
        ) from error
