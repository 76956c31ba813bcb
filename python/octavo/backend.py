"""Which kernels run, and on how many threads: the place of ``torch.backends.quantized``.

The best instruction set that the CPU and the operating system allow is chosen at first use.
``force`` or the environment variable ``OCTAVO_ISA`` choose another; an instruction set that cannot
run here is an error, never a silent fallback. Results are the same bits whichever runs.
"""

from __future__ import annotations

import os
from types import TracebackType

import torch

from octavo import _C

__all__ = [
    "built",
    "cpu_features",
    "current",
    "emulated_features",
    "feature_descriptions",
    "force",
    "force_gemm_kernel",
    "kernels",
    "last_kernel",
    "missing_features",
    "parallel_info",
    "run_peak",
    "run_read",
    "start_clock",
    "stop_clock",
    "supported",
]


def _use_one_thread() -> None:
    """In a forked child, torch runs with one thread, as in a DataLoader worker.

    The threads of the OpenMP pool do not survive a fork. Whatever opens a parallel region there,
    Octavo's kernels or torch's own operations (a copy into another layout is one), would wait for
    them for ever. A server that computes only in the workers it forks has lost nothing: there,
    ``torch.set_num_threads(n)`` gives Octavo and torch their threads.
    """
    torch.set_num_threads(1)
    _C.use_pool_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)


def built() -> list[str]:
    """Names of the instruction sets this build has kernels for, best first."""
    return [name for name, _, _ in _C.isas()]


def supported() -> list[str]:
    """Names of the instruction sets that can run here, best first."""
    return [name for name, runnable, _ in _C.isas() if runnable]


def missing_features(isa: str) -> list[str]:
    """CPU features that ``isa`` needs and this machine lacks; empty where it can run.

    Raises:
        ValueError: this build has no such instruction set.
    """
    for name, _, missing in _C.isas():
        if name == isa:
            return list(missing)
    raise ValueError(f"unknown ISA {isa!r}; this build of Octavo has {', '.join(built())}")


def current() -> str:
    """Name of the instruction set in use.

    Raises:
        ValueError, RuntimeError: ``OCTAVO_ISA`` names one that is unknown or cannot run here.
    """
    return _C.current_isa()


class force:
    """Use the kernels of one instruction set from now on; ``None`` returns to ``OCTAVO_ISA`` or the
    best.

    Works as a statement and as a context manager, which restores what was in use before::

        octavo.backend.force("avx2")
        with octavo.backend.force("scalar"):
            ...

    The choice holds for the whole process. Weights packed for another instruction set are packed
    again at their next use.

    Raises:
        ValueError: this build has no such instruction set.
        RuntimeError: this CPU cannot run it; the message names what it lacks.
    """

    def __init__(self, isa: str | None) -> None:
        self._previous = _C.current_isa() if isa is not None else None
        _C.force_isa(isa)

    def __enter__(self) -> force:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _C.force_isa(self._previous)


def force_gemm_kernel(name: str | None) -> None:
    """Run every matrix product on one kernel of the instruction set in use, for measurements and
    tests; ``None`` returns to the choice by shape.

    Affects weights that are packed from now on; layers whose packed weights the kernel cannot read
    are packed again at their next use.

    Raises:
        ValueError: the instruction set in use has no such GEMM kernel.
    """
    _C.force_gemm_kernel(name)


def kernels(isa: str) -> list[str]:
    """Names of the GEMM and window kernels of one instruction set, preferred first.

    A name reads ``<types>_gemm_<rows>x<columns>c<depth>__<isa>``, or for depthwise convolutions
    and small groups ``<types>_<operation>_<window>_x<channels>__<isa>``.

    Raises:
        ValueError: this build has no such instruction set.
    """
    return _C.kernels(isa)


def last_kernel() -> str:
    """Name of the kernel that the last linear or convolution called from this thread ran;
    ``"none"`` before it."""
    return _C.last_kernel()


def start_clock() -> None:
    """Count the time that is spent in the extension's kernels from now on, of all threads that call
    them together. A call then takes about 50 ns more."""
    _C.start_clock()


def stop_clock() -> tuple[int, int]:
    """Stop counting.

    Returns:
        Nanoseconds since :func:`start_clock`: in calls that compute, and in calls that only bring
        values into another memory layout.
    """
    return _C.stop_clock()


def cpu_features() -> dict[str, bool]:
    """CPU features that kernels may use, and whether the CPU and the operating system offer
    them."""
    return {name: state != "no" for name, (state, _) in _C.cpu_features().items()}


def emulated_features() -> list[str]:
    """Features that an emulator loaded into this process provides instead of the CPU; normally
    empty."""
    return [name for name, (state, _) in _C.cpu_features().items() if state == "emulated"]


def feature_descriptions() -> dict[str, str]:
    """A readable name for each key of :func:`cpu_features`."""
    return {name: description for name, (_, description) in _C.cpu_features().items()}


def run_peak(steps: int) -> int:
    """Run the roof loop of the instruction set in use on this thread: its multiply-accumulate
    instructions on registers alone, ``steps`` rounds of them.

    Returns:
        Multiply-accumulates done. Divided by the time taken, that is the machine's arithmetic peak.
    """
    return _C.run_peak(steps)


def run_read(address: int, size: int, repeats: int) -> int:
    """Read memory on this thread with the widest loads of the instruction set in use.

    Args:
        address: start, a multiple of 64 (``tensor.data_ptr()``).
        size: bytes, a multiple of 256.
        repeats: how often to read all of it.

    Returns:
        A number that depends on every byte. Bytes divided by the time taken are the bandwidth.

    Raises:
        ValueError: address or size is not such a multiple.
    """
    return _C.run_read(address, size, repeats)


def parallel_info() -> dict[str, str | int]:
    """The thread pool in use: ``pool`` (its kind), ``library`` (the file it comes from) and
    ``threads``."""
    return _C.parallel_info()
