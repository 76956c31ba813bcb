"""Memory as the bench counts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from octavo.bench import memory

_BIG, _SLACK = 96 * 2**20, 8 * 2**20
_HELD: list[Tensor] = []


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    reason = memory.missing()
    if reason is not None:
        pytest.skip(f"needs a Linux that tells a process its peak: {reason}")
    yield
    _HELD.clear()


def _fill(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.uint8)


def test_what_is_held_is_counted_until_it_is_let_go() -> None:
    memory.settle()
    before = memory.resident()
    _HELD.append(_fill(_BIG))
    assert abs(memory.resident() - before - _BIG) < _SLACK
    _HELD.clear()
    memory.settle()
    assert abs(memory.resident() - before) < _SLACK


def test_the_peak_is_the_most_that_was_there_at_once() -> None:
    def one_after_the_other() -> None:
        _fill(_BIG)
        _fill(_BIG)

    def together() -> None:
        _HELD.extend(_fill(_BIG) for _ in range(2))
        _HELD.clear()

    memory.settle()
    before = memory.resident()
    for call, wanted in ((one_after_the_other, _BIG), (together, 2 * _BIG)):
        assert abs(memory.peak(call) - before - wanted) < _SLACK
    # The peak of earlier calls is forgotten.
    assert abs(memory.peak(lambda: None) - before) < _SLACK
