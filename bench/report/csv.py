"""A document as comma-separated values: one row for each case and contender."""

from __future__ import annotations

import csv
from pathlib import Path

from octavo.bench.accuracy.metrics import HEADINGS
from octavo.bench.document import Document

COLUMNS = (
    "isa",
    "command",
    "name",
    "threads",
    "contender",
    "median_us",
    "iqr_us",
    "ratio",
    "check",
    "kernel",
    "operations",
    "bytes",
    "gops",
    "fraction_of_peak",
    "gbs",
    "fraction_of_bandwidth",
    *HEADINGS,
    "unavailable",
)
_OURS = ("kernel", "gops", "fraction_of_peak", "gbs", "fraction_of_bandwidth")


def write(document: Document, path: Path) -> None:
    """Contenders that were not timed have a row, too, with the reason in ``unavailable``."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for case in document["cases"]:
            common = {key: case.get(key) for key in COLUMNS if key in case and key not in _OURS}
            common.pop("unavailable", None)
            for contender, times in case["times"].items():
                row = {**common, "contender": contender}
                row.update({key: times[key] for key in ("median_us", "iqr_us", "check")})
                row["ratio"] = case["ratios"].get(contender)
                if contender == "octavo":
                    row.update({key: case.get(key) for key in _OURS})
                writer.writerow(row)
            for contender, metrics in case.get("accuracy", {}).items():
                writer.writerow({**common, "contender": contender, **metrics})
            for contender, reason in case["unavailable"].items():
                writer.writerow({**common, "contender": contender, "unavailable": reason})
