"""The scripts that need torch.ao, where torch has it."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch


def hide_torch_ao() -> None:
    """Makes every later import of torch.ao fail, as with a torch that has none."""
    for name in list(sys.modules):
        if name == "torch.ao" or name.startswith("torch.ao."):
            sys.modules[name] = None  # type: ignore[assignment]


def script(name: str) -> ModuleType | None:
    """A script of this folder; None where torch lacks what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that torch.ao goes
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("torch.ao"):
                raise
            return None


def version() -> str:
    """The installed torch's, for messages."""
    return f"torch {torch.__version__}"
