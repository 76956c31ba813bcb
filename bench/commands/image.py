"""``image``: pooling, upsampling and concatenation."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, ImageCase
from octavo.bench.commands.base import Suite, Tell

# Operation and (channels, height, width), as networks have them.
_SHAPES = [
    ("max_pool 3x3 / 2", (64, 112, 112)),
    ("max_pool 2x2 / 2", (64, 256, 256)),
    ("max_pool 5x5", (256, 20, 20)),
    ("avg_pool 3x3", (192, 35, 35)),
    ("global average", (2048, 7, 7)),
    ("global average", (1280, 7, 7)),
    ("nearest x2", (256, 40, 40)),
    ("bilinear x2", (256, 32, 32)),
    ("bilinear x2 aligned", (64, 128, 128)),
    ("cat", (64, 128, 128)),
    ("cat", (256, 28, 28)),
]


class Image(Suite):
    name = "image"
    help = "pooling, upsampling and concatenation, channels last: bytes a second beside a copy"
    order = 4
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            ImageCase(
                command=self.name,
                name=f"{operation}, {shape[0]}x{shape[1]}x{shape[2]}",
                threads=options.threads,
                operation=operation,
                channels=shape[0],
                height=shape[1],
                width=shape[2],
            )
            for operation, shape in (_quick() if options.quick else _SHAPES)
        ]


def _quick() -> list[tuple[str, tuple[int, int, int]]]:
    return [(operation, (16, 8, 8)) for operation in dict(_SHAPES)]


COMMAND = Image()
