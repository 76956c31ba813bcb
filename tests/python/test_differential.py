"""Random layers give the same bits on every instruction set and with 1 to 8 threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import octavo
from module_support import generator, threads
from octavo import backend, ops

ISAS = backend.supported()


def outputs(weight: ops.LinearWeight, x: Tensor, floats: Tensor, relu: bool) -> Iterator[Tensor]:
    """Every kind of output, static and dynamic."""
    for qdtype in (octavo.quint8, octavo.qint8):
        yield weight(x, 0.02, 3, 1.7, 5, qdtype, relu)
    yield weight.dequantized_output(x, 0.02, 3, relu)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for per_tensor in (False, True):
            yield weight.dynamic(floats.to(dtype), per_tensor, per_tensor, relu, gelu=not relu)


def random_linear(
    rows: int, n_in: int, n_out: int, seed: int, zeros: bool
) -> tuple[ops.LinearWeight, Tensor, Tensor]:
    g = generator(seed)
    ints = torch.int8 if seed % 2 else torch.uint8
    info = torch.iinfo(ints)
    w = torch.randint(-128, 128, (n_out, n_in), generator=g).to(torch.int8)
    zero_points = torch.randint(-128, 128, (n_out,), generator=g) * int(zeros)
    scales = torch.rand(n_out, generator=g) * 0.02 + 1e-4
    x = torch.randint(info.min, info.max + 1, (rows, n_in), generator=g).to(ints)
    floats = torch.randn(rows, n_in, generator=g)
    return ops.LinearWeight(w, scales, zero_points, torch.randn(n_out, generator=g)), x, floats


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 50),
    n_in=st.integers(1, 300),
    n_out=st.integers(1, 150),
    seed=st.integers(0, 10**6),
    relu=st.booleans(),
    zeros=st.booleans(),
    count=st.integers(1, 8),
)
def test_linear_is_the_same_on_every_isa(
    rows: int, n_in: int, n_out: int, seed: int, relu: bool, zeros: bool, count: int
) -> None:
    weight, x, floats = random_linear(rows, n_in, n_out, seed, zeros)
    expected: list[Tensor] | None = None
    for isa in ISAS:
        with backend.force(isa), threads(count):
            got = list(outputs(weight, x, floats, relu))
            assert backend.last_kernel().endswith(f"__{isa}")
        expected = expected or got
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True)), isa


@pytest.mark.kernel
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(700, 300, 200), (5, 400, 1500), (64, 64, 64)])
def test_one_to_eight_threads_give_the_same(isa: str, rows: int, n_in: int, n_out: int) -> None:
    """Shapes that are cut into blocks of rows, of panels, and of both."""
    weight, x, floats = random_linear(rows, n_in, n_out, rows, zeros=True)
    with threads(1):
        expected = list(outputs(weight, x, floats, True))
    for count in range(2, 9):
        with threads(count):
            got = list(outputs(weight, x, floats, True))
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True)), count
