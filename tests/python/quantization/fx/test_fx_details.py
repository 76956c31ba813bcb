"""What a graph must not lose or get wrong on its way to int8: hooks, batch norms along the right
dimension, constants, and values that need no second quantization.
"""

from __future__ import annotations

import copy
import importlib
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from fx_models import assert_no_redundant_pairs, batch, calibrated, calls, conv_bn, sqnr
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.quantization.fx.operations import QConstant
from octavo.quantization.quantize_fx import (
    convert_fx,
    convert_to_reference_fx,
    fuse_fx,
    prepare_fx,
    prepare_qat_fx,
)
from quantization_support import oracle, quietly

X = ((2, 4, 6, 6),)


def prepared_int8(model: nn.Module, shapes: Any = X) -> tuple[Any, Any]:
    model.eval()
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    return prepared, convert_fx(calibrated(prepared, shapes))


# Hooks.


class Hooked(nn.Module):
    """A model that writes down which of its hooks run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(4, 4), nn.Conv2d(4, 4, 1)
        self.drop, self.pool, self.fc = nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.drop(F.relu(self.b(self.a(x)))))
        return self.fc(x.flatten(1))


LOG: list[str] = []


def note(name: str) -> Any:
    return lambda *_: LOG.append(name)


def logged(model: nn.Module) -> list[str]:
    LOG.clear()
    model(*batch(X))
    return list(LOG)


def test_hooks_stay_where_their_values_are() -> None:
    """As torch's fusion does it: pre-hooks of the first module, hooks of the last."""
    model = Hooked().eval()
    model.register_forward_hook(note("model"))
    model.register_forward_pre_hook(note("enter"))
    model.a[0].register_forward_pre_hook(note("before a"))
    model.a[2].register_forward_hook(note("after a"))
    model.drop.register_forward_pre_hook(note("dropout"))
    model.pool.register_forward_hook(note("pool"))
    model.fc.register_forward_hook(note("fc"), always_call=True)
    expected = ["enter", "before a", "after a", "dropout", "pool", "fc", "model"]
    assert logged(model) == expected
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(X))
    assert logged(calibrated(prepared, X)) == expected
    assert logged(copy.deepcopy(prepared)) == expected
    int8 = convert_fx(prepared)
    assert logged(int8) == expected
    assert logged(copy.deepcopy(int8)) == expected
    assert logged(convert_to_reference_fx(prepared)) == expected
    assert logged(fuse_fx(model)) == expected
    assert logged(model) == expected
    trained = prepare_qat_fx(model.train(), tq.get_default_qat_qconfig_mapping(), batch(X))
    assert logged(trained) == expected
    trained.eval()
    assert logged(convert_fx(trained)) == expected


def test_a_hook_that_changes_values_does_so_in_int8() -> None:
    model = Hooked().eval()
    model.fc.register_forward_pre_hook(lambda module, args: (args[0].flip(1),))
    _prepared, int8 = prepared_int8(model)
    assert sqnr(model(*batch(X)), int8(*batch(X))) > 25
    assert type(int8.fc) is nnq.Linear


@pytest.mark.parametrize("place", ["conv", "norm"])
def test_hooks_on_values_that_are_gone_are_named(place: str) -> None:
    model = Hooked().eval()
    model.a[["conv", "norm"].index(place)].register_forward_hook(note(place))
    kind = "BatchNorm2d" if place == "norm" else "Conv2d"
    with pytest.warns(UserWarning, match=rf"'a\.0': hooks on {kind} watched values that no longer"):
        fuse_fx(model)


def test_hooks_on_an_addition_that_is_fused() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + x

    model = Adds().eval()
    model.a.register_forward_pre_hook(note("a"))
    _, int8 = prepared_int8(model)
    assert type(int8.a) is nniq.ConvAdd2d
    assert logged(int8) == ["a"]


# Batch norms.


class Normalized(nn.Module):
    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer, self.norm, self.relu = layer, nn.BatchNorm1d(features), nn.ReLU()
        g = torch.Generator().manual_seed(1)
        for tensor in (self.norm.weight.data, self.norm.running_var):
            tensor.uniform_(0.2, 3, generator=g)
        for tensor in (self.norm.bias.data, self.norm.running_mean):
            tensor.normal_(generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.layer(x)))


@pytest.mark.parametrize(
    ("kind", "sizes", "shape", "folded"),
    [
        (nn.Linear, (6, 5), (7, 6), True),
        (nn.Linear, (6, 5), (7, 5, 6), False),  # along the sequence, which is as long
        (nn.Linear, (6, 4), (7, 5, 6), False),
        (nn.Conv1d, (4, 5, 1), (3, 4, 9), True),
        (nn.Conv1d, (4, 5, 1), (4, 5), False),  # unbatched: along the signal, which is as long
    ],
)
def test_batch_norm_along_another_dimension_is_not_folded(
    kind: Any, sizes: Any, shape: tuple[int, ...], folded: bool
) -> None:
    torch.manual_seed(0)
    model = Normalized(kind(*sizes), 5)
    prepared, int8 = prepared_int8(model, (shape,))
    (x,) = batch((shape,), 2)
    assert torch.allclose(prepared(x), model(x), atol=1e-5)
    assert len(calls(prepared, nn.BatchNorm1d)) == (0 if folded else 1)
    assert sqnr(model(x), int8(x)) > 25


def test_batch_norm_along_another_dimension_stays_in_training() -> None:
    torch.manual_seed(0)
    model = Normalized(nn.Linear(6, 5), 5).train()
    mapping = tq.get_default_qat_qconfig_mapping()
    sequence = prepare_qat_fx(model, mapping, batch(((7, 5, 6),)))
    assert len(calls(sequence, nn.BatchNorm1d)) == 1
    rows = prepare_qat_fx(model, mapping, batch(((7, 6),)))
    assert isinstance(rows.layer, nni.LinearBn1d) or hasattr(rows.layer, "bn")


# Constants.


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.table = nn.Parameter(torch.randn(1, 4, 6, 6))
        self.register_buffer("gain", torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x) * self.gain + self.table
        return y, self.table.exp()


def test_constants_are_quantized_once() -> None:
    torch.manual_seed(0)
    model = Constants().eval()
    prepared, int8 = prepared_int8(model)
    assert len(calls(int8, QConstant)) == 2
    assert len(calls(int8, nnq.Quantize)) == 1  # the input
    assert [n.target for n in int8.graph.nodes if n.op == "get_attr"] == ["table"]  # of exp
    assert "gain" not in int8.state_dict()
    assert int8.state_dict()["constant.values"].dtype is torch.uint8
    x = batch(X, 3)
    assert sqnr(model(*x), int8(*x)) > 30
    reference = convert_to_reference_fx(prepared)
    assert sqnr(model(*x), reference(*x)) > 30
    file = io.BytesIO()
    torch.save(int8.state_dict(), file)
    file.seek(0)
    other = Constants().eval()
    _, fresh = prepared_int8(other)
    assert not torch.equal(fresh(*x)[0], int8(*x)[0])
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(*x)[0], int8(*x)[0])
    program = torch.export.export(int8, x)
    assert torch.equal(program.module()(*x)[0], int8(*x)[0])


@pytest.mark.parametrize("number", [3.0, -3.0, 1000.0, 0.1])
@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8])
def test_sums_with_numbers_are_the_same_in_any_size(number: float, dtype: Any) -> None:
    """Large tensors go through a table where small ones are computed."""
    function = nnq.QFunctional()
    x = octavo.quantize_per_tensor(torch.randn(40, 30), 0.02, 19, dtype)
    whole = function.add_scalar(x, number)
    rows = [function.add_scalar(x[i : i + 1], number) for i in range(40)]
    assert torch.equal(whole.int_repr(), torch.cat([row.int_repr() for row in rows]))
    assert {(row.q_scale(), row.q_zero_point()) for row in rows} == {
        (whole.q_scale(), whole.q_zero_point())
    }


# Hidden mistakes.


def observers(prepared: Any) -> dict[str, str]:
    """What each observer sees: the name of the observed value and that of the observer."""
    return {
        n.args[0].name: n.target for n in prepared.graph.nodes if "post_process" in str(n.target)
    }


class Branches(nn.Module):
    """One value that many want, outputs that are inputs, and what only float operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        pooled = F.max_pool2d(y, 2)
        return {
            "same": x,
            "both": [self.b(y), self.c(y), self.b(x)],
            "float": (y.exp(), pooled.exp(), x.abs()),
            "cat": torch.cat([pooled, pooled, F.avg_pool2d(self.c(x), 2)], 1),
        }


def test_values_that_many_take() -> None:
    torch.manual_seed(0)
    model = Branches().eval()
    prepared, int8 = prepared_int8(model)
    seen = observers(prepared)
    nodes = [n for n in prepared.graph.nodes if "post_process" in str(n.target)]
    assert len(nodes) == len(seen) == 6  # x, a, b twice, c twice
    assert seen["a"] == seen["c_1"]  # they meet in the concatenation
    assert len(set(seen.values())) == 5
    assert_no_redundant_pairs(int8)
    assert len(calls(int8, nnq.Quantize)) == 1
    got, want = int8(*batch(X, 3)), model(*batch(X, 3))
    assert torch.equal(got["same"], want["same"])  # as it came
    assert torch.equal(got["float"][2], want["float"][2])
    assert sqnr(want["both"], got["both"]) > 30
    assert sqnr(want["cat"], got["cat"]) > 30
    assert sqnr(want["float"], got["float"]) > 30
    a, b, *_ = (int8.get_submodule(n.target) for n in calls(int8, nnq.Conv2d))
    assert a.scale != b.scale


def test_scales_do_not_leak_between_concatenations() -> None:
    """Two concatenations share a scale only through a value that is in both."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b, c, d = (layer(x) for layer in self.layers)
            return torch.cat([a, b], 1), torch.cat([c, d], 1)

    prepared, _ = prepared_int8(Two())
    seen = observers(prepared)
    assert seen["layers_0"] == seen["layers_1"]
    assert seen["layers_2"] == seen["layers_3"]
    assert len({seen[name] for name in ("x", "layers_0", "layers_2")}) == 3


def test_observers_of_torch_see_the_same_values() -> None:
    """A model of everything above, with torch's backend config."""
    theirs_fx = quietly(importlib.import_module, "torch.ao.quantization.quantize_fx")
    theirs = oracle()
    from octavo.quantization.backend_config import get_native_backend_config

    torch.manual_seed(0)
    model = Branches().eval()
    mapping = tq.QConfigMapping().set_global(
        tq.QConfig(tq.MinMaxObserver, tq.default_per_channel_weight_observer)
    )
    qconfig = theirs.QConfig(theirs.MinMaxObserver, theirs.default_per_channel_weight_observer)
    ours = prepare_fx(model, mapping, batch(X), backend_config=get_native_backend_config())
    other = quietly(
        theirs_fx.prepare_fx,
        copy.deepcopy(model),
        theirs.QConfigMapping().set_global(qconfig),
        batch(X),
    )
    calibrated(ours, X)
    quietly(calibrated, other, X)

    def found(prepared: Any) -> set[tuple[float, int]]:
        modules = dict(prepared.named_modules(remove_duplicate=False))
        names = {str(n.target) for n in prepared.graph.nodes if "post_process" in str(n.target)}
        pairs = [modules[name].calculate_qparams() for name in names]
        return {(float(scale), int(zero)) for scale, zero in pairs if scale.numel() == 1}

    assert found(ours) <= found(other)
    assert len(found(ours)) == 5
