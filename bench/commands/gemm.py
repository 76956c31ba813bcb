"""``gemm``: the linear operator on plain tensors, uint8 to uint8."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, LinearCase
from octavo.bench.cases.shapes import LinearShape, select
from octavo.bench.commands.base import Suite, Tell, add_shapes

_QUICK = ["1x32x48", "5x24x17"]


class Gemm(Suite):
    name = "gemm"
    help = "the linear operator on plain tensors, uint8 to uint8"
    order = 0
    in_report = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_shapes(parser, "gemm")
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        files, singles = getattr(options, "shapes", []), getattr(options, "shape", [])
        if options.quick and not files:
            singles = singles or _QUICK
        return [
            LinearCase(
                command=self.name,
                name=shape.name,
                threads=options.threads,
                m=shape.m,
                k=shape.k,
                n=shape.n,
            )
            for shape in select(LinearShape, files, singles, "gemm", tell)
            if isinstance(shape, LinearShape)
        ]


COMMAND = Gemm()
