"""``elementwise``: what moves bytes rather than multiplies."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, ElementwiseCase
from octavo.bench.cases.elementwise import BYTES
from octavo.bench.commands.base import Suite, Tell

_SIZES = {"in L1": 4 * 1024, "in L2": 128 * 1024, "in memory": 32 * 1024 * 1024}
_QUICK = {"tiny": 1000}


class Elementwise(Suite):
    name = "elementwise"
    help = "quantize, dequantize, requantize, add, mul, relu: bytes a second beside a copy"
    order = 3
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            ElementwiseCase(
                command=self.name,
                name=f"{operation}, {place}",
                threads=options.threads,
                operation=operation,
                size=size,
            )
            for place, size in (_QUICK if options.quick else _SIZES).items()
            for operation in BYTES
        ]


COMMAND = Elementwise()
