"""A module that was fused into another one, and is called in other places too."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import octavo.nn.intrinsic as nni
import octavo.nn.quantized as nnq
import octavo.quantization as tq
from fx_support import Of
from octavo.quantization.fused_calls import count_fused_call
from octavo.quantization.quantize_fx import convert_fx, prepare_fx

GROUP = ["conv", "bn", "relu"]
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block; ``shared`` is the classic mistake."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.add = nnq.FloatFunctional()
        if not shared:
            self.last = nn.ReLU()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        x = self.add.add(x, self.relu(self.bn(self.conv(x))))
        return self.dequant((self.relu if self.shared else self.last)(x))


def hooked(model: nn.Module) -> list[str]:
    """The modules that count."""
    return [
        name
        for name, module in model.named_modules()
        if count_fused_call in module._forward_pre_hooks.values() or "_fused_calls" in vars(module)
    ]


def fused(shared: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return tq.fuse_modules(Block(shared).eval(), GROUP)


def test_a_float_model_warns_in_its_second_call_and_once() -> None:
    model = fused()
    model(X)
    with pytest.warns(UserWarning, match="'relu'") as caught:
        model(X)
    model(X)
    assert [str(warning.message) for warning in caught] == [
        "fuse_modules: 'relu' (ReLU) was fused into 'conv' of Block, and is called in other places "
        "too: 2 calls so far, against 1 of 'conv'. Its other calls do nothing now, so the numbers "
        "are wrong. Give each place a ReLU module of its own (it has no parameters, so checkpoints "
        "stay as they are), or leave 'relu' out of the fusion."
    ]
    assert caught[0].filename == __file__


def test_calibration_of_one_batch_is_told_by_convert_with_names_of_the_whole_model() -> None:
    model = nn.Sequential(nn.Identity(), Block(True)).eval()
    tq.fuse_modules(model[1], GROUP, inplace=True)
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(X)
    with pytest.warns(UserWarning, match=r"'1\.relu' .*'1\.conv' of Sequential.*2 .* 1 of '1"):
        converted = tq.convert(prepared)
    assert hooked(prepared) == ["1.conv", "1.bn", "1.relu"]
    assert hooked(converted) == []
    assert type(converted[1].relu) is nn.Identity
    assert not converted[1].conv._forward_pre_hooks
    tq.convert(prepared)  # once


def test_prepare_tells_what_one_float_call_showed() -> None:
    model = fused()
    model(X)
    model.qconfig = tq.get_default_qconfig()
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        tq.prepare(model)


def test_calibration_warns_in_its_second_batch() -> None:
    model = fused()
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        prepared(X)


def test_quantization_aware_training_warns() -> None:
    model = tq.fuse_modules_qat(Block(True).train(), GROUP)
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    assert type(prepared.conv).__module__.startswith("octavo.nn.intrinsic.qat")
    prepared(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        prepared(X)
    assert hooked(tq.convert(prepared.eval())) == []


def test_dynamic_quantization_warns_and_leaves_no_counts() -> None:
    layers = {"first": nn.Linear(4, 4), "relu": nn.ReLU(), "second": nn.Linear(4, 4)}
    model = Of(lambda m, x: m.relu(m.second(m.relu(m.first(x)))), **layers)
    model = tq.fuse_modules(model, ["first", "relu"])
    assert hooked(tq.quantize_dynamic(model, {nn.Linear})) == []
    model(torch.randn(2, 4))
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'first'"):
        tq.quantize_dynamic(model, {nn.Linear})


def test_a_batch_norm_that_is_called_elsewhere() -> None:
    model = Of(lambda m, x: m.bn(m.bn(m.conv(x))), conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3))
    model = tq.fuse_modules(model, ["conv", "bn"])
    assert type(model.conv) is nn.Conv2d
    model(X)
    with pytest.warns(UserWarning, match=r"'bn' \(BatchNorm2d\).*of its own, or leave 'bn' out"):
        model(X)


def test_what_is_right_does_not_warn() -> None:
    """Filters make warnings errors."""
    model = fused(shared=False)
    for _ in range(3):
        model(X)
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(X)
    prepared(X)
    assert hooked(tq.convert(prepared)) == []

    def both(m: Any, x: Tensor) -> Tensor:
        y = [m.conv(part) for part in (x, x + 1)]  # all calls of one, then all of the other
        return m.relu(y[0]) + m.relu(y[1])

    shared = Of(both, conv=nn.Conv2d(3, 3, 1), relu=nn.ReLU())
    shared = tq.fuse_modules(shared, ["conv", "relu"])
    for _ in range(3):
        shared(X)


def test_a_module_that_other_code_replaced_does_not_warn() -> None:
    model = fused(shared=False)
    model(X)
    model.conv = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model(X)
    model(X)
    model.qconfig = tq.get_default_qconfig()
    tq.prepare(model)


def test_own_fusers() -> None:
    def fuse(modules: list[nn.Module], is_qat: bool, additional: Any) -> list[nn.Module]:
        return [nn.Sequential(*modules), *[nn.Identity() for _ in modules[1:]]]

    model = tq.fuse_modules(Block(True).eval(), GROUP, fuser_func=fuse)
    model(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        model(X)

    one = nn.Identity()

    def with_one(modules: list[nn.Module], is_qat: bool, additional: Any) -> list[nn.Module]:
        return [nn.Sequential(*modules), *[one for _ in modules[1:]]]

    layers = [nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU()]
    model = tq.fuse_modules(
        nn.Sequential(*layers).eval(), [["0", "1"], ["2", "3"]], fuser_func=with_one
    )
    assert hooked(model) == []
    model(torch.rand(2, 3))
    model(torch.rand(2, 3))


def test_fusing_in_two_steps() -> None:
    model = tq.fuse_modules(Block(True).eval(), ["conv", "bn"])
    model(X)
    model = tq.fuse_modules(model, ["conv", "relu"])
    assert hooked(model) == ["conv", "bn", "relu"]
    assert list(model.conv._forward_pre_hooks.values()) == [count_fused_call]
    model(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'") as caught:
        model(X)
    assert len(caught) == 1


def test_a_failed_fusion_leaves_the_counts() -> None:
    model = tq.fuse_modules(Block(True).eval(), ["conv", "bn"])
    model.relu = nn.Softplus()
    with pytest.raises(NotImplementedError):
        tq.fuse_modules(model, ["conv", "relu"], inplace=True)
    assert hooked(model) == ["conv", "bn"]


def test_a_fused_module_that_becomes_part_of_another_one() -> None:
    model = tq.fuse_modules(Plain().eval(), ["second", "norm"])
    model.second = nni.ConvReLU2d(model.second, nn.ReLU()).eval()
    wrapped = tq.QuantWrapper(model)
    wrapped.qconfig = tq.get_default_qconfig()
    wrapped.module.bn = nn.Identity()
    prepared = tq.prepare(wrapped.eval())
    prepared(X)
    prepared(X)
    assert hooked(tq.convert(prepared)) == []
    wrapped.train().qconfig = tq.get_default_qat_qconfig()
    tq.prepare_qat(wrapped)(X)


# Copies, files, graphs, threads


def test_state_dicts_have_the_same_keys() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity())
    model = tq.fuse_modules(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval(), ["0", "1"])
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(X), plain(X))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "file"]
)
def test_copies_count_for_themselves(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = fused()
    other = copied(model)
    other(X)
    model(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        other(X)
    with pytest.warns(UserWarning, match="'relu' .ReLU. was fused into 'conv'"):
        model(X)


def compiled(model: nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="eager")


GRAPHS = {
    "script": lambda model: torch.jit.script(model),
    "trace": lambda model: torch.jit.trace(model, X),
    "fx": lambda model: torch.fx.symbolic_trace(model),
    "export": lambda model: torch.export.export(model, (X,)).module(),
    "strict export": lambda model: torch.export.export(model, (X,), strict=True).module(),
    "compile": compiled,
}


class Plain(nn.Module):
    """Layers that are fused in both ways, for graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.second, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.relu(self.bn(self.conv(x)))))


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_of_fused_models(graph: str) -> None:
    torch.manual_seed(0)
    model = tq.fuse_modules(Plain().eval(), [GROUP, ["second", "norm"]])
    expected = model(X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        made = GRAPHS[graph](model)
        for _ in range(3):
            torch.testing.assert_close(made(X), expected)
    model(X)  # nor does the model itself after what the graph called
    model(X)


def test_recomputed_parts_are_not_counted() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        def rest(y: Tensor) -> Any:
            return m.relu(y).sin()  # keeps its input, which is computed once more

        return checkpoint(rest, m.conv(x), use_reentrant=False)  # type: ignore[no-any-return]

    model = Of(run, conv=nn.Conv2d(3, 3, 1), relu=nn.ReLU())
    model = tq.fuse_modules(model, ["conv", "relu"])
    for _ in range(3):
        model(X).sum().backward()


def test_threads_count_together() -> None:
    model = fused(shared=False)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(model, [X] * 200))
    assert model.conv._fused_calls.calls == model.relu._fused_calls.calls == 200


def test_saved_int8_models_load_without_counts() -> None:
    model = fused(shared=False)
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    prepared(X)
    converted = tq.convert(prepared)
    loaded = tq.load_quantized(fused(shared=False), converted.state_dict())
    assert hooked(loaded) == []
    assert torch.equal(loaded(X), converted(X))


# Graph mode looks at calls


def test_graph_mode_fuses_one_call_of_a_shared_relu() -> None:
    torch.manual_seed(0)
    block = Block(True).eval()
    block.quant, block.dequant = nn.Identity(), nn.Identity()
    prepared = prepare_fx(block, tq.get_default_qconfig_mapping(), (X,))
    for _ in range(3):
        prepared(X)
    converted = convert_fx(prepared)
    expected = block(X)
    noise = (converted(X) - expected).square().mean()
    assert 10 * torch.log10(expected.square().mean() / noise) > 30
    assert converted(X).min() >= 0


def test_graph_mode_of_a_fused_model_has_no_counts() -> None:
    model = fused(shared=False)
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), (X,))
    assert hooked(prepared) == []
    assert hooked(model) == ["conv", "bn", "relu"]
