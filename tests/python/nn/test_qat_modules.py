"""The modules of quantization-aware training, by themselves and beside torch.ao's."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.nn import qat as nnqat
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.qat import dynamic as nnqatd
from quantization_support import oracle, quietly

QCONFIG = tq.get_default_qat_qconfig()
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1, "bias": False},
    {"groups": 2, "dilation": 2, "padding": 2},
    {"padding": 1, "padding_mode": "circular"},
]
BATCH_NORMS = [f"Conv{kind}{rank}d" for kind in ("Bn", "BnReLU") for rank in (1, 2, 3)]
NAMES = [*BATCH_NORMS, "LinearBn1d", *(f"ConvReLU{rank}d" for rank in (1, 2, 3)), "LinearReLU"]


def norm_of(rank: int, channels: int) -> Any:
    bn = NORM[rank](channels)
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    with torch.no_grad():
        bn.weight[::2] *= -1
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.5, 2.0)
    return bn


def parts(name: str, **geometry: Any) -> tuple[list[nn.Module], Tensor]:
    """The float modules of a fused one, and an input for it."""
    torch.manual_seed(len(name) + 7 * len(geometry))
    if name.startswith("Linear"):
        layer: nn.Module = nn.Linear(6, 4)
        rank, x = 1, torch.randn(5, 6)
    else:
        rank = int(name[-2])
        layer = CONV[rank](4, 6, 3, **geometry)
        x = torch.randn(3, 4, *[7] * rank)
    channels = 4 if name.startswith("Linear") else 6
    bn = [norm_of(rank, channels)] if "Bn" in name else []
    return [layer, *bn, *([nn.ReLU()] if "ReLU" in name else [])], x


def float_form(name: str, home: Any = nni, **geometry: Any) -> tuple[nn.Module, Tensor]:
    modules, x = parts(name, **geometry)
    fused = getattr(home, name)(*modules)
    fused.qconfig = QCONFIG
    return fused.train(), x


def pair(name: str, **geometry: Any) -> tuple[Any, Any, Tensor]:
    """Octavo's module and torch.ao's, with equal parameters and the same fake-quantize."""
    oracle()
    import torch.ao.nn.intrinsic as theirs

    fused, x = float_form(name, **geometry)
    ours = getattr(nniqat, name).from_float(copy.deepcopy(fused))
    other, _ = float_form(name, theirs, **geometry)
    other.qconfig = QCONFIG
    other[0].qconfig = QCONFIG
    return ours, quietly(getattr(theirs.qat, name).from_float, other), x


def close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-4, atol=2e-5))


def assert_same_steps(ours: Any, theirs: Any, x: Tensor, steps: int = 3) -> None:
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (ours, theirs)]
    for step in range(steps):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outs = [m(i) for m, i in zip((ours, theirs), inputs, strict=True)]
        assert close(*outs)
        target = torch.sin(torch.arange(outs[0].numel()).float() + step).view_as(outs[0])
        for optimizer, out in zip(optimizers, outs, strict=True):
            optimizer.zero_grad()
            ((out - target) ** 2).mean().backward()
        assert close(inputs[0].grad, inputs[1].grad)  # type: ignore[arg-type]
        gradients = {n: p.grad for n, p in theirs.named_parameters()}
        for name, parameter in ours.named_parameters():
            assert close(parameter.grad, gradients[name]), name
        for optimizer in optimizers:
            optimizer.step()
        state = theirs.state_dict()
        for name, value in ours.state_dict().items():
            assert close(value.double(), state[name].double()), name
        ours.load_state_dict(state)  # a weight between two levels may go either way in the next one


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        (name, geometry)
        for name in NAMES
        for geometry in (GEOMETRIES if name.startswith("Conv") else [{}])
    ],
)
def test_training_equals_torchs_to_rounding(name: str, geometry: dict[str, Any]) -> None:
    ours, theirs, x = pair(name, **geometry)
    assert_same_steps(ours, theirs, x)
    assert set(ours.state_dict()) == set(theirs.state_dict())


@pytest.mark.parametrize("name", [*BATCH_NORMS, "LinearBn1d"])
def test_frozen_and_eval_equal_torchs_to_rounding(name: str) -> None:
    ours, theirs, x = pair(name)
    for module in (ours, theirs):
        module.freeze_bn_stats()
        module.train()
    assert not ours.bn.training
    assert_same_steps(ours, theirs, x)
    assert ours.bn.num_batches_tracked == 0
    for module in (ours, theirs):
        module.eval()
    assert close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d", "Linear"])
def test_plain_layers_equal_torchs(name: str) -> None:
    oracle()
    import torch.ao.nn.qat as theirs

    (layer, *_), x = parts(name)
    layer.qconfig = QCONFIG
    ours = getattr(nnqat, name).from_float(copy.deepcopy(layer))
    assert_same_steps(ours, quietly(getattr(theirs, name).from_float, layer), x)


@pytest.mark.parametrize("name", [*BATCH_NORMS, "LinearBn1d"])
@pytest.mark.parametrize("gamma", [0.0, -0.0, 1e-30, -1e-42])
@pytest.mark.parametrize("frozen", [False, True])
def test_vanishing_gammas_give_the_float_layers_gradients(
    name: str, gamma: float, frozen: bool
) -> None:
    fused, x = float_form(name)
    with torch.no_grad():
        fused[1].weight[1] = gamma
        fused[1].bias[1] = 0.75
    module = getattr(nniqat, name).from_float(copy.deepcopy(fused))
    if frozen:
        module.freeze_bn_stats()
        fused[1].eval()
    out, expected = module(x), fused(x)
    assert torch.isfinite(out).all()
    assert torch.equal(out[:, 1], torch.full_like(out[:, 1], 0.75))
    weights = torch.cos(torch.arange(out.numel()).float()).view_as(out)
    for result in (out, expected):
        (result * weights).sum().backward()
    for parameter in module.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert close(module.bn.weight.grad[1], fused[1].weight.grad[1])
    assert close(module.bn.bias.grad[1], fused[1].bias.grad[1])
    assert close(module.weight.grad[1], fused[0].weight.grad[1])


def test_all_gammas_zero_come_back_to_life() -> None:
    torch.manual_seed(0)
    module = nniqat.ConvBn2d(2, 3, 3, qconfig=QCONFIG)
    nn.init.zeros_(module.bn.weight)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.randn(8, 2, 6, 6)
    target = nn.BatchNorm2d(3)(nn.Conv2d(2, 3, 3)(x)).detach()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((module(x) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert module.bn.weight.abs().min() > 0


@pytest.mark.parametrize("name", [*NAMES, "ConvHardtanh2d"])
def test_to_float_computes_the_same_without_rounding(name: str) -> None:
    if name == "ConvHardtanh2d":
        fused: Any = nni.ConvHardtanh2d(nn.Conv2d(4, 6, 3), nn.ReLU6())
        fused.qconfig, x = QCONFIG, torch.randn(3, 4, 7, 7) * 8
    else:
        fused, x = float_form(name)
    module = getattr(nniqat, name).from_float(fused).eval()
    module.apply(tq.disable_fake_quant)
    result = module.to_float()
    assert not result.training
    assert close(result(x), module(x))
    assert close(module(x), fused.eval()(x))
    kind = name.replace("Bn", "").replace("Linear1d", "Linear")
    plain = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "Linear": nn.Linear}
    assert type(result) is (plain.get(kind) or getattr(nni, kind))


@pytest.mark.parametrize("name", NAMES)
def test_copies_pickles_and_state_dicts(name: str) -> None:
    fused, x = float_form(name)
    module = getattr(nniqat, name).from_float(fused)
    module(x)
    module.eval()
    expected = module(x)
    assert torch.equal(copy.deepcopy(module)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), expected)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = getattr(nniqat, name).from_float(float_form(name)[0]).eval()
    nn.init.zeros_(other.weight)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), expected)


def test_torchs_state_dict_loads() -> None:
    ours, theirs, x = pair("ConvBnReLU2d")
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    assert close(ours.eval()(x), theirs.eval()(x))


def test_names_of_files_of_old_torch_load() -> None:
    module = nniqat.ConvBn2d(2, 3, 1, qconfig=QCONFIG)
    state = dict(module.state_dict())
    for old, new in (("gamma", "weight"), ("beta", "bias"), ("running_mean", "running_mean")):
        state[old] = torch.full((3,), 2.0)
        del state[f"bn.{new}"]
    module.load_state_dict(state)
    assert module.bn.weight.tolist() == module.bn.running_mean.tolist() == [2.0, 2.0, 2.0]


def test_freeze_and_update_apply_to_models() -> None:
    model = nn.Sequential(nniqat.ConvBn2d(2, 3, 1, qconfig=QCONFIG), nn.BatchNorm2d(3))
    model.apply(nniqat.freeze_bn_stats)
    model.train()
    before = model[0].bn.running_mean.clone()
    model(torch.randn(4, 2, 3, 3) + 5)
    assert torch.equal(model[0].bn.running_mean, before)
    assert model[1].training
    assert model[0].weight_fake_quant.training
    model.apply(nniqat.update_bn_stats)
    model(torch.randn(4, 2, 3, 3) + 5)
    assert not torch.equal(model[0].bn.running_mean, before)
    model.eval().apply(nniqat.update_bn_stats)
    assert not model[0].bn.training


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_equals_a_rounded_table(mode: str) -> None:
    torch.manual_seed(1)
    bag = nnqat.EmbeddingBag(9, 5, mode=mode, qconfig=tq.default_embedding_qat_qconfig)
    rows, offsets = torch.tensor([1, 4, 4, 8, 0]), torch.tensor([0, 2])
    table = bag.weight_fake_quant(bag.weight.detach())
    expected = nn.functional.embedding_bag(rows, table, offsets, mode=mode)
    out = bag(rows, offsets)
    assert torch.equal(out, expected)
    assert not torch.equal(table, bag.weight)
    out.sum().backward()
    assert bag.weight.grad.abs().sum() > 0
    assert bag.weight.grad[7].abs().sum() == 0


def test_embedding_equals_torchs() -> None:
    oracle()
    import torch.ao.nn.qat as theirs

    table = nn.Embedding(11, 6, padding_idx=2)
    table.qconfig = tq.default_embedding_qat_qconfig
    ours = nnqat.Embedding.from_float(copy.deepcopy(table))
    table.qconfig = quietly(lambda: oracle().default_embedding_qat_qconfig)
    other = quietly(theirs.Embedding.from_float, table)
    rows = torch.tensor([[1, 2], [9, 1]])
    assert torch.allclose(ours(rows), other(rows), rtol=1e-6, atol=1e-7)
    for module in (ours, other):
        module(rows).square().sum().backward()
    assert close(ours.weight.grad, other.weight.grad)
    assert ours.padding_idx == 2
    assert type(ours.to_float()) is nn.Embedding


def test_wrong_arguments_are_named() -> None:
    for make in (
        lambda: nnqat.Linear(2, 3),
        lambda: nnqat.Conv2d(2, 3, 1),
        lambda: nniqat.ConvBn2d(2, 3, 1),
        lambda: nniqat.LinearBn1d(2, 3),
    ):
        with pytest.raises(ValueError, match="qconfig must be a QConfig with a weight"):
            make()
    with pytest.raises(ValueError, match=r"Linear.*has no qconfig"):
        nnqat.Linear.from_float(nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"ConvBn2d.*expected a octavo.nn.intrinsic.ConvBn2d"):
        nniqat.ConvBn2d.from_float(nn.Conv2d(2, 3, 1))
    with pytest.raises(ValueError, match="averaging_constant=1"):
        nnqatd.Linear(2, 3, qconfig=QCONFIG)
    with pytest.raises(ValueError, match="its qconfig gives weights the scheme"):
        nnqat.Embedding(2, 3, qconfig=QCONFIG)
    with pytest.raises(ValueError, match="sparse must be False"):
        nnqat.Embedding(2, 3, sparse=True, qconfig=tq.default_embedding_qat_qconfig)
    with pytest.raises(ValueError, match=r"LinearBn1d: expected a batch with 2 dimensions"):
        nniqat.LinearBn1d(2, 3, qconfig=QCONFIG)(torch.randn(2, 3, 2))
    fused = nni.ConvBn2d(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False))
    fused.qconfig = QCONFIG
    with pytest.raises(ValueError, match="affine=True"):
        nniqat.ConvBn2d.from_float(fused)
