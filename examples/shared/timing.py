"""Times of several models on the same work, taken in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavo.bench.timing import Contender, Effort, interleave

FLOAT, CHANNELS_LAST = "float", "float, channels last"
_FORMATS = {FLOAT: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}


def _nothing() -> None:
    pass


def milliseconds(
    calls: Mapping[str, Callable[[], Any]], *, quick: bool = False, seconds: float = 2.0
) -> dict[str, float]:
    """The median time of each call, in milliseconds.

    One short block of each call follows the other, round after round, so that whatever else the
    machine does slows all of them. Runs without gradients, on torch's number of threads.

    Args:
        calls: name -> what to time.
        quick: a few rounds are enough.
        seconds: for each call, all rounds together.
    """
    effort = Effort(rounds=5, seconds=0.2) if quick else Effort(rounds=15, seconds=seconds)
    contenders = [Contender(name, [call], _nothing) for name, call in calls.items()]
    with torch.inference_mode():
        times = interleave(contenders, torch.get_num_threads(), effort)
    return {name: 1e-3 * measured.median for name, measured in times.items()}


def float_calls(model: nn.Module, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What to time of a float network: itself, in each of torch's two memory formats.

    Which format is faster depends on shapes and CPU. A network without convolutions has only one.

    Args:
        model: with its batch norms folded into its convolutions: that is faster, and int8 networks
            have them so.
        images: float32 [N, C, H, W].
    """
    has_formats = any(parameter.dim() == 4 for parameter in model.parameters())
    calls: dict[str, Callable[[], Tensor]] = {}
    for name in _FORMATS if has_formats else (FLOAT,):
        network: Any = copy.deepcopy(model)
        network = network.to(memory_format=_FORMATS[name])
        calls[name] = partial(network, images.contiguous(memory_format=_FORMATS[name]))
    return calls


def with_faster_float(times: Mapping[str, float]) -> dict[str, float]:
    """The times, with one of ``"float"``, which is the faster of both formats."""
    others = {name: time for name, time in times.items() if name not in _FORMATS}
    return {FLOAT: min(times[name] for name in _FORMATS if name in times), **others}
