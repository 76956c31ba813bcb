"""What observers measure of one tensor, on any device, in one process or in several.

On the CPU a look at a number is free, so the usual case (all values finite) takes one pass. On
other devices nothing is read back: such a read would make the host wait for the device in every
step, so NaN and Inf are masked out there without asking whether there are any.

Inside of a DistributedDataParallel forward the statistics of a step are those of the batches of all
ranks together: every rank calls every observer then, as it does for gradients. Elsewhere each
process keeps its own, see :func:`octavo.quantization.observer.all_reduce_observers`.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from octavo.ops import direct

__all__ = [
    "all_reduce_extremes",
    "finite_extremes",
    "float32",
    "host_extremes",
    "kernels_see",
    "mark_written",
    "on_host",
    "process_group",
    "running_average",
]


def on_host(x: Tensor) -> bool:
    """Whether to read numbers of ``x``: it is on the CPU, and no graph is being traced."""
    return x.is_cpu and not torch.compiler.is_compiling()


_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", int)


def kernels_see(x: Tensor) -> bool:
    """Whether an entry point of :mod:`octavo.ops.direct`, which torch does not see, may take the
    place of torch's operations on ``x``. It decides itself whether it can."""
    return on_host(x) and not _dispatch_modes()


def mark_written(tensors: tuple[Tensor, ...]) -> None:
    """Tells autograd that the tensors hold other values now."""
    try:
        torch.autograd.graph.increment_version(tensors)
    except (TypeError, RuntimeError):  # a torch that takes one at a time
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)


def host_extremes(x: Tensor) -> tuple[float, float, int]:
    """:func:`finite_extremes` of all of a tensor on the CPU, as numbers."""
    if kernels_see(x):
        found = direct.extremes(x)
        if found is not None:
            return found
    low, high, others = finite_extremes(x)
    return low.item(), high.item(), int(others)


def finite_extremes(x: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor, int | Tensor]:
    """Minimum, maximum (over ``dim``, or over all) of the finite values, and how many values were
    not finite (a 0-D tensor on other devices than the CPU).

    Where no value is finite, or there is none, the minimum is +inf and the maximum -inf, the state
    of an observer that saw nothing.
    """
    if x.numel() == 0:
        shape = (
            () if dim is None else [size for i, size in enumerate(x.shape) if i != dim % x.dim()]
        )
        low = torch.full(shape, torch.inf, dtype=x.dtype, device=x.device)
        return low, -low, 0
    if on_host(x):
        if dim is None:
            low, high = torch.aminmax(x)
            extent = abs(low.item()) + abs(high.item())
        else:
            low, high = x.amin(dim), x.amax(dim)  # torch.aminmax along an axis is not vectorized
            extent = (low.abs() + high.abs()).sum().item()
        if math.isfinite(extent):
            return low, high, 0
    finite = torch.isfinite(x)
    bad: int | Tensor = finite.logical_not().sum()
    upper = torch.where(finite, x, torch.inf)
    lower = torch.where(finite, x, -torch.inf)
    if dim is None:
        low, high = upper.amin(), lower.amax()
    else:
        low, high = upper.amin(dim), lower.amax(dim)
    return low, high, int(bad) if on_host(x) else bad


def process_group() -> Any:
    """The process group of the DistributedDataParallel whose forward is running, or None."""
    active = getattr(DistributedDataParallel, "_active_ddp_module", None)
    return None if active is None else active.process_group


def all_reduce_extremes(low: Tensor, high: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """The extremes over all ranks of a group, with one collective."""
    both = torch.stack([-low, high])
    distributed.all_reduce(both, distributed.ReduceOp.MAX, group=group)
    return -both[0], both[1]


def float32(value: float) -> float:
    """``value`` rounded to float32; infinite where it is too large.

    Sums, differences, products and quotients of float32 numbers, computed in double precision and
    rounded with this, are those of float32 arithmetic.
    """
    return ctypes.c_float(value).value


def running_average(old: Tensor, new: Tensor, constant: float) -> None:
    """Moves ``old`` towards ``new`` in place, by ``constant`` of the difference, in float32.

    An infinite ``old`` means no value yet, an infinite ``new`` nothing to add. A constant of 1
    takes ``new`` as it is: the sum would round, and leave a minimum above an equal maximum.
    """
    if constant == 1 and on_host(old) and math.isfinite(new.sum().item()):
        old.copy_(new)
        return
    if old.dim() == 0 and old.dtype is torch.float32 and on_host(old):
        before, latest = old.item(), new.item()
        if not math.isfinite(latest):
            return
        if math.isfinite(before) and constant != 1:
            step = float32(float32(constant) * float32(latest - before))
            latest = float32(before + step)
        old.fill_(latest)
        return
    new = new.to(old.device)
    moved = new if constant == 1 else old + constant * (new - old)
    old.copy_(torch.where(torch.isfinite(old), torch.where(torch.isfinite(new), moved, old), new))
