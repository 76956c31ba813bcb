"""``attention``: scaled dot-product attention."""

from __future__ import annotations

import argparse

from octavo.bench.cases import AttentionCase, Case
from octavo.bench.commands.base import Suite, Tell

# Heads, tokens and size of a head.
_NETWORKS = {
    "BERT-base": [(12, 128, 64), (12, 512, 64)],
    "ViT-B/16": [(12, 197, 64)],
    "MiniLM": [(12, 128, 32)],
}
_BATCHES = (1, 8)
_QUICK = {"tiny": [(2, 7, 8)], "odd": [(3, 19, 20)]}


class Attention(Suite):
    name = "attention"
    help = "scaled dot-product attention between projections, u8 to u8"
    order = 3
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            AttentionCase(
                command=self.name,
                name=f"{network}, {batch}x{heads}x{tokens}x{size}",
                threads=options.threads,
                batch=batch,
                heads=heads,
                tokens=tokens,
                size=size,
            )
            for network, shapes in (_QUICK if options.quick else _NETWORKS).items()
            for heads, tokens, size in shapes
            for batch in _BATCHES
        ]


COMMAND = Attention()
