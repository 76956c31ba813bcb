"""``overhead``: calls so small that only the way in and out counts."""

from __future__ import annotations

import argparse

from octavo.bench import machine
from octavo.bench.cases import Case, LinearCase
from octavo.bench.commands.base import Suite, Tell


class Overhead(Suite):
    name = "overhead"
    help = "a call of 1x32 to 64, through nn.Module.__call__ and as an operator"
    order = 5
    in_report = True

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        threads = dict.fromkeys((options.threads, machine.cores()))
        return [
            LinearCase(
                command=self.name,
                name=f"{mode} {entry}" + (f", {count} threads" if count > 1 else ""),
                threads=count,
                m=1,
                k=32,
                n=64,
                mode=mode,
                entry=entry,
            )
            for count in threads
            for mode in ("static", "dynamic")
            for entry in ("module", "operator")
        ]


COMMAND = Overhead()
