"""Dynamic recurrent networks: float32 in and out, weights in int8."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from octavo.bench.cases.base import Case, Check, compare_floats

_GATES = {"LSTM": 4, "GRU": 3}
_LEAST_DB = 15.0  # errors of 7-bit activations add up over the steps


@dataclass(frozen=True, kw_only=True)
class RnnCase(Case):
    """``steps`` time steps of ``batch`` sequences through ``layers`` layers of ``hidden`` units."""

    kind: ClassVar[str] = "rnn"
    cell: str
    steps: int
    batch: int
    hidden: int
    layers: int = 2

    @property
    def operations(self) -> int:
        return 2 * self.steps * self.batch * self.weight_bytes

    @property
    def traffic(self) -> int:
        return self.weight_bytes + 8 * self.steps * self.batch * self.hidden

    @property
    def weight_bytes(self) -> int:
        return self.layers * 2 * _GATES[self.cell] * self.hidden**2

    def network(self) -> nn.Module:
        """A new float network with the case's weights."""
        return copy.deepcopy(_data(self)[0])

    def input(self) -> Tensor:
        """float32 (steps, batch, hidden)."""
        return _data(self)[1]

    def check(self, got: Tensor) -> Check:
        return compare_floats(got, _data(self)[2], _LEAST_DB)


@lru_cache(maxsize=1)
def _data(case: RnnCase) -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.hidden + case.steps)
        make: type[nn.Module] = getattr(nn, case.cell)
        network = make(case.hidden, case.hidden, case.layers).eval()
        x = torch.randn(case.steps, case.batch, case.hidden)
    with torch.no_grad():
        return network, x, network(x)[0]
