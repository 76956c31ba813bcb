"""``peak``: the machine's limits alone."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case
from octavo.bench.commands.base import Suite, Tell


class Peak(Suite):
    name = "peak"
    help = "the machine's limits alone: arithmetic of each level, bandwidth of each cache"
    order = 7

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        return []


COMMAND = Peak()
