"""Quantization-aware training as a workflow: prepare_qat, train, convert."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.intrinsic as nni
import octavo.quantization as tq
from octavo.nn import qat as nnqat
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.qat import dynamic as nnqatd
from octavo.nn.quantized import dynamic as nnqd
from octavo.tensor import QTensor
from quantization_support import Net, oracle, quietly, trained_net

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Every(nn.Sequential):
    """Convolutions of one rank in every fused form, then every form of Linear."""

    def __init__(self, rank: int) -> None:
        conv, norm = CONV[rank], NORM[rank]
        pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[rank]
        super().__init__(
            tq.QuantStub(),
            *(conv(3, 6, 3, padding=1, bias=False), norm(6), nn.ReLU()),
            *(conv(6, 6, 3, padding=1, groups=2), norm(6)),
            *(conv(6, 8, 1), nn.ReLU()),
            *(conv(8, 4, 3), nn.ReLU6()),
            conv(4, 6, 1),
            *(pool(1), nn.Flatten()),
            *(nn.Linear(6, 8), nn.BatchNorm1d(8)),
            *(nn.Linear(8, 8), nn.ReLU()),
            nn.Linear(8, 3),
            tq.DeQuantStub(),
        )

    GROUPS = (["1", "2", "3"], ["4", "5"], ["6", "7"], ["8", "9"], ["13", "14"], ["15", "16"])


def every(rank: int, backend: str = "octavo", version: int = 1) -> nn.Module:
    torch.manual_seed(rank)
    model = Every(rank).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            module.weight.data[1] = 0
    fused = tq.fuse_modules_qat(model, [list(group) for group in Every.GROUPS])
    fused.qconfig = tq.get_default_qat_qconfig(backend, version)
    return fused


def train(model: nn.Module, rank: int, steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        x = torch.randn(6, 3, *[6] * rank, generator=generator)
        optimizer.zero_grad()
        (model(x) - x.flatten(1)[:, :3]).square().mean().backward()
        optimizer.step()


def quantized(x: Tensor, observer: Any) -> QTensor:
    scale, zero_point = observer.calculate_qparams()
    return octavo.quantize_per_tensor(x, float(scale), int(zero_point), observer.dtype)


def assert_layers_agree(prepared: nn.Module, x: Tensor) -> int:
    """Runs a prepared Sequential in eval mode; each converted layer gives, of the levels that the
    fake-quantized layer takes, the levels that that one gives, within one. Returns how many layers
    that was.
    """
    prepared.eval()
    prepared.apply(tq.disable_observer)
    converted = tq.convert(prepared)
    layers = 0
    observer: Any = None
    last: Any = None
    for (name, module), int8 in zip(prepared.named_children(), converted.children(), strict=True):
        if hasattr(module, "weight_fake_quant"):
            layers += 1
            q = quantized(x, observer)  # pooling takes the values off the levels
            if observer is last:
                assert torch.allclose(q.dequantize(), x, atol=1e-3 * q.q_scale())
            x = module(q.dequantize()).detach()
            observer = module.activation_post_process
            steps = (int8(q).int_repr().int() - quantized(x, observer).int_repr().int()).abs()
            assert steps.max() <= 1, name
            assert (steps != 0).float().mean() < 0.01, name
        else:
            x = module(x)
            observer = getattr(module, "activation_post_process", observer)
        last = getattr(module, "activation_post_process", None)
    return layers


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("backend", "version"), [("octavo", 1), ("octavo", 0), ("x86", 1), ("qnnpack", 1)]
)
def test_converted_layers_equal_the_fake_quantized_ones(
    rank: int, backend: str, version: int
) -> None:
    prepared = tq.prepare_qat(every(rank, backend, version))
    train(prepared, rank)
    assert assert_layers_agree(prepared, torch.randn(5, 3, *[6] * rank)) == 8


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_form_is_trained_and_converted(rank: int) -> None:
    prepared = tq.prepare_qat(every(rank))
    expected: dict[str, Any] = {
        "1": (getattr(nniqat, f"ConvBnReLU{rank}d"), getattr(nniq, f"ConvReLU{rank}d")),
        "4": (getattr(nniqat, f"ConvBn{rank}d"), getattr(nnq, f"Conv{rank}d")),
        "6": (getattr(nniqat, f"ConvReLU{rank}d"), getattr(nniq, f"ConvReLU{rank}d")),
        "8": (getattr(nniqat, f"ConvHardtanh{rank}d"), getattr(nniq, f"ConvHardtanh{rank}d")),
        "10": (getattr(nnqat, f"Conv{rank}d"), getattr(nnq, f"Conv{rank}d")),
        "13": (nniqat.LinearBn1d, nnq.Linear),
        "15": (nniqat.LinearReLU, nniq.LinearReLU),
        "17": (nnqat.Linear, nnq.Linear),
    }
    train(prepared, rank)
    converted = tq.convert(prepared.eval())
    for name, (trained, int8) in expected.items():
        assert type(prepared.get_submodule(name)) is trained
        assert type(converted.get_submodule(name)) is int8
    assert not any(hasattr(m, "weight_fake_quant") for m in converted.modules())
    x = torch.randn(4, 3, *[6] * rank)
    assert (converted(x) - prepared(x)).abs().max() < 0.1 * prepared(x).abs().max()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("clamp", [nn.ReLU6, lambda: nn.Hardtanh(-0.5, 1.5)])
def test_batch_norm_and_clamp(rank: int, clamp: Any) -> None:
    """Convolution, batch norm and ReLU6 are one layer in training, as after it."""
    torch.manual_seed(rank)
    model = nn.Sequential(tq.QuantStub(), CONV[rank](3, 6, 3), NORM[rank](6), clamp()).train()
    nn.init.normal_(model[2].weight, 3.0)
    model[2].weight.data[1] = 0
    fused: Any = tq.fuse_modules_qat(model, ["1", "2", "3"])
    assert type(fused[1]) is getattr(nni, f"ConvBnHardtanh{rank}d")
    fused.qconfig = tq.get_default_qat_qconfig()
    prepared: Any = tq.prepare_qat(fused)
    assert type(prepared[1]) is getattr(nniqat, f"ConvBnHardtanh{rank}d")
    low, high = prepared[1].min_val, prepared[1].max_val
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(3):
        out = prepared(torch.randn(6, 3, *[6] * rank))
        assert low - 0.05 < out.min()
        assert out.max() < high + 0.05
        optimizer.zero_grad()
        out.square().mean().backward()
        assert prepared[1].bn.weight.grad.abs().sum() > 0
        optimizer.step()
    assert assert_layers_agree(prepared, torch.randn(5, 3, *[6] * rank)) == 1
    int8: Any = tq.convert(prepared)[1]
    assert type(int8) is getattr(nniq, f"ConvHardtanh{rank}d")
    assert (int8.min_val, int8.max_val) == (low, high)
    with pytest.raises(ValueError, match="form of a fused batch norm"):
        tq.prepare(fused.eval())


def steps_apart(layer: nn.Module, qconfig: Any) -> Tensor:
    """By how many levels a trained layer and its int8 form differ, for each value."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.05, 1.0)
    model: Any = nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3), layer, tq.DeQuantStub()).train()
    model.qconfig = qconfig
    prepared = tq.prepare_qat(model)
    for _ in range(3):
        prepared(torch.randn(8, 3, 10, 10))
    prepared.eval().apply(tq.disable_observer)
    int8 = tq.convert(prepared)
    x = 4 * torch.randn(8, 3, 10, 10)  # further than what was seen
    with torch.inference_mode():
        scale = int8[2](int8[1](int8[0](x))).q_scale()
        return ((prepared(x) - int8(x)) / scale).abs()


def test_where_training_and_int8_differ() -> None:
    """As the module's docstring says; everything else is the same but for ties."""
    ordinary = tq.get_default_qat_qconfig()
    for layer in (nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.PReLU(4)):
        assert (steps_apart(layer, ordinary) > 1e-3).float().mean() < 0.01
    for layer in (nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2), nn.Upsample(None, 2, "bilinear")):
        steps = steps_apart(layer, ordinary)
        assert (steps > 1e-3).float().mean() > 0.5
        assert steps.max() < 0.501
    assert (steps_apart(nn.ConvTranspose2d(4, 4, 2), ordinary) > 0.5).float().mean() > 0.01
    activation = tq.FakeQuantize.with_args(
        observer=tq.MovingAverageMinMaxObserver, dtype=octavo.quint8, quant_min=0, quant_max=15
    )
    narrow = tq.QConfig(activation=activation, weight=ordinary.weight)
    assert steps_apart(nn.MaxPool2d(2), narrow).max() > 2


def test_a_step_after_the_last_forward_counts() -> None:
    """The optimizer changes weights, and the batch norm its statistics, after the weight's
    fake-quantize last saw them.
    """
    prepared = tq.prepare_qat(every(2))
    train(prepared, 2)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.mul_(1.7)
    prepared.eval()
    x = torch.randn(4, 3, 6, 6)
    converted = tq.convert(prepared)
    assert (converted(x) - prepared(x)).abs().max() < 0.1 * prepared(x).abs().max()


def test_training_converges() -> None:
    """Two classes of noisy stripes; the float model, the fake-quantized and the int8 one learn
    them.
    """
    torch.manual_seed(4)

    def data(count: int) -> tuple[Tensor, Tensor]:
        target = torch.randint(0, 2, (count,))
        x = torch.randn(count, 3, 8, 8)
        x[:, :, ::2] += (target.float() * 1.2 - 0.6)[:, None, None, None]
        return x, target

    model = tq.fuse_modules_qat(
        Net(), [["stem", "relu"], ["block.conv", "block.bn", "block.relu"]]
    ).train()
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        if step == 45:
            prepared.apply(tq.disable_observer).apply(nniqat.freeze_bn_stats)
        x, target = data(32)
        loss = nn.functional.cross_entropy(prepared(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])  # the moving average bounds the outputs
    int8 = tq.convert(prepared.eval())
    x, target = data(400)
    assert (int8(x).argmax(1) == target).float().mean() > 0.93
    assert (int8(x).argmax(1) == prepared(x).argmax(1)).float().mean() > 0.99


def test_equals_torchs_workflow() -> None:
    """With the same fake-quantize modules, torch.ao's prepare_qat trains to the same numbers."""
    ao = oracle()
    qconfig = tq.get_default_qat_qconfig("qnnpack")
    groups = [["stem", "relu"], ["block.conv", "block.bn", "block.relu"]]
    from torch.ao.nn.quantized import FloatFunctional

    ours = tq.fuse_modules_qat(trained_net().train(), groups)
    theirs = quietly(
        ao.fuse_modules_qat, trained_net(parts=ao, functional=FloatFunctional).train(), groups
    )
    ours.qconfig = theirs.qconfig = qconfig
    ours, theirs = tq.prepare_qat(ours), quietly(ao.prepare_qat, theirs)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for step in range(3):
        x = torch.randn(4, 3, 8, 8)
        outs = [model(x) for model in (ours, theirs)]
        assert torch.allclose(*outs, rtol=1e-4, atol=1e-5), step
        for out in outs:
            out.square().sum().backward()
        gradients = {name: p.grad for name, p in theirs.named_parameters()}
        for name, parameter in ours.named_parameters():
            assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4), name


def test_the_given_model_stays_as_it_was() -> None:
    model = every(2)
    before = copy.deepcopy(model.state_dict())
    prepared = tq.prepare_qat(model)
    train(prepared, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert type(model.get_submodule("17")) is nn.Linear
    parameters = {id(p) for p in model.parameters()}
    changed = tq.prepare_qat(model, inplace=True)
    assert changed is model
    assert {id(p) for p in model.parameters()} == parameters


def test_prepared_models_copy_pickle_and_load() -> None:
    prepared = tq.prepare_qat(every(2))
    train(prepared, 2)
    prepared.eval().apply(tq.disable_observer)
    x = torch.randn(4, 3, 6, 6)
    expected = prepared(x)
    assert torch.equal(copy.deepcopy(prepared)(x), expected)
    loaded = pickle.loads(pickle.dumps(prepared))
    assert torch.equal(loaded(x), expected)
    other = tq.prepare_qat(every(2))
    other.load_state_dict(prepared.state_dict())
    other.eval()
    assert torch.equal(other(x), expected)
    for model in (loaded, other):
        assert torch.equal(tq.convert(model)(x), tq.convert(prepared)(x))


def test_roots_subclasses_and_shared_modules() -> None:
    class Mine(nn.Linear):
        pass

    root = Mine(3, 2)
    root.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(root)
    assert type(prepared) is nnqat.Linear
    prepared(torch.randn(4, 3))
    assert type(tq.convert(prepared)) is nnq.Linear
    with pytest.raises(ValueError, match="the model itself is a Mine"):
        tq.prepare_qat(root, inplace=True)
    shared = nn.Linear(3, 3)
    model = nn.Sequential(tq.QuantStub(), shared, shared)
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    assert prepared[1] is prepared[2]
    tied = nn.Sequential(tq.QuantStub(), nn.Linear(3, 3), nn.Linear(3, 3))
    tied[2].weight = tied[1].weight
    tied.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(tied)
    assert prepared[1].weight is prepared[2].weight


def test_a_subclass_with_its_own_forward_stays_float() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    model = nn.Sequential(tq.QuantStub(), Doubled(3, 3))
    model.qconfig = tq.get_default_qat_qconfig()
    with pytest.warns(UserWarning, match="Doubled overrides forward"):
        prepared = tq.prepare_qat(model)
    assert type(prepared[1]) is Doubled


def test_hooks_and_qconfigs_of_parts() -> None:
    model = every(2)
    model.get_submodule("17").qconfig = None
    calls = []
    handle = model.get_submodule("10").register_forward_hook(lambda *a: calls.append(1))
    prepared = tq.prepare_qat(model, inplace=True)
    assert type(prepared.get_submodule("17")) is nn.Linear
    train(prepared, 2, steps=1)
    assert calls == [1]
    handle.remove()
    train(prepared, 2, steps=1)
    assert calls == [1]
    by_name = every(2)
    del by_name.qconfig
    prepared = tq.prepare_qat(
        by_name, qconfig_dict={"": tq.get_default_qat_qconfig(), nn.Conv2d: None}
    )
    assert type(prepared.get_submodule("10")) is nn.Conv2d
    assert type(prepared.get_submodule("17")) is nnqat.Linear


def test_errors() -> None:
    model = every(2)
    with pytest.raises(ValueError, match=r"in eval mode; call model.train\(\)"):
        tq.prepare_qat(copy.deepcopy(model).eval())
    prepared = tq.prepare_qat(model)
    for prepare in (tq.prepare_qat, tq.prepare):
        with pytest.raises(ValueError, match="has an observer already"):
            prepare(prepared)
    with pytest.raises(RuntimeError, match="never saw data"):
        tq.convert(prepared)
    with pytest.raises(ValueError, match=r"prepare: '1' \(ConvBnReLU2d\).*prepare_qat"):
        tq.prepare(model)
    train(prepared, 2)
    with pytest.raises(ValueError, match="quantized already"):
        tq.prepare_qat(tq.convert(prepared).train())
    with torch.no_grad():
        prepared.get_submodule("1").bn.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"'bn.weight' of '1' \(ConvBnReLU2d\) holds 1 NaN"):
        tq.convert(prepared)
    with pytest.warns(UserWarning, match="no module has a qconfig"):
        tq.prepare_qat(nn.Sequential(nn.Linear(2, 2)))


def test_float_weights_in_training_are_an_error_in_convert() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(2, 2))
    model.qconfig = tq.default_activation_only_qconfig
    prepared = tq.prepare_qat(model)
    prepared(torch.randn(3, 2))
    with pytest.raises(TypeError, match="Identity is no weight observer"):
        tq.convert(prepared)


def test_modules_made_by_hand_are_prepared() -> None:
    qconfig = tq.get_default_qat_qconfig()
    model = nn.Sequential(tq.QuantStub(), nnqat.Linear(4, 4, qconfig=qconfig))
    model.qconfig = qconfig
    for prepare in (tq.prepare, tq.prepare_qat):
        prepared = prepare(model)
        assert type(prepared[1]) is nnqat.Linear
        prepared(torch.randn(3, 4))
        assert type(tq.convert(prepared)[1]) is nnq.Linear


def test_quantize_qat() -> None:
    model = every(2)
    before = copy.deepcopy(model.state_dict())
    int8 = tq.quantize_qat(model, train, [2])
    assert type(int8.get_submodule("17")) is nnq.Linear
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.isfinite(int8.eval()(torch.randn(2, 3, 6, 6))).all()
    changed = tq.quantize_qat(model, train, [2], inplace=True)
    assert changed is model


def test_dynamic_training() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).train()
    model.qconfig = tq.default_dynamic_qat_qconfig
    prepared = tq.prepare_qat(model, mapping={nn.Linear: nnqatd.Linear})
    x = torch.randn(5, 6)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    for _ in range(3):
        prepared(x).square().mean().backward()
        optimizer.step()
    expected = prepared.eval()(x).detach()
    int8 = tq.convert(prepared, mapping=tq.get_default_dynamic_quant_module_mappings())
    assert type(int8[0]) is nnqd.Linear
    assert int8[0].per_tensor
    assert torch.allclose(int8(x), expected, rtol=1e-3, atol=0.02 * float(expected.abs().max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        static = tq.convert(prepared)
    assert type(static[0]) is nnqatd.Linear


def test_embeddings() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 8, padding_idx=1)
            self.bag = nn.EmbeddingBag(12, 8, mode="mean")

        def forward(self, x: Tensor) -> Tensor:
            return self.words(x).sum(1) + self.bag(x)  # type: ignore[no-any-return]

    for qconfig in (tq.default_embedding_qat_qconfig, tq.default_embedding_qat_qconfig_4bit):
        model = Tables().train()
        model.qconfig = qconfig
        prepared = tq.prepare_qat(model)
        assert type(prepared.words) is nnqat.Embedding
        x = torch.randint(0, 12, (3, 4))
        optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
        prepared(x).square().mean().backward()
        optimizer.step()
        expected = prepared.eval()(x)
        int8 = tq.convert(prepared)
        assert type(int8.words) is nnq.Embedding
        assert type(int8.bag) is nnq.EmbeddingBag
        assert torch.allclose(int8(x), expected, rtol=1e-5, atol=1e-5)
    model = Tables().train()
    model.qconfig = tq.get_default_qat_qconfig()
    assert type(tq.prepare_qat(model).words) is nn.Embedding


@pytest.mark.parametrize(
    "activation", [nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Softmax(1)], ids=lambda m: str(m)
)
def test_outputs_of_known_range_are_rounded_in_training(activation: nn.Module) -> None:
    torch.manual_seed(6)
    model = nn.Sequential(tq.QuantStub(), nn.Linear(5, 9), activation, tq.DeQuantStub())
    model.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(model)
    x = torch.randn(40, 5) * 2
    prepared(x)
    prepared.eval().apply(tq.disable_observer)
    int8 = tq.convert(prepared)
    assert type(int8[2]) is type(activation)
    q = int8[1](int8[0](x))
    given = prepared[2](q.dequantize()).detach()
    rounded = int8[2](q)
    assert torch.allclose(given, rounded.dequantize(), atol=1.01 * rounded.q_scale())
    assert (given - rounded.dequantize()).ne(0).float().mean() < 0.02
    post_training = tq.prepare(copy.deepcopy(model).eval())
    assert not hasattr(post_training[2], "activation_post_process")
    model.qconfig = tq.default_dynamic_qat_qconfig
    dynamic = tq.prepare_qat(model, mapping={nn.Linear: nnqatd.Linear})
    assert not hasattr(dynamic[2], "activation_post_process")


def test_models_that_torch_fused() -> None:
    ao = oracle()
    layers = [nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 1)]
    model = nn.Sequential(ao.QuantStub(), *layers, nn.BatchNorm1d(4), ao.DeQuantStub()).train()
    fused = quietly(ao.fuse_modules_qat, model, [["1", "2", "3"], ["4", "5"]])
    fused.qconfig = quietly(ao.get_default_qat_qconfig, "onednn")
    prepared = tq.prepare_qat(fused)
    assert type(prepared[1]) is nniqat.ConvBnReLU1d
    assert type(prepared[4]) is nniqat.ConvBn1d
    x = torch.randn(4, 3, 9)
    for _ in range(30):
        prepared(x)
    prepared.eval()
    int8 = tq.convert(prepared)
    assert type(int8[1]) is nniq.ConvReLU1d
    assert (int8(x) - prepared(x)).abs().max() < 0.05 * prepared(x).abs().max()


def test_qconfigs_that_round_nothing() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(4, 4), tq.DeQuantStub())
    model.qconfig = tq.get_default_qconfig()
    with pytest.warns(UserWarning, match=r"round nothing.*get_default_qat_qconfig\(\)"):
        tq.prepare_qat(model)


def test_learned_scales() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), tq.DeQuantStub())
    model.qconfig = tq.QConfig(
        activation=tq.get_default_qat_qconfig().activation,
        weight=tq.LearnableFakeQuantize.with_args(
            observer=tq.MovingAverageMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=octavo.qint8,
            qscheme=octavo.per_tensor_symmetric,
        ),
    )
    prepared = tq.prepare_qat(tq.fuse_modules_qat(model, [["1", "2"]]))
    weight = prepared[1].weight_fake_quant
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-5)
    x = torch.randn(4, 3, 9, 9)
    prepared(x)
    weight.enable_param_learning()
    before = weight.scale.item()
    for _ in range(30):
        optimizer.zero_grad()
        (prepared(x) - 1).square().mean().backward()
        optimizer.step()
    assert weight.scale.item() != before
    prepared.eval()
    int8 = tq.convert(prepared)
    assert float(int8[1].weight.q_scale()) == pytest.approx(weight.scale.item())
    assert (int8(x) - prepared(x)).abs().max() < 0.05 * prepared(x).abs().max()


def test_mixed_precision() -> None:
    prepared = tq.prepare_qat(every(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = prepared(torch.randn(6, 3, 6, 6))
        out.float().square().mean().backward()
    for name, parameter in prepared.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_mappings() -> None:
    table = tq.get_default_qat_module_mappings()
    assert table == tq.DEFAULT_QAT_MODULE_MAPPINGS == tq.get_embedding_qat_module_mappings()
    assert table is not tq.DEFAULT_QAT_MODULE_MAPPINGS
    static = tq.get_embedding_static_quant_module_mappings()
    assert set(table.values()) <= set(static)
    theirs = quietly(oracle().get_default_qat_module_mappings)
    names = {float_class.__name__: trained.__name__ for float_class, trained in theirs.items()}
    ours = {float_class.__name__: trained.__name__ for float_class, trained in table.items()}
    names.pop("NonDynamicallyQuantizableLinear", None)
    assert names.items() <= ours.items()
    assert nni.ConvReLU1d in table
