from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.quantization.fuser_method_mappings import _FUSERS
from quantization_support import equal_bits, oracle, quietly

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def lively_norm(cls: Any, channels: int, **kwargs: Any) -> nn.Module:
    """A batch norm that does something."""
    norm = cls(channels, **kwargs)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def sequence(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules).eval()


def names(model: nn.Sequential) -> list[str]:
    return [str(index) for index in range(len(model))]


def cases() -> list[tuple[str, nn.Sequential, Tensor, type]]:
    """Name, model, input, and the class of the fused module."""
    torch.manual_seed(0)
    result = []
    for rank in (1, 2, 3):
        x = torch.randn(2, 4, *[6] * rank)
        for bias in (False, True):
            conv = CONVS[rank](4, 6, 3, bias=bias, groups=2)
            bn = lively_norm(NORMS[rank], 6)
            fused_relu = getattr(nni, f"ConvReLU{rank}d")
            tag = f"{rank}d bias={bias}"
            result += [
                (f"conv+bn {tag}", sequence(conv, bn), x, CONVS[rank]),
                (f"conv+bn+relu {tag}", sequence(conv, bn, nn.ReLU()), x, fused_relu),
                (f"conv+relu {tag}", sequence(conv, nn.ReLU()), x, fused_relu),
            ]
            transposed = TRANSPOSED[rank](4, 6, 3, bias=bias)
            model = sequence(transposed, lively_norm(NORMS[rank], 6))
            result.append((f"transposed+bn {tag}", model, x, TRANSPOSED[rank]))
    for rank in (2, 3):
        x = torch.randn(2, 4, *[6] * rank)
        model = sequence(lively_norm(NORMS[rank], 4), nn.ReLU())
        result.append((f"bn+relu {rank}d", model, x, getattr(nni, f"BNReLU{rank}d")))
    linear, x = nn.Linear(4, 6), torch.randn(5, 4)
    result.append(("linear+relu", sequence(linear, nn.ReLU()), x, nni.LinearReLU))
    result.append(("linear+bn", sequence(linear, lively_norm(nn.BatchNorm1d, 6)), x, nn.Linear))
    return result


@pytest.mark.parametrize(("name", "model", "x", "fused_class"), cases(), ids=lambda v: str(v)[:30])
def test_fused_models_equal_the_originals_and_torchs(
    name: str, model: nn.Sequential, x: Tensor, fused_class: type
) -> None:
    expected = model(x)
    before = copy.deepcopy(model.state_dict())
    fused = tq.fuse_modules(model, names(model))
    assert type(fused[0]) is fused_class
    assert all(type(module) is nn.Identity for module in fused[1:])
    assert not any(module.training for module in fused.modules())
    torch.testing.assert_close(fused(x), expected, atol=1e-5, rtol=1e-4)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    theirs = quietly(oracle().fuse_modules, model, names(model))
    assert list(fused.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(fused.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert equal_bits(mine, other)
    assert equal_bits(fused(x), theirs(x))


def test_every_sequence_of_torch_is_known() -> None:
    def spelled(types: tuple[type, ...]) -> tuple[str, ...]:
        return tuple(cls.__name__ for cls in types)

    theirs = oracle().fuser_method_mappings._DEFAULT_OP_LIST_TO_FUSER_METHOD
    clamps = {types for types in _FUSERS if types[-1] in (nn.ReLU6, nn.Hardtanh)}
    assert len(clamps) == 12  # Octavo's own
    # torch has these for its onednn engine, in a table of that engine's.
    functions = {types for types in _FUSERS if types[-1] in (nn.LeakyReLU, nn.Tanh)}
    assert len(functions) == 3
    ours = {*_FUSERS} - clamps - functions
    assert {spelled(types) for types in theirs} == {spelled(types) for types in ours}


@pytest.mark.parametrize("bias", [False, True])
def test_grouped_transposed_convolution(bias: bool) -> None:
    for rank in (1, 2, 3):
        conv = TRANSPOSED[rank](4, 6, 3, groups=2, bias=bias)
        model = sequence(conv, lively_norm(NORMS[rank], 6))
        x = torch.randn(2, 4, *[5] * rank)
        fused = tq.fuse_modules(model, names(model))
        torch.testing.assert_close(fused(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_without_affine_and_with_zero_gamma(affine: bool) -> None:
    norm = lively_norm(nn.BatchNorm2d, 3, affine=affine)
    if affine:
        nn.init.zeros_(norm.weight)
    model = sequence(nn.Conv2d(3, 3, 1), norm)
    x = torch.randn(1, 3, 4, 4)
    fused = tq.fuse_modules(model, ["0", "1"])
    torch.testing.assert_close(fused(x), model(x), atol=1e-5, rtol=1e-4)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3), lively_norm(nn.BatchNorm2d, 4), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.relu(self.conv(x))).mean((2, 3))
        return self.blocks[1](self.blocks[0](x))


GROUPS = [["conv", "relu"], ["inner.0", "inner.1", "inner.2"], ["blocks.0", "blocks.1"]]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_nested_names_and_inplace(inplace: bool, as_tuple: bool) -> None:
    model = Nested().eval()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    groups: Any = tuple(map(tuple, GROUPS)) if as_tuple else GROUPS
    fused = tq.fuse_modules(model, groups, inplace=inplace)
    assert (fused is model) == inplace
    assert type(model.conv) is (nni.ConvReLU2d if inplace else nn.Conv2d)
    assert type(fused.inner[0]) is nni.ConvReLU2d
    assert type(fused.blocks[0]) is nni.LinearReLU
    torch.testing.assert_close(fused(x), expected, atol=1e-5, rtol=1e-4)


def test_an_empty_list_changes_nothing() -> None:
    model = Nested().eval()
    assert str(tq.fuse_modules(model, [])) == str(model)


# Training


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fusing_for_training_keeps_the_batch_norm(rank: int) -> None:
    conv, bn = CONVS[rank](3, 4, 3), lively_norm(NORMS[rank], 4)
    model = nn.Sequential(conv, bn, nn.ReLU()).train()
    x = torch.randn(2, 3, *[5] * rank)
    reference = copy.deepcopy(model)
    fused = tq.fuse_modules_qat(model, ["0", "1", "2"])
    assert type(fused[0]) is getattr(nni, f"ConvBnReLU{rank}d")
    assert fused[0].training
    assert fused[1].training
    assert equal_bits(fused(x), reference(x))
    assert type(tq.fuse_modules_qat(model, ["0", "1"])[0]) is getattr(nni, f"ConvBn{rank}d")


def test_fusing_linear_for_training() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    assert type(tq.fuse_modules_qat(model, ["0", "1"])[0]) is nni.LinearBn1d


def test_folding_needs_eval_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(
        ValueError, match=r"model\.eval\(\) first, or fuse_modules_qat.*\['0', '1'\]"
    ):
        tq.fuse_modules(model, ["0", "1"])


def test_fusing_without_batch_norm_works_in_training_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).train()
    assert tq.fuse_modules(model, ["0", "1"])[0].training


# Refusals


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda m: m[1].train(), ValueError, "same mode, got Conv2d in eval mode, BatchNorm2d in"),
        (
            lambda m: setattr(m, "1", nn.LayerNorm(4).eval()),
            NotImplementedError,
            "cannot fuse Conv",
        ),
        (lambda m: setattr(m, "1", nn.BatchNorm2d(5).eval()), ValueError, "4 output channels.* 5"),
        (
            lambda m: setattr(m, "1", nn.BatchNorm2d(4, track_running_stats=False).eval()),
            ValueError,
            "track_running_stats=False",
        ),
    ],
)
def test_what_cannot_be_fused_is_named(
    change: Callable[[nn.Sequential], Any], error: type, text: str
) -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    change(model)
    with pytest.raises(error, match=text):
        tq.fuse_modules(model, ["0", "1"])


def test_wrong_lists_and_names() -> None:
    model = Nested().eval()
    with pytest.raises(ValueError, match=r"no module 'inner\.3'; did you mean 'inner\.\d'"):
        tq.fuse_modules(model, ["inner.0", "inner.3"])
    with pytest.raises(ValueError, match="at least two paths, got \\['conv'\\]"):
        tq.fuse_modules(model, ["conv"])
    with pytest.raises(TypeError, match="must be a list of paths, got 'conv'"):
        tq.fuse_modules(model, "conv")


def test_batch_norm_without_affine_cannot_be_trained_fused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(ValueError, match="affine=False"):
        tq.fuse_modules_qat(model, ["0", "1"])
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(NotImplementedError, match="leave them apart"):
        tq.fuse_modules_qat(model, ["0", "1"])


# Subclasses


class Plain(nn.Conv2d):
    """A subclass that computes what its base does."""


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


def test_subclasses_are_fused_unless_they_compute_something_else() -> None:
    model = sequence(Plain(3, 4, 3), lively_norm(nn.BatchNorm2d, 4), nn.ReLU())
    x = torch.randn(1, 3, 6, 6)
    fused = tq.fuse_modules(model, ["0", "1", "2"])
    assert type(fused[0]) is nni.ConvReLU2d
    torch.testing.assert_close(fused(x), model(x), atol=1e-5, rtol=1e-4)
    with pytest.raises(NotImplementedError, match="Standardized overrides forward of Conv2d"):
        tq.fuse_modules(sequence(Standardized(3, 4, 3), nn.BatchNorm2d(4)), ["0", "1"])


def test_additional_fusers() -> None:
    def fuse(is_qat: bool, conv: nn.Module, bn: nn.Module) -> nn.Module:
        return nn.Sequential(conv, bn)

    config = {"additional_fuser_method_mapping": {(Standardized, nn.BatchNorm2d): fuse}}
    model = sequence(Standardized(3, 4, 3), nn.BatchNorm2d(4))
    fused = tq.fuse_modules(model, ["0", "1"], fuse_custom_config_dict=config)
    assert type(fused[0]) is nn.Sequential
    assert tq.get_fuser_method((nn.Linear, nn.ReLU)) is not None
    with pytest.raises(NotImplementedError, match=r"cannot fuse ReLU \+ Linear; what can be fused"):
        tq.get_fuser_method((nn.ReLU, nn.Linear))


def test_own_fuser_function() -> None:
    calls = []

    def fuse(modules: list[nn.Module], is_qat: bool, additional: Any) -> list[nn.Module]:
        calls.append((len(modules), is_qat))
        return [nn.Sequential(*modules), nn.Identity()]

    model = tq.fuse_modules(Nested().eval(), ["conv", "relu"], fuser_func=fuse)
    assert type(model.conv) is nn.Sequential
    assert calls == [(2, False)]


# Hooks, qconfigs


def test_hooks_at_the_ends_move_and_run_once() -> None:
    for fuse, model in (
        (tq.fuse_modules, sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        (tq.fuse_modules, sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))),
        (tq.fuse_modules, sequence(nn.Conv2d(3, 4, 3), nn.ReLU())),
        (tq.fuse_modules_qat, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
    ):
        seen = []
        first, last = model[0], model[-1]
        handles = [
            first.register_forward_pre_hook(lambda m, args, seen=seen: seen.append("pre")),
            last.register_forward_hook(
                lambda m, args, kwargs, out, seen=seen: seen.append("post"), with_kwargs=True
            ),
        ]
        fused = fuse(model, names(model), inplace=True)
        fused(torch.randn(2, 3, 5, 5))
        assert seen == ["pre", "post"]
        for handle in handles:
            handle.remove()
        fused(torch.randn(2, 3, 5, 5))
        assert seen == ["pre", "post"]


def test_hooks_in_the_middle() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model[0].register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="hooks on Conv2d watched values that no longer exist"):
        tq.fuse_modules(model, names(model))
    seen: list[int] = []
    model = sequence(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[0].register_forward_hook(lambda *args: seen.append(1))
    tq.fuse_modules(model, names(model))(torch.randn(1, 3, 5, 5))
    assert seen == [1]


def test_a_failed_fusion_leaves_the_hooks() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5))
    seen: list[int] = []
    model[0].register_forward_pre_hook(lambda *args: seen.append(1))
    with pytest.raises(ValueError, match="do not follow each other"):
        tq.fuse_modules(model, names(model), inplace=True)
    model[0](torch.randn(1, 3, 5, 5))
    assert seen == [1]


def test_the_qconfig_of_the_first_module_moves() -> None:
    model = sequence(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[0].qconfig = None
    assert tq.fuse_modules(model, names(model))[0].qconfig is None


# The float modules


def test_fused_modules_check_their_parts() -> None:
    with pytest.raises(TypeError, match=r"ConvReLU2d: conv must be an nn\.Conv2d, got Linear"):
        nni.ConvReLU2d(nn.Linear(2, 2), nn.ReLU())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ConvBnReLU2d: relu must be an nn\.ReLU, got ReLU6"):
        nni.ConvBnReLU2d(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU6())  # type: ignore[arg-type]


def test_an_observer_is_no_part_of_the_sequence() -> None:
    fused = nni.LinearReLU(nn.Linear(2, 2), nn.ReLU())
    fused.add_module("activation_post_process", nn.Hardtanh(-9, -8))
    x = torch.rand(3, 2)
    assert len(fused) == len(list(fused)) == 2
    assert torch.equal(fused(x), fused[1](fused[0](x)))


def test_residual_forms() -> None:
    x, y = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    conv = nn.Conv2d(2, 2, 1)
    assert torch.equal(nni.ConvAdd2d(conv, torch.add)(x, y), conv(x) + y)
    fused = nni.ConvAddReLU2d(conv, torch.add, nn.ReLU())
    assert torch.equal(fused(x, y), torch.relu(conv(x) + y))


def test_names_equal_torchs() -> None:
    oracle()
    from torch.ao.nn import intrinsic as theirs

    assert set(theirs.__all__) <= set(dir(nni))
