"""Does the converted network give the same bits on every ISA and number of threads?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octavo import QTensor, backend
from octavo.demo.measure import same_bits


@dataclass(frozen=True)
class IsaRun:
    """One run; ``differs`` names the first module whose output is not the first run's, if any."""

    isa: str
    threads: int
    modules: int
    differs: str


def not_runnable() -> list[str]:
    """The ISAs that are built in but that this CPU does not run."""
    return [isa for isa in backend.built() if isa not in backend.supported()]


def check(model: nn.Module, images: Tensor) -> list[IsaRun]:
    """Runs ``model`` once per ISA and thread count and compares every module's output.

    Slowest ISA first: that run (the scalar kernels on one thread) is what the others must equal.
    """
    threads_before = torch.get_num_threads()
    reference: dict[str, Tensor] = {}
    runs: list[IsaRun] = []
    try:
        for isa in reversed(backend.supported()):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                with backend.force(isa):
                    outputs = _integers(model, images)
                reference = reference or outputs
                differs = next(
                    (name for name in reference if not same_bits(reference[name], outputs[name])),
                    "",
                )
                runs.append(IsaRun(isa, threads, len(outputs), differs))
    finally:
        torch.set_num_threads(threads_before)
    return runs


def _integers(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Every module's output: the integers of a quantized tensor, or the float tensor itself."""
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            outputs[name] = output.int_repr() if isinstance(output, QTensor) else output.clone()

        return hook

    handles = [m.register_forward_hook(hook_for(name)) for name, m in model.named_modules()]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
