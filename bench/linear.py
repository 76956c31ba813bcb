"""Static quantized linear: u8 activations, s8 weights per channel, u8 output."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch.utils.benchmark import Timer

import octavo
from octavo import backend, ops
from octavo.bench import machine, peers

X_SCALE, X_ZERO, OUT_SCALE, OUT_ZERO = 0.02, 100, 0.5, 120


@dataclass
class Measurement:
    """One shape under one instruction set; times are medians in microseconds."""

    m: int
    k: int
    n: int
    kernel: str
    times: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)  # interquartile range / median

    @property
    def gops(self) -> float:
        """Octavo's 10^9 operations a second."""
        return 2e-3 * self.m * self.k * self.n / self.times["octavo"]


def parse_shape(text: str) -> tuple[int, int, int]:
    """``MxKxN`` as three integers.

    Raises:
        ValueError: any other form.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise ValueError(f"shape {text!r}: expected MxKxN, for example 128x768x3072")
    m, k, n = (int(p) for p in parts)
    return m, k, n


def check(weight: ops.LinearWeight, x: torch.Tensor, plain: torch.Tensor) -> None:
    """Compare the result with exact integer arithmetic before anything is timed.

    Raises:
        AssertionError: any element differs.
    """
    acc = (x.double() - X_ZERO) @ plain.double().t()  # exact: sums stay below 2^53
    product = torch.tensor(X_SCALE) * weight.scales
    steps = acc.float() * (product / torch.tensor(OUT_SCALE))
    expected = steps.clamp(-OUT_ZERO, 255 - OUT_ZERO).round() + OUT_ZERO
    got = weight(x, X_SCALE, X_ZERO, OUT_SCALE, OUT_ZERO, octavo.quint8)
    assert torch.equal(got, expected.to(torch.uint8)), f"wrong result for {tuple(x.shape)}"


def measure(shape: tuple[int, int, int], rounds: int, seconds: float) -> Measurement:
    """Time Octavo and its peers in turn, round after round, so that a busy machine is busy for all
    of them."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(m + k + n)
    x = torch.randint(0, 256, (m, k), generator=generator).to(torch.uint8)
    plain = torch.randint(-128, 128, (n, k), generator=generator).to(torch.int8)
    scales = torch.rand(n, generator=generator) * 0.01 + 0.005
    weight = ops.LinearWeight(plain, scales, torch.zeros(n), None)
    check(weight, x, plain)
    result = Measurement(m, k, n, backend.last_kernel())
    calls: dict[str, Callable[[], object]] = {
        "octavo": lambda: weight(x, X_SCALE, X_ZERO, OUT_SCALE, OUT_ZERO, octavo.quint8)
    }
    for engine in peers.TORCH_ENGINES:
        if engine not in peers.missing():
            calls[engine] = peers.torch_linear(
                engine, x, plain, scales, X_SCALE, X_ZERO, OUT_SCALE, OUT_ZERO
            )
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        for name, call in calls.items()
    }
    repeats = {
        name: max(1, int(seconds / rounds / max(t.timeit(1).median, 1e-7)))
        for name, t in timers.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            samples[name].append(timer.timeit(repeats[name]).median * 1e6)
    for name, times in samples.items():
        low, middle, high = statistics.quantiles(times, n=4)
        result.times[name] = middle
        result.spread[name] = (high - low) / middle
    return result


def run(shapes: list[tuple[int, int, int]], rounds: int, seconds: float) -> dict[str, object]:
    """All shapes under the instruction set in use, with its measured peak, as plain JSON types."""
    peak = machine.measure_peak()
    rows = [measure(shape, rounds, seconds) for shape in shapes]
    return {
        "isa": backend.current(),
        "emulated": backend.emulated_features(),
        "peak_gops": peak,
        "threads": torch.get_num_threads(),
        "missing_peers": peers.missing(),
        "linear": [{**asdict(row), "gops": row.gops} for row in rows],
    }
