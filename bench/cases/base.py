"""What every case has, and how a result is judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

_KINDS: dict[str, type[Case]] = {}


@dataclass(frozen=True)
class Check:
    """How a result compares with the reference.

    Attributes:
        text: for people, such as ``exact`` or ``within 1 step``.
        exact: equal to the last bit.
        close: the same function up to rounding; where not, the time is of other arithmetic.
    """

    text: str
    exact: bool
    close: bool


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One thing to compute, the same for every contender.

    Attributes:
        command: the subcommand it belongs to.
        name: unique within the subcommand.
        threads: torch threads to run on.
        trains: needs gradients, which are switched off for all others.
    """

    kind: ClassVar[str]
    trains: ClassVar[bool] = False
    command: str
    name: str
    threads: int = 1

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    def parameters(self) -> dict[str, Any]:
        """What defines the case within its kind, as plain JSON types."""
        common = {"command", "name", "threads"}
        return {key: value for key, value in asdict(self).items() if key not in common}

    def encode(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def decode(fields: dict[str, Any]) -> Case:
        fields = dict(fields)
        return _KINDS[fields.pop("kind")](**fields)

    @property
    def operations(self) -> int:
        """Integer operations: 2 for each multiply-accumulate; 0 where they do not matter."""
        return 0

    @property
    def traffic(self) -> int:
        """Bytes that int8 arithmetic has to read and write at least once; 0 where unknown."""
        return 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of int8 weights."""
        return 0

    @property
    def must_be_exact(self) -> bool:
        """Whether Octavo's result has to equal the reference to the last bit."""
        return False

    @property
    def is_bandwidth_bound(self) -> bool:
        """Whether every weight is used once only, so that reading them is the limit."""
        return False

    @property
    def only_reads(self) -> bool:
        """Whether all of ``traffic`` is reading."""
        return False

    @abstractmethod
    def check(self, got: Tensor) -> Check:
        """Compares a contender's result, as its :class:`Prepared` gives it, with the reference."""


def compare_integers(got: Tensor, expected: Tensor) -> Check:
    """Steps between two 8-bit results."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return Check(f"gives {got.dtype} of shape {tuple(got.shape)}", False, False)
    steps = (got.int() - expected.int()).abs()
    worst = int(steps.max()) if steps.numel() else 0
    if worst <= 1:
        return Check("exact" if worst == 0 else "within 1 step", worst == 0, True)
    share = float((steps > 1).double().mean())
    return Check(f"up to {worst} steps off, {100 * share:.2g} % of the elements", False, False)


def compare_floats(got: Tensor, expected: Tensor, least_db: float) -> Check:
    """Signal-to-noise ratio of a float result."""
    if got.shape != expected.shape:
        return Check(f"gives shape {tuple(got.shape)}", False, False)
    noise = float((got.double() - expected.double()).square().sum())
    signal = float(expected.double().square().sum())
    if noise == 0.0:
        return Check("exact", True, True)
    ratio = 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
    return Check(f"{ratio:.0f} dB to float64", False, ratio >= least_db)


def quantize(values: Tensor, scale: float, zero: int) -> Tensor:
    """To uint8, rounded once, in the dtype of ``values``."""
    return (values / scale).round().add(zero).clamp(0, 255).to(torch.uint8)


def requantize(acc: Tensor, multiplier: Tensor, zero: int) -> Tensor:
    """The normative last step: float32, one rounding for each operation, to uint8.

    Args:
        acc: exact integers as float64.
        multiplier: float32, broadcast against ``acc``.
    """
    steps = acc.float() * multiplier
    return (steps.clamp(-zero, 255 - zero).round() + zero).to(torch.uint8)


def generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(seed))
