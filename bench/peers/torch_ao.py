"""``torch.ao.quantization``'s modules for calibration and training, on torch's float kernels."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from octavo.bench.cases import CalibrationCase, Case, FakeQuantizeCase
from octavo.bench.peers.base import Peer, Prepared, Unavailable


class TorchAo(Peer):
    """What there is of torch's before any engine runs."""

    name = "torch_ao"
    order = 7

    def missing(self) -> str | None:
        if importlib.util.find_spec("torch.ao") is None or not hasattr(torch, "quint8"):
            return f"torch {torch.__version__} has no torch.ao.quantization any more"
        return None

    def applies_to(self, kind: str) -> bool:
        return hasattr(self, f"prepare_{kind}")

    def prepare(self, case: Case) -> Prepared | Unavailable:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of it
            return super().prepare(case)

    def prepare_fake_quantize(self, case: FakeQuantizeCase) -> Prepared:
        return Prepared(case.work(case.module(_library(), torch)), torch.stack)

    def prepare_calibration(self, case: CalibrationCase) -> Prepared:
        library = _library()
        return Prepared(lambda: case.work(library), _stacked)


def _library() -> Any:
    return importlib.import_module("torch.ao.quantization")


def _stacked(qparams: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([part.double() for part in qparams])


PEERS: list[Peer] = [TorchAo()]
