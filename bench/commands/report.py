"""``report``: what bench/RESULTS.md holds. Runs where no subcommand is given."""

from __future__ import annotations

import argparse

from octavo.bench.cases import Case
from octavo.bench.commands.base import Suite, Tell


class Report(Suite):
    name = "report"
    help = "all but peak together (also without a subcommand)"
    order = 9

    def cases(self, options: argparse.Namespace, tell: Tell) -> list[Case]:
        from octavo.bench.commands import all_commands

        suites = [c for c in all_commands().values() if isinstance(c, Suite) and c.in_report]
        return [case for suite in suites for case in suite.report_cases(options, tell)]


COMMAND = Report()
