"""``rnn``: dynamic LSTM and GRU."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case, RnnCase
from octavo.bench.commands.base import Suite, Tell

_SIZES = ((32, 1, 512), (128, 1, 1024), (32, 16, 512))  # time steps, batch, hidden
_QUICK = ((3, 2, 16),)


class Rnn(Suite):
    name = "rnn"
    help = "dynamic LSTM and GRU, two layers"
    order = 4
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return [
            RnnCase(
                command=self.name,
                name=f"{cell} {steps},{batch},{hidden}",
                threads=options.threads,
                cell=cell,
                steps=steps,
                batch=batch,
                hidden=hidden,
            )
            for steps, batch, hidden in (_QUICK if options.quick else _SIZES)
            for cell in ("LSTM", "GRU")
        ]


COMMAND = Rnn()
