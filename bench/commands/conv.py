"""``conv``: 2-D convolutions and transposed ones, uint8 to uint8."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, ConvCase, ConvTransposeCase
from octavo.bench.cases.shapes import ConvShape, select
from octavo.bench.commands.base import Suite, Tell, add_shapes

_QUICK = [
    "1x8x6x6 out=12 kernel=3 padding=1",
    "1x8x6x6 out=8 kernel=3 padding=1 groups=8",
    "1x8x6x6 out=12 kernel=2 stride=2 transposed=1",
]


class Conv(Suite):
    name = "conv"
    help = "2-D convolutions, uint8 to uint8, channels last"
    order = 2
    in_report = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_shapes(parser, "conv")
        super().add_arguments(parser)

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        files, singles = getattr(options, "shapes", []), getattr(options, "shape", [])
        if options.quick and not files:
            singles = singles or _QUICK
        tell("conv: ort and openvino take their input channels first and reorder it themselves")
        return [
            (ConvTransposeCase if shape.transposed else ConvCase)(
                command=self.name,
                name=shape.name,
                threads=options.threads,
                batch=shape.batch,
                channels=shape.channels,
                height=shape.height,
                width=shape.width,
                out=shape.out,
                kernel=shape.kernel,
                stride=shape.stride,
                padding=shape.padding,
                groups=shape.groups,
                dilation=shape.dilation,
            )
            for shape in select(ConvShape, files, singles, "conv", tell)
            if isinstance(shape, ConvShape)
        ]


COMMAND = Conv()
