"""``python -m octavo.bench``: static quantized linear on every instruction set, beside FBGEMM and
oneDNN."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from octavo import backend
from octavo.bench import linear, machine, peers, report


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m octavo.bench", description=__doc__)
    parser.add_argument(
        "--isa", action="append", help="instruction set; may repeat (default: all that run here)"
    )
    parser.add_argument(
        "--shape", action="append", help="MxKxN; may repeat (default: shapes/linear.txt)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=25, help="interleaved rounds a shape (default: 25)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time for each contender and shape"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--markdown", type=Path, help="write the report to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rounds < 2 or args.threads < 1:
        parser.error("--rounds must be at least 2 and --threads at least 1")
    return args


def default_shapes() -> list[str]:
    text = resources.files("octavo.bench").joinpath("shapes/linear.txt").read_text()
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def in_worker(isa: str, args: argparse.Namespace, shapes: list[str]) -> dict[str, Any]:
    """Measure one instruction set in a process of its own, as peers read their limits when they
    load."""
    command = [sys.executable, "-m", "octavo.bench", "--worker", "--isa", isa]
    command += [
        "--threads",
        str(args.threads),
        "--rounds",
        str(args.rounds),
        "--seconds",
        str(args.seconds),
    ]
    for shape in shapes:
        command += ["--shape", shape]
    environment = {**os.environ, **peers.CAPS.get(isa, {}), "OCTAVO_ISA": isa}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"octavo.bench: the process that measured {isa} ended with status {done.returncode}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def absent_levels(wanted: list[str]) -> dict[str, str]:
    reasons = {}
    for isa in backend.built():
        missing = backend.missing_features(isa)
        if missing:
            reasons[isa] = f"this CPU lacks {', '.join(missing)}"
        elif isa not in wanted:
            reasons[isa] = "not asked for"
    return reasons


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    shapes = args.shape or default_shapes()
    parsed = [linear.parse_shape(shape) for shape in shapes]
    if args.worker:
        torch.set_num_threads(args.threads)
        print(json.dumps(linear.run(parsed, args.rounds, args.seconds)))
        return
    levels = args.isa or [isa for isa in backend.supported() if isa != "scalar"]
    results = []
    for isa in levels:
        print(f"measuring {isa} ...", file=sys.stderr, flush=True)
        results.append(in_worker(isa, args, shapes))
    facts = {
        "cpu": machine.cpu_name(),
        "features": ", ".join(name for name, present in backend.cpu_features().items() if present),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "threads": args.threads,
    }
    text = report.markdown(facts, results, absent_levels(levels))
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1))
    if args.markdown:
        args.markdown.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
