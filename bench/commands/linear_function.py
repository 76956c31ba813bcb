"""``linear_function``: linear layers with an activation function in the same call."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, LinearFunctionCase
from octavo.bench.cases.linear_function import OUTPUTS
from octavo.bench.cases.shapes import LinearShape, select
from octavo.bench.commands.base import Suite, Tell, add_shapes

_SHAPES = ["1x768x768", "16x768x768", "128x768x768", "128x768x3072"]
_QUICK = ["1x32x48", "5x24x17"]


class LinearFunction(Suite):
    name = "linear_function"
    help = "Linear and LeakyReLU or Tanh as one module, quantized in and out"
    order = 1
    in_report = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_shapes(parser, "sizes of BERT-base")
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        files, singles = getattr(options, "shapes", []), getattr(options, "shape", [])
        if not files and not singles:
            singles = _QUICK if options.quick else _SHAPES
        shapes = select(LinearShape, files, singles, "", tell)
        return [
            LinearFunctionCase(
                command=self.name,
                name=f"{function} {_title(shape)}",
                threads=options.threads,
                function=function,
                m=shape.m,
                k=shape.k,
                n=shape.n,
            )
            for function in OUTPUTS
            for shape in shapes
            if isinstance(shape, LinearShape)
        ]


def _title(shape: LinearShape) -> str:
    sizes = f"{shape.m}x{shape.k}x{shape.n}"
    return sizes if shape.name == sizes else f"{shape.name} {sizes}"


COMMAND = LinearFunction()
