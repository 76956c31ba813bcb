"""Whole networks, as :mod:`octavo.bench.models` defines them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from octavo.bench.cases.base import Case, Check, compare_floats
from octavo.bench.models import SMALL, Parts, find

_LEAST_DB = 5.0  # random weights: what matters is that it is the same network


@dataclass(frozen=True, kw_only=True)
class ModelCase(Case):
    """One network on one input.

    Attributes:
        model: a key of ``MODELS`` or ``SMALL``.
        size: pixels of one side of the image, or tokens.
    """

    kind: ClassVar[str] = "model"
    model: str
    batch: int
    size: int

    @property
    def mode(self) -> str:
        """``static`` or ``dynamic``: how it is quantized."""
        return find(self.model).mode

    @property
    def has_stubs(self) -> bool:
        """Whether the network is written for eager mode's static quantization."""
        return find(self.model).has_stubs

    def small(self) -> ModelCase:
        """A small network of the same modules."""
        name = find(self.model).small
        return ModelCase(command="", name=name, model=name, batch=1, size=SMALL[name].size)

    def network(self, parts: Parts) -> nn.Module:
        """A new float network with the case's weights."""
        network = find(self.model).build(parts).eval()
        network.load_state_dict(copy.deepcopy(_data(self)[0]))
        return network

    def input(self) -> Tensor:
        return _data(self)[1]

    def calibration(self) -> list[Tensor]:
        return [self.input()]

    def output_shape(self) -> tuple[int, ...]:
        return tuple(_data(self)[2].shape)

    def check(self, got: Tensor) -> Check:
        return compare_floats(got, _data(self)[2], _LEAST_DB)


@lru_cache(maxsize=1)
def _data(case: ModelCase) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = find(case.model).build(Parts.plain()).eval()
        x = find(case.model).example(case.batch, case.size)
    with torch.no_grad():
        return network.state_dict(), x, network(x)


def forget() -> None:
    """Lets go of weights and results that are kept for the next contender."""
    _data.cache_clear()
