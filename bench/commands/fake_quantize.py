"""``fake_quantize``: a step of quantization-aware training."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, FakeQuantizeCase
from octavo.bench.commands.base import Suite, Tell

_Shape = tuple[int, ...]
# Of activations, per tensor, and of weights, per channel: from the cost of a call to beyond caches.
_TENSORS: list[_Shape] = [(8, 128), (128, 768), (8, 64, 56, 56), (32, 256, 56, 56)]
_WEIGHTS: list[_Shape] = [(64, 16), (256, 64, 3, 3), (3072, 768)]
_QUICK_TENSORS: list[_Shape] = [(5, 40)]
_QUICK_WEIGHTS: list[_Shape] = [(6, 4, 3, 3)]


class FakeQuantize(Suite):
    name = "fake_quantize"
    help = "fake-quantize modules of training, forward and backward, beside torch's fused operation"
    order = 6
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        tensors, weights = (
            (_QUICK_TENSORS, _QUICK_WEIGHTS) if options.quick else (_TENSORS, _WEIGHTS)
        )
        shapes = [(shape, False) for shape in tensors] + [(shape, True) for shape in weights]
        return [
            FakeQuantizeCase(
                command=self.name,
                name=_name(shape, per_channel, observes, backward),
                threads=options.threads,
                shape=shape,
                per_channel=per_channel,
                observes=observes,
                backward=backward,
            )
            for shape, per_channel in shapes
            for observes in (True, False)
            for backward in (False, True)
        ]


def _name(shape: _Shape, per_channel: bool, observes: bool, backward: bool) -> str:
    text = "x".join(str(size) for size in shape)
    text += " per channel" if per_channel else ""
    text += ", observed" if observes else ", frozen"
    return text + (", and backward" if backward else "")


COMMAND = FakeQuantize()
