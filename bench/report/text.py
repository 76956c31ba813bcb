"""A document as sections of words and tables, which terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.bench import timing
from octavo.bench.document import Document
from octavo.bench.measure import SUBJECT
from octavo.bench.report import accuracy, networks

Record = dict[str, Any]
_SLOWEST_LAYERS = 12
NOTHING = "-"  # the cell of a time that there is not
_TITLES = {
    "gemm": "linear operator, u8 x s8 per channel -> u8",
    "linear": "nn modules",
    "linear_function": "a linear layer and its activation function, u8 x s8 per channel -> u8",
    "conv": "2-D convolutions, u8 x s8 per channel -> u8",
    "attention": "scaled dot-product attention (batch, heads, tokens, size of a head), u8 to u8",
    "elementwise": "element-wise operations",
    "normalize": "normalizations and softmax, u8 to u8",
    "image": "pooling, upsampling, concatenation, u8 to u8, channels last",
    "overhead": "1x32 to 64, the cost of a call",
    "rnn": "dynamic recurrent networks (time steps, batch, hidden)",
    "model": "whole networks",
    "embedding": "look-ups and sums of bags in tables of 8 and 4 bits",
    "fake_quantize": "steps of quantization-aware training, float32",
    "calibration": "observers, all batches and then scale and zero point",
    "accuracy": "trained models on real data",
}
_MEMORY = (
    "Data alone, without the code of programs and libraries, beyond what the same process held "
    "after a small network had come and gone; each contender in a process of its own."
)
_SHARES = (
    "Kernels: Octavo's, by a clock inside them. Layout: copies, conversions, views. Torch's "
    "operators: what is left in float. From a profiled run, which makes each about 1 µs longer."
)


@dataclass
class Section:
    """A heading, a table, and lines below it."""

    title: str
    headings: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def number(value: float) -> str:
    """Three significant digits, without exponents."""
    for limit, digits in ((10.0, 2), (100.0, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def machine_lines(document: Document) -> list[str]:
    """Whose figures these are."""
    machine, settings = document["machine"], document["settings"]
    versions = [f"{name} {version}" for name, version in document["versions"].items() if version]
    caches = ", ".join(f"{level} {size // 1024} KiB" for level, size in machine["caches"].items())
    weights = "from memory (cold)" if settings["cold"] else "hot"
    return [
        f"CPU: {machine['cpu']}, {machine['cores']} cores to run on; {caches}",
        f"CPU features: {', '.join(machine['features']) or 'none that matter'}",
        f"Versions: {', '.join(versions)}",
        f"Threads: {settings['threads']}; {settings['rounds']} rounds; weights {weights}",
    ]


def absent_lines(document: Document) -> list[str]:
    """Levels that were asked for and not measured."""
    return [
        f"{level['isa']}: {level['reason']}"
        for level in document["levels"]
        if level["status"] != "measured"
    ]


def roofs(document: Document) -> Section | None:
    """What the machine can do at best."""
    measured = [level for level in document["levels"] if level["status"] == "measured"]
    if not measured:
        return None
    places = list(measured[0]["roofs"]["bandwidth"])
    section = Section("Limits of this machine, measured")
    section.headings = ["level", "arithmetic, GOP/s", *(f"{p} read / copy, GB/s" for p in places)]
    for level in measured:
        found = level["roofs"]
        cells = [level["isa"], number(found["compute"])]
        for place in places:
            bandwidth = found["bandwidth"][place]
            cells.append(f"{number(bandwidth['read'])} / {number(bandwidth['copy'])}")
        section.rows.append(cells)
    return section


def sections(document: Document) -> list[Section]:
    """One for each level and subcommand."""
    found = []
    for level in document["levels"]:
        for command in dict.fromkeys(case["command"] for case in document["cases"]):
            records = [
                case
                for case in document["cases"]
                if case["command"] == command and case["isa"] == level["isa"]
            ]
            if records:
                peers = document["settings"]["peers"]
                found.append(_section(level, command, records, peers))
                found += _of_networks(level, records, peers)
            found += [_layers(level["isa"], case) for case in records if "layers" in case]
    return found


def _of_networks(
    level: dict[str, Any], records: list[Record], peers: Sequence[str]
) -> list[Section]:
    found = []
    names, rows = networks.memory_rows(records, peers, NOTHING)
    if rows:
        section = Section(f"{level['isa']}: memory of inference, MB: peak (held between calls)")
        section.headings = [
            "case",
            *(name if name == SUBJECT else _starred(level, name) for name in names),
        ]
        section.rows = rows
        section.lines = [_MEMORY]
        found.append(section)
    rows = networks.time_rows(records)
    if rows:
        title = f"{level['isa']}: where the time of networks goes"
        found.append(Section(title, networks.TIME_HEADINGS, rows, [_SHARES]))
    return found


def _layers(isa: str, case: Record) -> Section:
    total = sum(layer["median_us"] for layer in case["layers"])
    slowest = case["layers"][:_SLOWEST_LAYERS]
    title = f"{isa}: {case['name']}, slowest {len(slowest)} of {len(case['layers'])} layers"
    section = Section(title, ["layer", "type", "kernel", "µs", "share"])
    for layer in slowest:
        share = _percent(layer["median_us"] / total)
        kernel = layer["kernel"] or NOTHING
        cells = [layer["name"], layer["type"], kernel, number(layer["median_us"]), share]
        section.rows.append(cells)
    return section


@dataclass(frozen=True)
class _Column:
    """Shown only where a case has a value."""

    heading: str
    cell: Callable[[Record], str | None]


def _ours(record: Record) -> str | None:
    times = record["times"].get(SUBJECT)
    return times and f"{number(times['median_us'])} ± {number(times['iqr_us'])}"


def _field(key: str, form: Callable[[Any], str]) -> Callable[[Record], str | None]:
    return lambda record: None if record.get(key) is None else form(record[key])


def _bandwidth(record: Record) -> str | None:
    if "fraction_of_bandwidth" not in record:
        return None
    return f"{_percent(record['fraction_of_bandwidth'])} of {record['memory']}"


_COLUMNS = [
    _Column("case", lambda record: record["name"]),
    _Column("kernel", _field("kernel", str)),
    _Column("octavo", _ours),
    _Column("GOP/s", _field("gops", number)),
    _Column("of peak", _field("fraction_of_peak", _percent)),
    _Column("GB/s", _field("gbs", number)),
    _Column("of bandwidth", _bandwidth),
]


def _peer(name: str) -> Callable[[Record], str | None]:
    def cell(record: Record) -> str | None:
        times = record["times"].get(name)
        if times is None:
            return None
        ratio = record["ratios"].get(name)
        mark = "" if times["close"] else " ≠"
        return number(times["median_us"]) + (f" ({ratio:.2f})" if ratio else "") + mark

    return cell


def _section(
    level: dict[str, Any], command: str, records: list[Record], peers: Sequence[str]
) -> Section:
    section = Section(f"{level['isa']}: {command}, {_TITLES.get(command, '')}".rstrip(", "))
    if any("accuracy" in record for record in records):
        return _accuracy_section(section, level, records, peers)
    columns = list(_COLUMNS)
    for name in peers:
        columns.append(_Column(_starred(level, name), _peer(name)))
    cells = [[column.cell(record) for column in columns] for record in records]
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in cells)]
    section.headings = [columns[i].heading for i in kept]
    section.rows = [[row[i] or NOTHING for i in kept] for row in cells]
    section.lines = _ratio_lines(level, records, peers) + networks.flow_lines(records, peers)
    section.lines += _peer_lines(records, peers)
    return section


def _accuracy_section(
    section: Section, level: dict[str, Any], records: list[Record], peers: Sequence[str]
) -> Section:
    shown = [name for name in peers if any(name in record["accuracy"] for record in records)]
    section.headings = accuracy.headings([_starred(level, name) for name in shown])
    section.rows = accuracy.rows(records, shown, NOTHING)
    section.lines = accuracy.lines(records, shown) + _absences((SUBJECT, *peers), records)
    return section


def _starred(level: dict[str, Any], name: str) -> str:
    """The peer's name, marked where it does not keep to the level."""
    return name if level["peers"][name]["keeps_to_level"] else f"{name}*"


def _ratio_lines(level: dict[str, Any], records: list[Record], peers: Sequence[str]) -> list[str]:
    lines = []
    for name in peers:
        ratios = {case["name"]: case["ratios"][name] for case in records if name in case["ratios"]}
        if ratios:
            worst = min(ratios, key=lambda case: ratios[case])
            mean = timing.geometric_mean(list(ratios.values()))
            lines.append(
                f"Against {_starred(level, name)}: geometric mean {mean:.2f}"
                f", worst {ratios[worst]:.2f} ({worst})."
            )
    return lines


def _peer_lines(records: list[Record], peers: Sequence[str]) -> list[str]:
    """How exact results are, what is missing, what computes something else."""
    lines = _lowest_ratios((SUBJECT, *peers), records) + _absences((SUBJECT, *peers), records)
    for name in peers:
        odd = {
            case["name"]: case["times"][name]["check"]
            for case in records
            if name in case["times"] and not case["times"][name]["close"]
        }
        if odd:
            first = next(iter(odd))
            lines.append(
                f"≠ {name}: the result differs from exact arithmetic in {len(odd)} of "
                f"{len(records)} cases ({first}: {odd[first]})."
            )
    return lines


def _lowest_ratios(names: Sequence[str], records: list[Record]) -> list[str]:
    """Signal-to-noise ratios of float results, the lowest of each contender."""
    found: dict[str, float] = {}
    for case in records:
        for name, times in case["times"].items():
            value, unit, _ = (times["check"] + "  ").split(" ", 2)
            if unit == "dB":
                found[name] = min(found.get(name, float(value)), float(value))
    ratios = [f"{name} {found[name]:.0f} dB" for name in names if name in found]
    return (
        [f"Lowest signal-to-noise ratio of float results: {', '.join(ratios)}."] if ratios else []
    )


def _absences(names: Sequence[str], records: list[Record]) -> list[str]:
    """Every contender that was not timed in a case, and why, those that share a reason together."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in names:
        mine: dict[str, list[str]] = {}
        for case in records:
            if name in case["unavailable"]:
                mine.setdefault(case["unavailable"][name], []).append(case["name"])
        for reason, cases in mine.items():
            reasons.setdefault((reason, tuple(cases)), []).append(name)
    lines = []
    for (reason, where), who in reasons.items():
        some = "" if len(where) == len(records) else f" in {', '.join(where[:4])}"
        more = f" and {len(where) - 4} more" if some and len(where) > 4 else ""
        lines.append(f"Not measured, {', '.join(who)}{some}{more}: {reason}.")
    return lines


def peer_lines(document: Document) -> list[str]:
    """Peers that cannot be used, or do not keep to a level, and why."""
    found: dict[str, list[str]] = {}
    measured = [level for level in document["levels"] if level["status"] == "measured"]
    for level in measured:
        for name, facts in level["peers"].items():
            reason = facts["unavailable"] or facts["note"]
            if reason:
                line = f"{_starred(level, name)}: {reason}"
                found.setdefault(line, []).append(level["isa"])
    return [
        line if len(levels) == len(measured) else f"{line} ({', '.join(levels)})"
        for line, levels in found.items()
    ]
