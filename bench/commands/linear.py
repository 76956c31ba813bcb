"""``linear``: modules as users call them, static and dynamic."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, LinearCase
from octavo.bench.cases.shapes import LinearShape, select
from octavo.bench.commands.base import Suite, Tell, add_shapes

_QUICK = ["1x32x48", "5x24x17"]


class Linear(Suite):
    name = "linear"
    help = "nn modules, static (quantized in and out) or dynamic (float in and out)"
    order = 1
    in_report = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--mode", choices=("static", "dynamic", "both"), default="both", help="default: both"
        )
        add_shapes(parser, "bert_base")
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        files, singles = getattr(options, "shapes", []), getattr(options, "shape", [])
        if options.quick and not files:
            singles = singles or _QUICK
        mode = getattr(options, "mode", "both")
        modes = ("static", "dynamic") if mode == "both" else (mode,)
        shapes = select(LinearShape, files, singles, "bert_base", tell)
        return [
            LinearCase(
                command=self.name,
                name=f"{_title(shape)}, {mode}",
                threads=options.threads,
                m=shape.m,
                k=shape.k,
                n=shape.n,
                mode=mode,
                entry="module",
            )
            for mode in modes
            for shape in shapes
            if isinstance(shape, LinearShape)
        ]


def _title(shape: LinearShape) -> str:
    sizes = f"{shape.m}x{shape.k}x{shape.n}"
    return sizes if shape.name == sizes else f"{shape.name} {sizes}"


COMMAND = Linear()
