"""The arguments that every example has."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import numpy
import torch


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with ``--quick``, ``--seed``, ``--threads`` and ``--output``.

    Args:
        description: the example's docstring; its first paragraph is shown.
        name: of the example: results go into ``results/<name>`` if nothing else is said.
    """
    made = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="less of everything, in a minute or so")
    made.add_argument("--seed", type=int, default=0, help="of weights, data and their order")
    made.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="that torch and Octavo use"
    )
    made.add_argument(
        "--output", type=Path, default=Path("results", name), help="folder for files that it writes"
    )
    return made


def prepare(arguments: argparse.Namespace) -> None:
    """Sets seeds and threads, and makes the output folder.

    Raises:
        SystemExit: the threads are not a positive number.
    """
    if arguments.threads < 1:
        raise SystemExit(f"--threads must be 1 or more, got {arguments.threads}")
    random.seed(arguments.seed)
    numpy.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    # Loky, which scikit-learn uses, asks a tool that not every system has.
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(arguments.threads))
    arguments.output.mkdir(parents=True, exist_ok=True)
