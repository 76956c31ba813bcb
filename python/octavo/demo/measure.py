"""Accuracy, size, latency, and the error that each layer adds up to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from octavo import QTensor, backend

_EVALUATION_BATCH = 64
_SHORTEST_ROUND_S = 0.01


def accuracy(run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """The share of right answers, in percent."""
    with torch.inference_mode():
        right = sum(
            (run(x).argmax(1) == y).sum().item()
            for x, y in zip(
                torch.split(images, _EVALUATION_BATCH),
                torch.split(labels, _EVALUATION_BATCH),
                strict=True,
            )
        )
    return 100.0 * right / len(labels)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a state dict in two file formats."""

    torch_save: int
    safetensors: int


def save(state: dict[str, Tensor], folder: Path, name: str) -> Sizes:
    """Writes ``name.pt`` and ``name.safetensors`` into ``folder``."""
    plain = folder / f"{name}.pt"
    safe = folder / f"{name}.safetensors"
    torch.save(state, plain)
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, safe)
    return Sizes(plain.stat().st_size, safe.stat().st_size)


@dataclass(frozen=True)
class Contender:
    """Something to time; ``select`` runs, untimed, before each round (for global settings)."""

    name: str
    run: Callable[[Tensor], Tensor]
    select: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call: median and interquartile range over the rounds."""

    median: float
    iqr: float


def latency(contenders: Sequence[Contender], images: Tensor, rounds: int) -> dict[str, Latency]:
    """Times every contender on the same batch, in turn, ``rounds`` times.

    Taking turns spreads whatever else the machine is doing over all contenders alike. Runs on as
    many threads as torch is set to.
    """
    timers: list[tuple[Contender, Timer, int]] = []
    threads = torch.get_num_threads()
    with torch.inference_mode():
        for contender in contenders:
            contender.select()
            timer = Timer(
                "run(x)", globals={"run": contender.run, "x": images}, num_threads=threads
            )
            once = timer.timeit(3).mean
            timers.append((contender, timer, max(1, math.ceil(_SHORTEST_ROUND_S / once))))
        samples: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(rounds):
            for contender, timer, number in timers:
                contender.select()
                samples[contender.name].append(1e3 * timer.timeit(number).mean)
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values: list[float]) -> Latency:
    first, _, third = statistics.quantiles(values, n=4)
    return Latency(statistics.median(values), third - first)


@dataclass(frozen=True)
class Layer:
    """One row of the per-layer table."""

    name: str
    kind: str
    kernel: str
    sqnr_db: float


def layers(float_model: nn.Module, int8_model: nn.Module, images: Tensor) -> list[Layer]:
    """Signal-to-quantization-noise ratio of each module's output, in the order of execution.

    Both models run on ``images``; a module's ratio holds the error of everything before it as well.
    Compared are modules that have the same name in both models, without those that fusing emptied.
    """
    wanted = _record(float_model, images)
    rows = []
    for name, (kind, kernel, got) in _record(int8_model, images).items():
        if name in wanted and kind != "Identity":
            rows.append(Layer(name, kind, kernel, _sqnr(wanted[name][2], got)))
    return rows


def _record(model: nn.Module, images: Tensor) -> dict[str, tuple[str, str, Tensor]]:
    """Name -> (type, kernel of a linear or convolution, output as float32), in execution order."""
    seen: dict[str, tuple[str, str, Tensor]] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, QTensor):
                kernel = backend.last_kernel() if hasattr(module, "weight") else ""
                seen[name] = (type(module).__name__, kernel, output.dequantize())
            elif isinstance(output, Tensor):
                seen[name] = (type(module).__name__, "", output.detach().clone())

        return hook

    handles = [
        module.register_forward_hook(hook_for(name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _sqnr(wanted: Tensor, got: Tensor) -> float:
    noise = float((wanted.double() - got.double()).square().sum())
    signal = float(wanted.double().square().sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether shape, dtype and every bit agree (so NaN equals NaN, and 0.0 differs from -0.0)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.contiguous(), b.contiguous()
    if a.dtype == torch.float32:
        a, b = a.view(torch.int32), b.view(torch.int32)
    return torch.equal(a, b)
