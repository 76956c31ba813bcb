"""What torch.library.opcheck checks, for every operator and every call of a zoo of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import octavo
from graph_support import NAMES, converted
from octavo.library._register import registered

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class _Recorder(TorchDispatchMode):
    """Keeps one call of each operator for each kind of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "octavo":
            described = torch.utils._pytree.tree_map(_describe, (args, kwargs))
            self.calls.setdefault(f"{func} {described}", (func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _describe(value: Any) -> Any:
    return (value.dim(), value.dtype) if isinstance(value, Tensor) else type(value)


def _calls_of(name: str) -> list[Call]:
    model, x = converted(name)
    program = torch.export.export(model, (x,), strict=False)
    with _Recorder() as recorder:
        program.module()(x)
    return list(recorder.calls.values())


def _further_calls() -> Iterator[Call]:
    """Of operators, and forms of them, that the models do not have."""
    op = torch.ops.octavo
    q = torch.randint(0, 256, (2, 8, 6, 6), dtype=torch.uint8)
    x = torch.randn(2, 8, 6, 6)
    weight = torch.randint(-127, 128, (4, 8, 3, 3), dtype=torch.int8)
    scales, zeros, bias = torch.rand(4) + 0.01, torch.zeros(4, dtype=torch.int64), torch.randn(4)
    channels, points = torch.rand(8) + 0.01, torch.arange(8)
    geometry = ([2, 1], [1, 1], [1, 0], [1, 1], 1)
    flat, wide = weight[:, :, 0, 0].contiguous(), (scales, zeros, None)
    moved = torch.randint(-127, 128, (8, 2, 3, 3), dtype=torch.int8)
    pair, twice = torch.rand(2) + 0.01, torch.zeros(2, dtype=torch.int64)
    transposed = (moved, pair, twice, bias, [2, 2], [1, 1], [1, 1], 2, [1, 0])
    last = q.to(memory_format=torch.channels_last)
    residual = torch.randint(0, 256, (2, 4, 3, 5), dtype=torch.uint8)
    table = torch.randint(0, 256, (9, 3), dtype=torch.uint8)
    rows = (torch.rand(9) + 0.01, torch.rand(9) * 5)
    indices, offsets = torch.tensor([1, 2, 3, 8]), torch.tensor([0, 2])
    for call in (
        (op.requantize, q, 0.1, 3, 0.2, 5, torch.int8),
        (op.requantize, last, 0.1, 3, 0.2, 5, torch.uint8, 5, 200),
        (op.quantize_channels, x, channels, points, 1, torch.int8),
        (op.dequantize_channels, q, channels, points, 1),
        (op.quantize, x, 0.1, 3, torch.uint8, 0, 127),
        (op.quantize, x.transpose(1, 2), 0.1, 3, torch.int32),
        (op.conv, q, 0.1, 3, weight, scales, zeros, bias, *geometry, 0.2, 9, torch.uint8),
        (op.conv, q, 0.1, 3, weight, scales, zeros, bias, *geometry, 0.2, 9, torch.int8, True),
        (
            *(op.conv, last, 0.1, 3, weight, scales, zeros, bias, *geometry, 0.2, 9, torch.uint8),
            *(False, [-1.0, 1.0], residual, 0.3, 7),
        ),
        (op.conv_float, q[0], 0.1, 3, weight, scales, zeros, None, *geometry, True),
        (op.conv_transpose_float, q, 0.1, 3, *transposed, True),
        (op.conv_transpose, q[0], 0.1, 3, *transposed, 0.2, 9, torch.int8),
        (op.conv_transpose_dynamic, x, *transposed, True, True, True),
        (op.linear_float, last.movedim(1, -1), 0.1, 3, flat, *wide, True),
        (op.linear, q[:, :, 0].mT, 0.1, 3, flat, *wide, 0.2, 3, torch.int8, False, "tanh"),
        (op.linear_dynamic, x[:, :, 0].mT.half(), flat, *wide, True, True, False, True),
        (op.channel_affine, q, 0.1, 3, channels.double(), points.double(), 0.1, 3, torch.uint8),
        (op.attention, *(last, 0.1, 3) * 3, 0.1, 3, torch.int8),
        (op.attention, *(q[0], 0.1, 3) * 3, 0.1, 3, torch.uint8, 0.5, 3),
        (op.attention, *(q[0], 0.1, 3) * 3, 0.1, 3, torch.uint8),
        (op.softmax, last, 0.1, 3, 1, 1 / 256, 0, torch.uint8),
        (op.cat, [last, q], [0.1, 0.2], [3, 4], 1, 0.1, 3),
        (op.cat, [q[0, 0], q[0, 1]], [0.1, 0.2], [3, 4], 0, 0.1, 3),
        (op.mul, q, 0.1, 3, q[:, :, :1], 0.2, 4, 0.1, 3),
        (op.upsample_nearest, q, [7, 9], [1.2, 1.5], True),
        (op.embedding_bag, indices, offsets, table, *rows, 6, True, "mean"),
        (op.embedding_bag, indices, offsets, table, *rows, 3, False, "sum", torch.rand(4), True, 2),
    ):
        yield call[0].default, call[1:], {}


def _check(call: Call) -> None:
    function, args, kwargs = call
    with torch.inference_mode(False):
        plain = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), args)
        torch.library.opcheck(function, plain, kwargs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_opcheck_of_calls_in_models(name: str) -> None:
    calls = _calls_of(name)
    assert calls
    for call in calls:
        _check(call)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("call", list(_further_calls()), ids=lambda call: call[0].__name__)
def test_opcheck_of_further_calls(call: Call) -> None:
    _check(call)


def test_every_operator_is_checked() -> None:
    checked = {function.__name__.partition(".")[0] for function, _, _ in _further_calls()}
    for name in NAMES:
        checked |= {function.__name__.partition(".")[0] for function, _, _ in _calls_of(name)}
    training = {"fake_quantize", "observe_extremes"}  # test_fake_quantize.py
    assert checked | training == registered()


def test_the_package_may_be_loaded_again() -> None:
    import importlib

    before = registered()
    for module in (octavo.library.linear, octavo.library.conv, octavo.library):
        importlib.reload(module)
    assert registered() == before
    q = torch.ops.octavo.quantize(torch.tensor([1.0]), 0.5, 3, torch.uint8)
    assert q.tolist() == [5]
