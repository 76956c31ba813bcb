"""Dynamically quantized recurrent layers on plain tensors."""

from __future__ import annotations

import torch

from octavo import _C
from octavo.ops._common import FLOAT_TYPE, Tensor, check_cpu
from octavo.ops._tracing import tracing
from octavo.ops.weights import LinearWeight

__all__ = ["CELL_KIND", "recurrent"]

# CellKind of csrc/abi/kernel_abi.h.
CELL_KIND = {"LSTM": 0, "GRU": 1, "RNN_TANH": 2, "RNN_RELU": 3}


def recurrent(
    mode: str,
    weights: tuple[LinearWeight, LinearWeight, LinearWeight | None],
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    out: Tensor | None,
    *,
    steps: int,
    batch_sizes: Tensor | None = None,
    per_tensor: bool = False,
    reduce_range: bool = False,
    reverse: bool = False,
) -> None:
    """Run one layer of a recurrent net in one direction.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        weights: of the input (gates * size, inputs), of the hidden state (gates * size, outputs),
            and the LSTM's projection (outputs, size) or None.
        x: (rows, inputs), float32, bfloat16 or float16: the rows of the first step's sequences,
            then those of the second, and so on.
        h: contiguous float32 (batch, outputs), read and written.
        c: contiguous float32 (batch, size), read and written; LSTM only.
        out: float32 (rows, outputs) whose rows are contiguous, or None: the hidden states of all
            steps.
        steps: number of time steps.
        batch_sizes: int64 (steps,): sequences at each step, not increasing; None: all of them.
        per_tensor: one scale for all of x, and one for the hidden state at each step, instead of
            one for each row.
        reduce_range: 7 bits instead of 8.
        reverse: from the last step to the first.

    Raises:
        TypeError: dtype of x.
        ValueError: sizes that do not fit together.
        RuntimeError: a tensor that is not on the CPU.
    """
    if tracing(x):
        _record(mode, weights, x, h, c, out, steps, batch_sizes, per_tensor, reduce_range, reverse)
        return
    ih, hh, hr = weights
    if x.dtype not in FLOAT_TYPE:
        raise TypeError(f"input: expected a float32, bfloat16 or float16 tensor, got {x.dtype}")
    check_cpu("input", x)
    if x.dim() != 2 or x.shape[1] != ih.in_features:
        raise ValueError(f"input: expected shape (rows, {ih.in_features}), got {tuple(x.shape)}")
    batch, size = h.shape[0], hh.out_features // (4, 3, 1, 1)[CELL_KIND[mode]]
    wanted = [("h", h, (batch, hh.in_features), True)]
    if c is not None or mode == "LSTM":
        wanted.append(("c", c, (batch, size), True))  # type: ignore[arg-type]
    if out is not None:
        wanted.append(("out", out, (x.shape[0], hh.in_features), False))
    for name, tensor, shape, whole in wanted:
        if (
            tensor is None
            or tensor.dtype != torch.float32
            or tuple(tensor.shape) != shape
            or not (tensor.is_contiguous() if whole else tensor.stride(1) == 1)
        ):
            raise ValueError(f"{name}: expected a contiguous float32 tensor of shape {shape}")
    if batch_sizes is not None and tuple(batch_sizes.shape) != (steps,):
        raise ValueError(f"batch_sizes: expected shape ({steps},), got {tuple(batch_sizes.shape)}")
    x = x.detach().resolve_neg().contiguous()
    sizes = None if batch_sizes is None else batch_sizes.to("cpu", torch.int64).contiguous()
    _C.recurrent(
        CELL_KIND[mode],
        ih._packed,
        hh._packed,
        None if hr is None else hr._packed,
        x.data_ptr(),
        FLOAT_TYPE[x.dtype],
        x.shape[0],
        steps,
        batch,
        0 if sizes is None else sizes.data_ptr(),
        per_tensor,
        reduce_range,
        reverse,
        h.data_ptr(),
        0 if c is None else c.data_ptr(),
        0 if out is None else out.data_ptr(),
        0 if out is None else out.stride(0),
    )


def _record(
    mode: str,
    weights: tuple[LinearWeight, LinearWeight, LinearWeight | None],
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    out: Tensor | None,
    steps: int,
    batch_sizes: Tensor | None,
    per_tensor: bool,
    reduce_range: bool,
    reverse: bool,
) -> None:
    """:func:`recurrent` as an operator of a graph; its results are copied to where they belong."""
    ih, hh, hr = weights
    project = (None,) * 3 if hr is None else hr._arguments()[:3]
    both = (*ih._arguments(), *hh._arguments(), *project)
    how = (per_tensor, reduce_range, reverse)
    y, new_h, new_c = torch.ops.octavo.recurrent(mode, x, h, c, *both, steps, batch_sizes, *how)
    h.copy_(new_h)
    if c is not None:
        c.copy_(new_c)
    if out is not None:
        out.copy_(y)
