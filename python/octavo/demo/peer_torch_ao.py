"""The same network quantized by ``torch.ao``, to be timed beside Octavo's.

This is the one file of the package that touches ``torch.ao``, only when the demo runs, and only
where torch still has it: every name is looked up at run time, and a torch without them means a
table without these rows.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octavo.demo.model import DigitsNet, Parts, fusable

_ENGINES = ("onednn", "x86", "fbgemm", "qnnpack")


@dataclass(frozen=True)
class Peer:
    """One engine: ``run`` maps images to logits, ``select`` makes the engine the current one."""

    name: str
    run: Callable[[Tensor], Tensor]
    select: Callable[[], None]


def _select(engine: str) -> None:
    torch.backends.quantized.engine = engine


def _convert(model: DigitsNet, calibration: Tensor, engine: str, ao: Any, ao_nn: Any) -> nn.Module:
    parts = Parts(ao.QuantStub, ao.DeQuantStub, ao_nn.FloatFunctional)
    twin = DigitsNet(parts).eval()
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    fused = ao.fuse_modules(twin, fusable(twin)).to(memory_format=torch.channels_last)
    fused.qconfig = ao.get_default_qconfig(engine)
    prepared = ao.prepare(fused)
    for images in torch.split(calibration, 32):
        prepared(images)
    converted: nn.Module = ao.convert(prepared)
    return converted


def build(model: DigitsNet, calibration: Tensor) -> tuple[list[Peer], dict[str, str]]:
    """Every engine of torch's static quantization in this build, and why others are left out.

    Args:
        model: the trained float network, before fusing.
        calibration: float32 [N, 1, 16, 16], the images that Octavo was calibrated with.
    """
    try:
        ao = importlib.import_module("torch.ao.quantization")
        ao_nn = importlib.import_module("torch.ao.nn.quantized")
        engines = list(torch.backends.quantized.supported_engines)
    except (ImportError, AttributeError) as error:
        return [], {"torch.ao": f"not in torch {torch.__version__} ({error})"}

    peers: list[Peer] = []
    missing: dict[str, str] = {}
    before = torch.backends.quantized.engine
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces the removal of what is compared here
        for engine in _ENGINES:
            name = f"torch.ao {engine}"
            if engine not in engines:
                missing[name] = "not in this torch build"
                continue
            try:
                _select(engine)
                converted = _convert(model, calibration, engine, ao, ao_nn)
                converted(calibration[:1])
            except (AttributeError, RuntimeError) as error:
                missing[name] = str(error).strip().split("\n")[0]
                continue
            peers.append(Peer(name, converted, lambda engine=engine: _select(engine)))  # type: ignore[misc]
        _select(before)
    return peers, missing
