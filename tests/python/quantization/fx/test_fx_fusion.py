"""What becomes of functions, methods and layers: fused, quantized, left float; shared scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fx_models import batch, calibrated, calls, dequantizations
from fx_support import Of, X, close, conv, converted, mapping
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.quantization.backend_config import get_native_backend_config
from octavo.quantization.fx.operations import (
    QAdd,
    QAddScalar,
    QCat,
    QDivScalar,
    QMatMul,
    QMul,
    QMulScalar,
    QSubScalar,
)
from octavo.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx, prepare_qat_fx

# Fusion.


def test_fusion_of_functions_and_methods() -> None:
    methods = (lambda x: x.relu(), lambda x: x.relu_())
    for relu in (F.relu, torch.relu, *methods, nn.ReLU(), nn.ReLU(True)):
        model = Of(lambda m, x, relu=relu: relu(m.a(x)), a=conv(), relu=nn.Identity())
        if isinstance(relu, nn.Module):
            model.relu = relu
            model.function = lambda m, x: m.relu(m.a(x))
        fused = fuse_fx(model)
        assert type(fused.a) is nni.ConvReLU2d
        assert len(list(fused.graph.nodes)) == 3
        assert torch.equal(fused(*batch(X)), model(*batch(X)))


def test_layers_called_twice_are_fused_with_what_follows_each_call() -> None:
    """torch fuses a ReLU after one call of a shared layer into every call."""
    once = Of(lambda m, x: m.relu(m.a(x)) - m.a(x + 1), a=conv(), relu=nn.ReLU())
    fused = fuse_fx(once)
    assert (type(fused.a), type(fused.a_call)) == (nni.ConvReLU2d, nn.Conv2d)
    assert fused.a[0].weight is fused.a_call.weight
    assert torch.equal(fused(*batch(X)), once(*batch(X)))
    twice = Of(lambda m, x: m.a(x) - m.relu(m.a(x + 1)), a=conv(), relu=nn.ReLU())
    fused = fuse_fx(twice)
    assert (type(fused.a), type(fused.a_call)) == (nn.Conv2d, nni.ConvReLU2d)
    assert torch.equal(fused(*batch(X)), twice(*batch(X)))
    both = Of(lambda m, x: m.relu(m.a(x)) - m.relu(m.a(x + 1)), a=conv(), relu=nn.ReLU())
    fused = fuse_fx(both)
    assert type(fused.a) is nni.ConvReLU2d
    assert torch.equal(fused(*batch(X)), both(*batch(X)))
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight)
    partly = Of(lambda m, x: m.n(m.a(x)) + m.n(x), a=conv(), n=norm)
    fused = fuse_fx(partly)
    assert type(fused.n) is nn.BatchNorm2d
    assert [n.target for n in fused.graph.nodes if n.op == "call_module"] == ["a", "n"]
    assert torch.allclose(fused(*batch(X)), partly(*batch(X)), atol=1e-5)
    torch.manual_seed(3)
    for module in (partly.a, partly.n):
        module.train()
    trained = prepare_qat_fx(partly.train(), mapping(), batch(X))
    assert len(calls(trained, nn.BatchNorm2d)) == 2


def test_every_call_of_a_shared_convolution_adds() -> None:
    again = Of(lambda m, x: m.a(m.a(x) + x) + x, a=conv())
    int8 = converted(again)
    assert len(calls(int8, nniq.ConvAdd2d)) == 2
    assert int8.a._packed is int8.a_call._packed
    assert close(again, int8)


def test_values_used_twice_are_not_fused_away() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return torch.relu(y) * y

    model = Of(forward, a=conv())
    assert type(fuse_fx(model).a) is nn.Conv2d
    assert close(model, converted(model))


def test_convolutions_that_add() -> None:
    """Fused where the other operand has the same shape, whatever the batch."""
    same = Of(lambda m, x: x + m.a(x), a=conv())
    assert type(converted(same).a) is nniq.ConvAdd2d
    table = nn.Parameter(torch.randn(1, 4, 6, 6))
    constant = Of(lambda m, x: m.a(x) + m.table, a=conv())
    constant.table = table
    one = ((1, 4, 6, 6),)
    int8 = converted(constant, shapes=one)
    assert type(int8.a) is nnq.Conv2d
    assert close(constant, int8, X)  # another batch
    narrow = Of(lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), a=conv())
    assert type(converted(narrow).a) is nnq.Conv2d
    two = Of(lambda m, x: torch.relu(m.a(x) + m.b(x)), a=conv(), b=conv(2))
    int8 = converted(two)
    assert (type(int8.a), type(int8.b)) == (nniq.ConvAddReLU2d, nnq.Conv2d)
    assert close(two, int8)
    left = converted(same, mapping().set_module_name("a", None))
    assert type(left.a) is nn.Conv2d


def test_addition_and_relu() -> None:
    model = Of(lambda m, x: F.relu(m.a(x) + m.b(x) * 2), a=conv(), b=conv(2))
    int8 = converted(model, backend_config=get_native_backend_config())
    (added,) = calls(int8, QAdd)
    assert "relu" in repr(int8.get_submodule(added.target))
    assert close(model, int8)
    product = Of(lambda m, x: F.relu(m.a(x) * m.b(x)), a=conv(), b=conv(2))
    int8 = converted(product)
    assert len(calls(int8, QMul)) == 1
    assert "relu" in repr(int8.get_submodule(calls(int8, QMul)[0].target))
    assert bool((int8(*batch(X)) >= 0).all())
    assert close(product, int8)


# Operations.


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda m, x: m.a(x) + 3, QAddScalar),
        (lambda m, x: 3 + m.a(x), QAddScalar),
        (lambda m, x: m.a(x) * -0.5, QMulScalar),
        (lambda m, x: 0.5 * m.a(x), QMulScalar),
        (lambda m, x: m.a(x).add(1), QAddScalar),
        (lambda m, x: m.a(x) * x.shape[0], QMulScalar),
        (lambda m, x: m.a(x) - 0.25, QSubScalar),
        (lambda m, x: 1 - m.a(x), QSubScalar),
        (lambda m, x: m.a(x).sub(x.shape[0]), QSubScalar),
        (lambda m, x: m.a(x) / 8, QDivScalar),
        (lambda m, x: torch.div(m.a(x), -3.0), QDivScalar),
        (lambda m, x: m.a(x) @ x, QMatMul),
        (lambda m, x: torch.matmul(m.a(x), x.transpose(2, 3)), QMatMul),
        (lambda m, x: m.a(x).mul_(x), QMul),
    ],
)
def test_operations(function: Any, kind: type) -> None:
    model = Of(function, a=conv())
    int8 = converted(model)
    assert len(calls(int8, kind)) == 1
    assert len(dequantizations(int8)) == 1
    assert close(model, int8)


def _cat_of_chunks(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, 1), 2)


def _torch_traces(function: Callable[[Tensor], Tensor]) -> bool:
    try:
        fx.symbolic_trace(function)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: x.mean((2, 3)),
        lambda x: torch.mean(x, dim=1, keepdim=True),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.flatten(1).unsqueeze(0).squeeze(0),
        lambda x: x.permute(0, 2, 3, 1).contiguous(),
        lambda x: x.transpose(1, 2)[:, 1:, ::2],
        lambda x: torch.stack([x, x], 1),
        pytest.param(
            _cat_of_chunks,
            marks=pytest.mark.skipif(
                not _torch_traces(_cat_of_chunks),
                reason="torch.fx of this version cannot trace torch.cat of what is no list",
            ),
        ),
        lambda x: F.hardtanh(x, -0.2, 0.3),
        lambda x: F.relu6(x),
        lambda x: x.clamp(-0.1, 0.4),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pad(x, (1, 2)),
        lambda x: F.pad(x, (1, 2, 0, 1), "replicate"),
        lambda x: x.view(*x.shape[:2], -1),
        lambda x: F.dropout(x, 0.5, False),
        lambda x: torch.sigmoid(x),
        lambda x: F.softmax(x, 1),
        lambda x: x.softmax(dim=-1),
        lambda x: torch.softmax(x * 2, 1),
        lambda x: x.tanh(),
        lambda x: F.hardsigmoid(x),
        lambda x: F.hardswish(x),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: F.elu(x),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.silu(x),
        lambda x: F.group_norm(x, 2, torch.ones(4)),
    ],
)
def test_functions(function: Any) -> None:
    """Each runs in int8 between convolutions or at the end."""
    model = Of(lambda m, x: function(m.a(x)), a=conv())
    int8 = converted(model)
    assert len(dequantizations(int8)) == 1
    assert not [n for n in int8.graph.nodes if n.op == "placeholder" and len(n.users) > 1]
    assert dequantizations(int8)[0].next.op == "output"
    assert close(model, int8, decibels=22)


def test_functions_without_int8_form_stay_float() -> None:
    mask = torch.arange(6) > 3
    cases: list[Any] = [
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
        lambda x: torch.add(x, x, alpha=2),
        lambda x: x - x.abs(),
        lambda x: 1 / x.abs().add(3),
        lambda x: torch.sub(x, 1, alpha=2),
        lambda x: x.exp(),
        lambda x: torch.exp(x * 2 - 1),
        lambda x: F.pad(x, (1, 2), value=1.0),
        lambda x: F.log_softmax(x, 1),
        lambda x: F.softmax(x, 1, dtype=torch.float32),
        lambda x: F.softmax(x + mask * -1e9, 1),
        lambda x: (x - mask * 1e9).softmax(-1),
        lambda x: x.masked_fill(mask, -1e9).softmax(-1),
        lambda x: x.mean(1, dtype=torch.float64).float(),
        lambda x: F.layer_norm(x, (6,), x[0, 0, 0].abs()),
    ]
    for function in cases:
        model = Of(lambda m, x, f=function: m.b(f(m.a(x)[..., :6])), a=conv(), b=nn.Identity())
        int8 = converted(model)
        assert close(model, int8)
        assert int8.quantization_report.left_float


def test_nothing_between_floats_is_quantized() -> None:
    model = Of(lambda m, x: F.max_pool2d(torch.exp(x), 2).flatten(1).relu().exp())
    prepared = prepare_fx(model, mapping(), batch(X))
    assert not [n for n in prepared.graph.nodes if "post_process" in str(n.target)]


# Shared scales.


def test_concatenation_shares_a_scale_where_it_can() -> None:
    shared = Of(lambda m, x: torch.cat([m.a(x), F.max_pool2d(m.b(x), 1)], 1), a=conv(), b=conv(2))
    prepared = prepare_fx(shared, mapping(), batch(X))
    nodes = [n for n in prepared.graph.nodes if "post_process" in str(n.target)]
    assert [n.target[-1] for n in nodes] == ["0", "1", "1"]
    int8 = convert_fx(calibrated(prepared, X))
    assert int8.a.scale == int8.b.scale
    assert not calls(int8, QCat)
    fixed = Of(lambda m, x: torch.cat([m.a(x), torch.sigmoid(m.b(x))], 1), a=conv(), b=conv(2))
    int8 = converted(fixed)
    assert len(calls(int8, QCat)) == 1
    assert int8.a.scale != int8.b.scale
    assert close(fixed, int8)
    scaled = Of(lambda m, x: torch.cat([m.a(x), m.b(x) * 0.01], 1), a=conv(), b=conv(2))
    int8 = converted(scaled)
    assert len(calls(int8, QCat)) == 1
    assert close(scaled, int8, decibels=30)
    stacked = Of(lambda m, x: torch.stack([m.a(x), torch.sigmoid(m.b(x))]), a=conv(), b=conv(2))
    assert close(stacked, converted(stacked))


def test_shared_layers_have_a_scale_for_each_call() -> None:
    model = Of(lambda m, x: m.a(m.a(x) * 20), a=conv())
    int8 = converted(model)
    first, second = (int8.get_submodule(n.target) for n in calls(int8, nnq.Conv2d))
    assert first.scale * 2 < second.scale
    assert first._packed is second._packed
    assert close(model, int8)


# In place.


def test_operations_in_place() -> None:
    """What reads a tensor after it was changed in place reads what became of it."""

    def unused_result(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        m.relu(y)
        return m.b(y) + y

    model = Of(unused_result, a=conv(), b=conv(2), relu=nn.ReLU(inplace=True))
    fused = fuse_fx(model)
    assert torch.equal(fused(*batch(X)), model(*batch(X)))
    assert close(model, converted(model))

    def method(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y.add_(x).relu_()
        return m.b(y)

    model = Of(method, a=conv(), b=conv(2))
    assert close(model, converted(model))

    def through_a_view(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        view = y.view(-1)
        y.relu_()
        return view

    with pytest.raises(ValueError, match="'output' reads the same memory"):
        prepare_fx(Of(through_a_view, a=conv()), mapping(), batch(X))
