"""The packed forms of the plain weights of graphs: found again, renewed, freed."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import torch
from torch import Tensor, nn

from graph_support import converted, static
from octavo.library import conv
from octavo.library.linear import WEIGHT

LINEAR = tuple[Tensor, Tensor, Tensor, Tensor | None]


def weight(seed: int = 0) -> LINEAR:
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randint(-127, 128, (5, 7), dtype=torch.int8, generator=generator)
    return plain, torch.full((5,), 0.1), torch.zeros(5, dtype=torch.int64), torch.ones(5)


def test_packed_once() -> None:
    tensors = weight()
    first = WEIGHT(tensors)
    assert WEIGHT(tensors) is first
    assert WEIGHT((*tensors[:3], None)) is not first


def test_two_geometries_of_a_weight() -> None:
    tensors = (torch.ones(2, 3, 1, 1, dtype=torch.int8), torch.ones(1), torch.zeros(1).long(), None)
    one, two = ([1, 1], [0, 0], [0, 0], [1, 1], 1), ([2, 2], [0, 0], [0, 0], [1, 1], 1)
    first, second = conv.WEIGHT((*tensors, *one)), conv.WEIGHT((*tensors, *two))
    assert first is not second
    for _ in range(2):
        assert conv.WEIGHT((*tensors, *one)) is first
        assert conv.WEIGHT((*tensors, *two)) is second
    tensors[0].neg_()
    changed = conv.WEIGHT((*tensors, *one))
    assert changed is not first
    assert len(conv.WEIGHT._entries[id(tensors[0])]) == 2  # what was replaced is gone


def test_with_and_without_a_bias() -> None:
    tensors = weight(4)
    both = [WEIGHT(tensors), WEIGHT((*tensors[:3], None))]
    for _ in range(2):
        assert [WEIGHT(tensors), WEIGHT((*tensors[:3], None))] == both


def test_packed_again_after_a_change() -> None:
    tensors = weight()
    x = torch.full((2, 7), 9, dtype=torch.uint8)
    output = (0.1, 3, torch.uint8)
    before = torch.ops.octavo.linear(x, 0.1, 3, *tensors, *output)
    tensors[0].neg_()
    after = torch.ops.octavo.linear(x, 0.1, 3, *tensors, *output)
    assert not torch.equal(before, after)
    assert torch.equal(after, torch.ops.octavo.linear(x, 0.1, 3, *weight_of(tensors), *output))
    bias = tensors[3]
    assert bias is not None
    bias.add_(1)
    assert not torch.equal(after, torch.ops.octavo.linear(x, 0.1, 3, *tensors, *output))


def weight_of(tensors: LINEAR) -> list[Tensor | None]:
    return [None if t is None else t.clone() for t in tensors]


def test_freed_with_the_weight() -> None:
    gc.collect()
    before = len(WEIGHT._entries)
    tensors = weight(1)
    made = weakref.ref(WEIGHT(tensors))
    assert made() is not None
    assert len(WEIGHT._entries) == before + 1
    del tensors
    assert made() is None
    assert len(WEIGHT._entries) == before


def test_weights_of_inference_mode() -> None:
    with torch.inference_mode():
        tensors = weight(2)
        assert WEIGHT(tensors) is WEIGHT(tensors)


def test_threads_share_the_packed_weight() -> None:
    tensors, results = weight(3), []
    x = torch.full((2, 7), 9, dtype=torch.uint8)

    def work() -> None:
        for _ in range(50):
            results.append(torch.ops.octavo.linear(x, 0.1, 3, *tensors, 0.1, 3, torch.uint8))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    assert all(torch.equal(result, results[0]) for result in results)


def test_the_plain_weight_lives_as_long_as_somebody_holds_it() -> None:
    torch.manual_seed(1)  # equal weights are shared, also with other tests
    x = torch.randn(4, 12)
    model = static(nn.Sequential(nn.Linear(12, 4)), x)
    module_weight = model.body[0]._packed  # type: ignore[index, union-attr]
    plain = module_weight.plain()
    assert module_weight.plain() is plain
    program = torch.export.export(model, (x,), strict=False)
    assert any(constant is plain for constant in program.constants.values())
    other = static(nn.Sequential(nn.Linear(12, 5)), x).body[0]._packed  # type: ignore[index, union-attr]
    assert other._made is other._kept is None
    plain = other.plain()
    assert torch.equal(plain, other.unpack())
    del plain
    assert other._made() is None


def test_the_packed_weight_of_the_module_serves_its_graph() -> None:
    model, x = converted("linear")
    program = torch.export.export(model, (x,), strict=False)
    run = program.module()
    run(x)
    mine = model.body[0]._packed  # type: ignore[index, union-attr]
    found = [entry.made for entries in WEIGHT._entries.values() for entry in entries]
    assert any(made is mine for made in found)


def test_no_complaints_when_the_interpreter_ends() -> None:
    program = """
import torch, octavo
tensors = torch.ones(5, 7, dtype=torch.int8), torch.ones(5), torch.zeros(5, dtype=torch.int64), None
x = torch.ones(2, 7, dtype=torch.uint8)
torch.ops.octavo.linear(x, 0.1, 3, *tensors, 0.1, 3, torch.uint8)
torch.kept = tensors
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stderr == b""
