"""What machine this is: its CPU, caches, load and software."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from octavo import backend
from octavo.info import cpu_model

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHES = {"L1": 32 * 1024, "L2": 1024 * 1024, "L3": 32 * 1024 * 1024}
_PACKAGES = ("octavo", "torch", "numpy", "torchao", "onnx", "onnxruntime", "openvino")


def caches() -> dict[str, int]:
    """Bytes of the first core's data caches, ``L1`` first; usual sizes where the system does not
    tell."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            if (folder / "type").read_text().strip() != "Instruction":
                found[f"L{(folder / 'level').read_text().strip()}"] = _bytes(
                    (folder / "size").read_text().strip()
                )
        except (OSError, ValueError):
            continue
    return found or dict(_USUAL_CACHES)


def _bytes(text: str) -> int:
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted to run in the last minute, on average; None where unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def versions() -> dict[str, str | None]:
    """Version of each package that matters; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["torch"] = torch.__version__
    return found


def commit() -> str | None:
    """The commit of the sources that run, ``-dirty`` where they were changed since; None where they
    are in no repository of their own."""
    here = Path(__file__).resolve()
    top = _git(here.parent, "rev-parse", "--show-toplevel")
    if top is None or here != Path(top, "bench", here.name):
        return None
    return commit_of(here.parent)


def commit_of(folder: Path) -> str | None:
    """The commit of the repository that a folder is in, ``-dirty`` where files of it were changed
    since; None where it is in none."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe() -> dict[str, Any]:
    """All of it, as plain JSON types."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": cores(),
        "caches": caches(),
        "features": [name for name, present in backend.cpu_features().items() if present],
        "emulated": backend.emulated_features(),
        "load_average": load_average(),
    }
