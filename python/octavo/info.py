"""What ``octavo info`` shows: CPU, instruction set level (ISA), kernels and threads."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import octavo
from octavo import backend, ops

_CHANNELS = 64


def collect() -> dict[str, Any]:
    """Everything that ``octavo info`` shows, as plain dictionaries, lists, strings and numbers.

    Packs and runs a few tiny layers to learn which kernels they get.
    """
    runnable = backend.supported()
    return {
        "versions": {
            "octavo": octavo.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "cpu": {
            "model": cpu_model(),
            "architecture": platform.machine(),
            "features": _features(),
        },
        "isa": {
            "chosen": backend.current(),
            "forced": os.environ.get("OCTAVO_ISA") or None,
            "runnable": runnable,
            "not runnable": {
                isa: backend.missing_features(isa) for isa in backend.built() if isa not in runnable
            },
        },
        "kernels": {"chosen": _chosen_kernels(), "all": backend.kernels(backend.current())},
        "threads": backend.parallel_info(),
    }


def as_json(info: dict[str, Any]) -> str:
    """``collect()``'s result as indented JSON."""
    return json.dumps(info, indent=2)


def as_text(info: dict[str, Any]) -> str:
    """``collect()``'s result for people: tables where rich is installed, else indented lines."""
    sections = _sections(info)
    return _rich(sections) if importlib.util.find_spec("rich") else _plain(sections)


def cpu_model() -> str:
    """The CPU's name as the operating system tells it; on ARM Linux, its maker and part by their
    numbers."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"
    listed = _listed_cpu()
    # By the architecture: an emulator may show the file of the machine beneath.
    if platform.machine() == "aarch64":
        numbers = [listed.get(key) for key in ("CPU implementer", "CPU part")]
        return "implementer {}, part {}".format(*numbers) if all(numbers) else "unknown"
    return listed.get("model name") or platform.processor() or "unknown"


def _listed_cpu() -> dict[str, str]:
    """The first CPU of /proc/cpuinfo; empty where there is no such file. For its name only: what it
    can run is asked of the CPU."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _sysctl(name: str) -> str:
    """A value of macOS's ``sysctl``; empty where it cannot be had."""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _features() -> dict[str, str]:
    emulated = backend.emulated_features()
    return {
        name: "emulated" if name in emulated else "yes" if present else "no"
        for name, present in backend.cpu_features().items()
    }


def _chosen_kernels() -> dict[str, str]:
    """Layer -> the kernel that it runs on."""
    chosen = {}
    linear = ops.LinearWeight(*_weight(_CHANNELS, _CHANNELS))
    for rows in (1, 64):
        linear(_activations(rows, _CHANNELS), 1.0, 0, 1.0, 0, octavo.quint8)
        chosen[f"linear, {rows} x {_CHANNELS} to {_CHANNELS}"] = backend.last_kernel()
    for name, size, groups in (
        ("convolution 1x1", 1, 1),
        ("convolution 3x3", 3, 1),
        ("convolution 3x3, depthwise", 3, _CHANNELS),
    ):
        border = (size // 2, size // 2)
        weight = _weight(_CHANNELS, _CHANNELS // groups, size, size)
        convolution = ops.Conv2dWeight(*weight, (1, 1), border, (1, 1), groups)
        convolution(_activations(1, _CHANNELS, 8, 8), 1.0, 0, 1.0, 0, octavo.quint8)
        chosen[name] = backend.last_kernel()
    return chosen


def _weight(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    """Arguments for a packed weight: values, one scale, one zero point, no bias."""
    values = torch.zeros(shape, dtype=torch.int8)
    return values, torch.ones(1), torch.zeros(1, dtype=torch.int64), None


def _activations(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def _sections(info: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, rows of label and value) in the order of printing."""
    cpu, isa = info["cpu"], info["isa"]
    described = backend.feature_descriptions()
    features = [(f"{name}: {described[name]}", state) for name, state in cpu["features"].items()]
    chosen = isa["chosen"] + (f" (OCTAVO_ISA={isa['forced']})" if isa["forced"] else "")
    return [
        ("Versions", list(info["versions"].items())),
        ("CPU", [("model", cpu["model"]), ("architecture", cpu["architecture"])]),
        ("CPU features", features),
        (
            "ISA",
            [
                ("chosen", chosen),
                ("runnable", ", ".join(isa["runnable"])),
                *((name, f"lacks {', '.join(lack)}") for name, lack in isa["not runnable"].items()),
            ],
        ),
        ("Kernels chosen", list(info["kernels"]["chosen"].items())),
        ("Threads", [(name, str(value)) for name, value in info["threads"].items()]),
    ]


def _plain(sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    lines = []
    for title, rows in sections:
        lines.append(title)
        width = max(len(label) for label, _ in rows)
        lines.extend(f"  {label:<{width}}  {value}" for label, value in rows)
    return "\n".join(lines)


def _rich(sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    from rich.console import Console
    from rich.table import Table

    styles = {"yes": "green", "no": "dim", "emulated": "yellow"}
    console = Console()
    with console.capture() as captured:
        for title, rows in sections:
            table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
            for label, value in rows:
                table.add_row(label, value, style=styles.get(value))
            console.print(title, style="bold")
            console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
