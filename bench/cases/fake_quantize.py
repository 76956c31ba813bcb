"""A step of quantization-aware training: a fake-quantize module and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import Case, Check, generator

AVERAGING = 0.01
_LEAST_SCALE = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class FakeQuantizeCase(Case):
    """``FusedMovingAvgObsFakeQuantize`` on float32 of ``shape``: uint8 and affine, or int8,
    symmetric, per channel of the first dimension.

    Attributes:
        observes: moves its range, and takes scale and zero point from it, before it rounds.
        backward: takes the gradient, too.
    """

    kind: ClassVar[str] = "fake_quantize"
    trains: ClassVar[bool] = True
    shape: tuple[int, ...]
    per_channel: bool
    observes: bool
    backward: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def traffic(self) -> int:
        """Values in and out, read once more to observe them; of the gradient the same, and a byte
        to mask each value with, written and read."""
        each = 8 + (4 if self.observes else 0) + (10 if self.backward else 0)
        return each * int(torch.Size(self.shape).numel())

    @property
    def must_be_exact(self) -> bool:
        return True

    @property
    def levels(self) -> tuple[int, int]:
        return (-128, 127) if self.per_channel else (0, 255)

    def module(self, library: Any, names: Any) -> Any:
        """A module that has seen one batch.

        Args:
            library: Octavo's or torch's ``quantization``.
            names: where that has its dtypes and schemes.
        """
        kind = "MovingAveragePerChannelMinMaxObserver" if self.per_channel else None
        low, high = self.levels
        made = library.FusedMovingAvgObsFakeQuantize(
            getattr(library, kind or "MovingAverageMinMaxObserver"),
            low,
            high,
            dtype=names.qint8 if self.per_channel else names.quint8,
            qscheme=names.per_channel_symmetric if self.per_channel else names.per_tensor_affine,
            averaging_constant=AVERAGING,
            **({"ch_axis": 0} if self.per_channel else {}),
        )
        made(data(self).before)
        if not self.observes:
            made.disable_observer()
        return made

    def work(self, module: Any) -> Callable[[], Any]:
        """What to time: gives the result, and the gradient where there is one."""
        d = data(self)
        if not self.backward:
            return lambda: (module(d.x),)
        x = d.x.clone().requires_grad_()

        def step() -> tuple[Tensor, Tensor]:
            out = module(x)
            (gradient,) = torch.autograd.grad(out, x, d.gradient)
            return out, gradient

        return step

    def check(self, got: Tensor) -> Check:
        reference = expected(self)
        if got.shape != reference.results.shape:
            return Check(f"gives shape {tuple(got.shape)}", False, False)
        if torch.equal(got, reference.results):
            return Check("exact", True, True)
        steps = float(((got[0] - reference.results[0]).abs() / reference.scale).max())
        if not steps < 1.01:
            return Check(f"up to {steps:.1f} steps off", False, False)
        if bool(((got[1:] != reference.results[1:]) & ~reference.is_at_end).any()):
            return Check("gives another gradient", False, False)
        return Check("within 1 step", False, True)


@dataclass(frozen=True)
class FakeQuantizeData:
    """Attributes:
    before: float32, what the module has seen.
    x: float32, of a range that is wider by a quarter.
    gradient: float32, of the result.
    """

    before: Tensor
    x: Tensor
    gradient: Tensor


@lru_cache(maxsize=1)
def data(case: FakeQuantizeCase) -> FakeQuantizeData:
    random = generator(*case.shape)
    x, gradient = (torch.randn(case.shape, generator=random) for _ in range(2))
    return FakeQuantizeData(x * 0.8, x, gradient)


@dataclass(frozen=True)
class FakeQuantizeReference:
    """Attributes:
    results: the rounded values and, where the case has it, the gradient, stacked.
    scale: of each value.
    is_at_end: which values lie within a step of the ends of the range, where another rounding of
        the scale decides whether they are inside.
    """

    results: Tensor
    scale: Tensor
    is_at_end: Tensor


@lru_cache(maxsize=1)
def expected(case: FakeQuantizeCase) -> FakeQuantizeReference:
    """Float32 in the normative order of operations."""
    d = data(case)
    low, high = _extremes(case, d.before)
    if case.observes:
        new_low, new_high = _extremes(case, d.x)
        low, high = low + AVERAGING * (new_low - low), high + AVERAGING * (new_high - high)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    first, last = case.levels
    if case.per_channel:
        scale = torch.maximum(-low, high) / ((last - first) / 2)
        zero = torch.zeros_like(scale)
    else:
        scale = (high - low) / (last - first)
        zero = (first - (low / scale).round()).clamp(first, last)
    scale = scale.clamp(min=_LEAST_SCALE)
    steps = (d.x * (1 / scale)).round() + zero
    out = (steps.clamp(first, last) - zero) * scale
    is_inside = (steps >= first) & (steps <= last)
    results = [out, d.gradient * is_inside] if case.backward else [out]
    is_at_end = ((steps - first).abs() <= 1) | ((steps - last).abs() <= 1)
    return FakeQuantizeReference(torch.stack(results), scale, is_at_end)


def _extremes(case: FakeQuantizeCase, x: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcast against ``x``."""
    if not case.per_channel:
        return x.amin(), x.amax()
    others = tuple(range(1, x.dim()))
    return x.amin(others, keepdim=True), x.amax(others, keepdim=True)
