"""Results as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

HEADER = """# Measured results

Written by `python -m octavo.bench --markdown bench/RESULTS.md`; run it to get the figures of your
own machine.

Each row times Octavo and its peers in turn in one process; medians of {rounds} rounds, {threads}
thread(s). Peers are kept to the instruction set of the row. *Peak* is the multiply-accumulate
instructions of that level on registers alone, measured in the same run. A ratio above 1 means that
Octavo is faster.

- CPU: {cpu}
- CPU features: {features}
- torch {torch}
"""


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _level(result: dict[str, Any]) -> list[str]:
    rows = result["linear"]
    names = [name for name in rows[0]["times"] if name != "octavo"]
    lines = [f"## {result['isa']}: static quantized linear, u8 x s8 per channel -> u8", ""]
    lines.append(f"Measured peak: {result['peak_gops']:.0f} GOP/s.")
    if result["missing_peers"]:
        lines.append(f"Not in this torch: {', '.join(result['missing_peers'])}.")
    lines.append("")
    heads = ["M, K, N", "kernel", "octavo, µs", "GOP/s", "of peak"]
    heads += [f"{name}, µs (ratio)" for name in names]
    lines += [_row(heads), _row("---" for _ in heads)]
    for r in rows:
        cells = [
            f"{r['m']}, {r['k']}, {r['n']}",
            f"`{r['kernel']}`",
            f"{r['times']['octavo']:.0f}",
            f"{r['gops']:.0f}",
            f"{100 * r['gops'] / result['peak_gops']:.0f} %",
        ]
        cells += [
            f"{r['times'][n]:.0f} ({r['times'][n] / r['times']['octavo']:.2f})" for n in names
        ]
        lines.append(_row(cells))
    for name in names:
        ratios = [r["times"][name] / r["times"]["octavo"] for r in rows]
        mean = statistics.geometric_mean(ratios)
        lines.append(f"\nAgainst {name}: geometric mean {mean:.2f}, worst {min(ratios):.2f}.")
    noisiest = max(max(r["spread"].values()) for r in rows)
    if noisiest > 0.2:
        lines.append(
            f"\nNoisy machine: an interquartile range reached {100 * noisiest:.0f} % of its median."
        )
    return lines


def markdown(facts: dict[str, Any], results: list[dict[str, Any]], absent: dict[str, str]) -> str:
    """The whole report.

    Args:
        facts: values of HEADER's fields.
        results: one dictionary for each instruction set, as :func:`octavo.bench.linear.run` returns
            them.
        absent: levels that were not measured, and why.
    """
    parts = [HEADER.format(**facts)]
    for result in results:
        parts.append("\n".join(_level(result)))
    if absent:
        lines = ["## Not measured", ""]
        lines += [f"- {isa}: {reason}" for isa, reason in absent.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(part.strip() for part in parts) + "\n"
