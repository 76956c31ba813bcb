"""``embedding``: look-ups and sums of bags in quantized tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from octavo.bench.cases import Case, EmbeddingCase
from octavo.bench.commands.base import Suite, Tell

_Shape = tuple[int, int, int, int]
# Rows, columns, bags and their length: tables that the caches hold, and one that they do not.
_REPORT_SHAPES: list[_Shape] = [
    (500, 64, 256, 40),
    (20_000, 128, 256, 40),
    (1_000_000, 128, 2048, 80),
    (1_000_000, 128, 65536, 1),
]
_SHAPES: list[_Shape] = [
    *_REPORT_SHAPES[:1],
    (500, 64, 4096, 1),
    _REPORT_SHAPES[1],
    (1_000_000, 64, 2048, 80),
    *_REPORT_SHAPES[2:],
]


class Embedding(Suite):
    name = "embedding"
    help = "look-ups and sums of bags in 8- and 4-bit embedding tables, beside a copy"
    order = 5
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return self._cases(options, _SHAPES)

    def report_cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return self._cases(options, _REPORT_SHAPES)

    def _cases(self, options: argparse.Namespace, shapes: Sequence[_Shape]) -> list[Case]:
        return [
            EmbeddingCase(
                command=self.name,
                name=f"int{bits}, {rows}x{columns}, {bags} bags of {length}",
                threads=options.threads,
                bits=bits,
                rows=rows,
                columns=columns,
                bags=bags,
                length=length,
            )
            for rows, columns, bags, length in ([(50, 16, 4, 5)] if options.quick else shapes)
            for bits in (8, 4)
        ]


COMMAND = Embedding()
