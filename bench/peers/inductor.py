"""torchao's PT2E flow with its quantizer for x86, compiled by torch's Inductor: oneDNN's integer
kernels and generated C++."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import torch

from octavo.bench.cases import ModelCase
from octavo.bench.models import Parts
from octavo.bench.peers.base import Peer, Prepared, Unavailable

_PT2E = "torchao.quantization.pt2e"


class Inductor(Peer):
    """`prepare_pt2e`, `convert_pt2e` with `X86InductorQuantizer`, then `torch.compile` with
    freezing, as torch's tutorial has it."""

    name = "inductor"
    order = 8

    def missing(self) -> str | None:
        if importlib.util.find_spec("torchao") is None:
            return 'not installed: torchao (pip install "octavo[graphs]")'
        return None

    def applies_to(self, kind: str) -> bool:
        return kind == ModelCase.kind

    def prepare_model(self, case: ModelCase) -> Prepared | Unavailable:
        if case.has_stubs or case.mode == "dynamic":
            return Unavailable("compared on static transformers only: it takes minutes to compile")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled, x = _compiled(case), case.input()
            with torch.no_grad():
                compiled(x)  # compiles

        def call() -> Any:
            with torch.no_grad():
                return compiled(x)

        return Prepared(call)


def _compiled(case: ModelCase) -> Any:
    config: Any = importlib.import_module("torch._inductor.config")
    config.freezing = True
    flow: Any = importlib.import_module(f"{_PT2E}.quantize_pt2e")
    quantizers: Any = importlib.import_module(f"{_PT2E}.quantizer.x86_inductor_quantizer")
    x = (case.input(),)
    # Frozen weights may not be inference tensors, and neither may what export sees.
    with torch.inference_mode(False), torch.no_grad():
        exported = torch.export.export(case.network(Parts.plain()), x).module()
        quantizer = quantizers.X86InductorQuantizer()
        quantizer.set_global(quantizers.get_default_x86_inductor_quantization_config())
        prepared = flow.prepare_pt2e(exported, quantizer)
        for batch in case.calibration():
            prepared(batch)
        return torch.compile(flow.convert_pt2e(prepared))


PEERS: list[Peer] = [Inductor()]
