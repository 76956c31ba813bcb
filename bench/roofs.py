"""What the machine can do at best, as measured: arithmetic of an instruction set, and memory.

Peaks are the best of many short runs, as a peak is what nothing disturbed. With several threads,
each runs the same loop on data of its own, and their rates add up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from octavo import backend
from octavo.bench import machine

_SHORTEST_RUN_S = 2e-3
_LEAST_DRAM = 128 * 1024**2
_MOST_DRAM = 1024**3


def compute_peak(threads: int, seconds: float) -> float:
    """Arithmetic peak of the instruction set in use, in 10^9 operations a second, 2 for each
    multiply-accumulate."""
    steps = _enough(backend.run_peak)

    def run(_: int) -> float:
        return 2e-9 * backend.run_peak(steps)

    return _best(threads, seconds, run)


def working_sets(threads: int) -> dict[str, int]:
    """Bytes that a thread works on to stay in each cache, and in none of them: ``DRAM``."""
    sizes = machine.caches()
    last = max(sizes)
    sets = {
        level: (size // 2 if level != last or level == "L1" else size // (2 * threads))
        for level, size in sizes.items()
    }
    beyond = min(max(4 * sizes[last], _LEAST_DRAM), _MOST_DRAM)
    return {**sets, "DRAM": max(beyond // threads, sizes[last])}


def bandwidths(threads: int, seconds: float) -> dict[str, dict[str, float]]:
    """``{level: {"bytes": .., "read": .., "copy": ..}}``: the working set of each thread, and
    10^9 bytes a second of all threads. A copy counts what it reads and what it writes."""
    return {
        level: {
            "bytes": size,
            "read": _bandwidth(threads, seconds, size, _reader),
            "copy": max(_bandwidth(threads, seconds / 2, size, make) for make in _COPIERS),
        }
        for level, size in working_sets(threads).items()
    }


def measure(threads: int, seconds: float) -> dict[str, Any]:
    """All roofs of the instruction set in use, each measured for about ``seconds``."""
    return {
        "threads": threads,
        "compute": compute_peak(threads, seconds),
        "bandwidth": bandwidths(threads, seconds),
    }


Run = Callable[[int], None]  # does the work that many times


def _reader(size: int) -> tuple[Run, int]:
    """Reads ``size`` bytes; returns the work and the bytes that it moves once."""
    data = torch.ones(max(size // 256, 1) * 256, dtype=torch.uint8)

    def run(repeats: int) -> None:
        backend.run_read(data.data_ptr(), data.numel(), repeats)

    return run, data.numel()


def _torch_copier(size: int) -> tuple[Run, int]:
    """Copies half of ``size`` bytes into the other half: wide stores, but calls that cost more than
    a small copy."""
    source = torch.ones(max(size // 2, 64), dtype=torch.uint8)
    target = torch.zeros_like(source)

    def run(repeats: int) -> None:
        for _ in range(repeats):
            target.copy_(source)

    return run, 2 * source.numel()


def _numpy_copier(size: int) -> tuple[Run, int]:
    """The same by ``memmove``, all repeats in one call."""
    source = np.ones(max(size // 2, 64) // 8, dtype=np.int64)
    target = np.zeros_like(source)

    def run(repeats: int) -> None:
        shape, strides = (repeats, source.size), (0, source.itemsize)
        np.copyto(as_strided(target, shape, strides), as_strided(source, shape, strides))

    return run, 2 * source.nbytes


_COPIERS = (_torch_copier, _numpy_copier)


def _bandwidth(
    threads: int, seconds: float, size: int, make: Callable[[int], tuple[Run, int]]
) -> float:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each of our own threads copies by itself
    try:
        workers = [make(size) for _ in range(threads)]
        moved = workers[0][1]
        repeats = _enough(workers[0][0])

        def run(index: int) -> float:
            workers[index][0](repeats)
            return 1e-9 * moved * repeats

        return _best(threads, seconds, run)
    finally:
        torch.set_num_threads(torch_threads)


def _enough(run: Callable[[int], object]) -> int:
    """How often to do the work for a run that can be timed."""
    repeats = 1
    while True:
        start = time.perf_counter()
        run(repeats)
        elapsed = time.perf_counter() - start
        if elapsed >= _SHORTEST_RUN_S:
            return repeats
        repeats *= max(2, min(64, int(_SHORTEST_RUN_S / max(elapsed, 1e-7))))


def _best(threads: int, seconds: float, run: Callable[[int], float]) -> float:
    """The highest rate at which ``threads`` runs, started together, did their work.

    Args:
        run: does the work of thread number i; returns how much that was.
    """
    best = 0.0
    barrier = threading.Barrier(threads)

    def timed(index: int) -> tuple[float, float, float]:
        barrier.wait()
        start = time.perf_counter()
        work = run(index)
        return work, start, time.perf_counter()

    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < end:
            done = list(pool.map(timed, range(threads)))
            elapsed = max(stop for _, _, stop in done) - min(start for _, start, _ in done)
            best = max(best, sum(work for work, _, _ in done) / elapsed)
    return best
