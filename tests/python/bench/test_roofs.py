"""The machine's limits."""

from __future__ import annotations

import time

import pytest
import torch

from octavo import backend
from octavo.bench import document, machine, roofs


@pytest.mark.kernel
def test_limits_of_each_level(isa: str) -> None:
    found = roofs.measure(threads=1, seconds=0.002)
    assert found["threads"] == 1
    assert found["compute"] > 0.01
    for level in found["bandwidth"].values():
        assert 0.01 < level["read"] < 1e5
        assert 0.01 < level["copy"] < 1e5
    assert backend.current() == isa


def test_working_sets_fit_their_caches_and_the_last_fits_none() -> None:
    caches = machine.caches()
    for threads in (1, 2):
        sets = roofs.working_sets(threads)
        assert list(sets) == [*caches, "DRAM"]
        last = max(caches)
        assert all(sets[level] <= size for level, size in caches.items())
        assert sets[last] * threads <= caches[last]
        assert sets["DRAM"] * threads > caches[last]


def test_rates_of_threads_add_up() -> None:
    ran: list[int] = []

    def run(index: int) -> float:
        ran.append(index)
        time.sleep(0.01)
        return 1.0

    rate = roofs._best(3, 0.1, run)
    assert set(ran) == {0, 1, 2}
    assert 100 < rate < 300  # three at once, 10 ms each


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    roofs.bandwidths(threads=1, seconds=0.001)
    assert torch.get_num_threads() == before


def test_memory_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "caches", lambda: {"L1": 100, "L2": 1000})
    assert document.memory_level(100, cold=False) == "L1"
    assert document.memory_level(101, cold=False) == "L2"
    assert document.memory_level(1001, cold=False) == "DRAM"
    assert document.memory_level(1, cold=True) == "DRAM"
