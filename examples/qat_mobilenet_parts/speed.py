"""Times of the networks, and the table of times and sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from shared import best_engine, float_calls, milliseconds, torch_engine, with_faster_float
from torch import Tensor, nn

NOTE = "float: batch norms folded, in the memory format that is faster"
_BATCHES = (1, 32)


def latencies(
    float_network: nn.Module,
    int8: nn.Module,
    torch_ao: nn.Module | None,
    images: Tensor,
    quick: bool,
) -> dict[int, dict[str, float]]:
    """Milliseconds by batch and network, taken in turn on the number of threads that is set.

    Args:
        float_network: with its batch norms folded; the faster of both memory formats counts.
        int8: Octavo's network.
        torch_ao: the one of torch.ao, if there is one.
        images: to take batches from, channels last.
        quick: measure for a short time.
    """
    found = {}
    for batch in _BATCHES:
        some = images[:batch].contiguous(memory_format=torch.channels_last)
        calls: dict[str, Callable[[], Any]] = {
            **float_calls(float_network, some),
            "int8": functools.partial(int8, some),
        }
        if torch_ao is not None:
            calls["torch.ao"] = functools.partial(torch_ao, some)
        with torch_engine(best_engine()):  # of torch.ao's network
            found[batch] = with_faster_float(milliseconds(calls, quick=quick))
    return found


def rows(
    times: Mapping[int, Mapping[str, float]], sizes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Rows of a table, from what ``latencies`` gave and the sizes of files in bytes."""
    made = []
    for name in times[_BATCHES[0]]:
        row: dict[str, Any] = {"network": name}
        for batch, found in times.items():
            row[f"ms, batch {batch}"] = found[name]
            row[f"times as fast, batch {batch}"] = found["float"] / found[name]
        row["KiB in a file"] = sizes[name] / 1024 if name in sizes else None
        made.append(row)
    return made
