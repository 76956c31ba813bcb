"""What reports tell of whole networks besides their times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.bench.measure import SUBJECT
from octavo.bench.peers import all_peers

Record = dict[str, Any]
_MEGABYTE = 1e6
_PARTS = ("kernels", "layout", "torch", "python")
TIME_HEADINGS = [
    "case",
    "way",
    "µs",
    "kernels",
    "layout",
    "torch's operators",
    "Python and the rest",
]


def memory_rows(
    records: Sequence[Record], peers: Sequence[str], nothing: str
) -> tuple[list[str], list[list[str]]]:
    """Contenders whose memory is known, and a row for each network: its name, then the peak of each
    contender with what is held in brackets, in megabytes."""
    known = [record for record in records if record.get("footprint")]
    names = [n for n in (SUBJECT, *peers) if any(n in record["footprint"] for record in known)]
    rows = []
    for record in known:
        cells = [record["name"]]
        for name in names:
            found = record["footprint"].get(name)
            cells.append(
                f"{found['peak'] / _MEGABYTE:.1f} ({found['held'] / _MEGABYTE:.1f})"
                if found
                else nothing
            )
        rows.append(cells)
    return names, rows


def time_rows(records: Sequence[Record]) -> list[list[str]]:
    """A row for each network and way of Octavo's, as ``TIME_HEADINGS`` has it."""
    rows = []
    for record in records:
        for way, found in record.get("breakdown", {}).items():
            shares = [f"{100 * found[f'{part}_us'] / found['total_us']:.1f} %" for part in _PARTS]
            rows.append([record["name"], way, f"{found['total_us']:.0f}", *shares])
    return rows


def flow_lines(records: Sequence[Record], peers: Sequence[str]) -> list[str]:
    """How each graph flow compares with each peer, network by network."""
    ours = [name for name, peer in all_peers().items() if peer.is_ours and name in peers]
    lines = []
    for flow in ours:
        for peer in peers:
            ratios = [
                f"{record['name']} {times[peer]['median_us'] / times[flow]['median_us']:.2f}"
                for record in records
                for times in (record["times"],)
                if peer not in ours and peer in times and flow in times
            ]
            if ratios:
                lines.append(f"{flow} against {peer}: {', '.join(ratios)}.")
    return lines
