"""``elementwise``: what moves bytes rather than multiplies."""

from __future__ import annotations

import argparse

from octavo.bench import machine
from octavo.bench.cases import Case, ElementwiseCase
from octavo.bench.cases.elementwise import BYTES
from octavo.bench.commands.base import Suite, Tell

_QUICK = {"tiny": 1000}


class Elementwise(Suite):
    name = "elementwise"
    help = "quantize, dequantize, requantize, add, mul, relu, sigmoid: bytes a second beside a copy"
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
            for place, size in (_QUICK if options.quick else _sizes()).items()
            for operation in BYTES
        ]


def _sizes() -> dict[str, int]:
    """Elements; even an operation that moves 2 bytes for each leaves the last cache at the end."""
    caches = machine.caches()
    return {
        "in L1": 4 * 1024,
        "in L2": 128 * 1024,
        "in memory": max(16 * 1024**2, caches[max(caches)] * 3 // 4),
    }


COMMAND = Elementwise()
