"""Models and checkpoints of torch.ao as Octavo's: the same integers within one step, or where the
arithmetic is the same, the same ones."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
from octavo import quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import dynamic as nnqd
from torch_oracle import torch_quantized


class Net(nn.Module):
    """Everything that both have, with torch.ao's stubs and functionals."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.nn.quantized as ao_nnq
        import torch.ao.quantization as ao

        self.quant = ao.QuantStub()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8, bias=False)
        self.short = nn.Conv2d(8, 8, 1, stride=2)
        self.add = ao_nnq.FloatFunctional()
        self.clip = nn.ReLU6()
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(16, 12)
        self.fc_relu = nn.ReLU()
        self.out = nn.Linear(12, 5)
        self.dequant = ao.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.clip(self.add.add(self.depthwise(x), self.short(x)))
        x = self.pool(self.up(x)).flatten(1)
        return self.dequant(self.out(self.fc_relu(self.fc(x))))  # type: ignore[no-any-return]


FUSED = [["conv", "bn", "relu"], ["fc", "fc_relu"]]


@pytest.fixture(autouse=True)
def _torch_ao() -> Iterator[None]:
    with torch_quantized():
        yield


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def float_net() -> Net:
    torch.manual_seed(2)
    net = Net()
    with torch.no_grad():
        for _ in range(3):
            net(images())  # for the batch norm
    return net.eval()


def converted() -> Any:
    """What torch.ao makes of the net, with its default settings."""
    import torch.ao.quantization as ao

    model = ao.fuse_modules(float_net(), FUSED)
    model.qconfig = ao.get_default_qconfig("x86")
    model.up.qconfig = ao.default_qconfig  # torch.ao has no per-channel transposed convolution
    prepared = ao.prepare(model)
    prepared(images(16))
    return ao.convert(prepared)


def as_octavo(theirs: Any) -> octavo.QTensor:
    plain = theirs.int_repr()
    return octavo.QTensor.from_int_repr(plain, theirs.q_scale(), theirs.q_zero_point())


def test_each_layer_of_a_converted_model_gives_the_same_integers() -> None:
    theirs = converted()
    calls: dict[str, Any] = {}
    for name, module in theirs.named_children():
        module.register_forward_hook(
            lambda m, args, out, name=name: calls.__setitem__(name, (args[0], out))
        )
    theirs(images())
    ours: Any = tq.from_torch_ao(theirs)
    kinds = {name: type(m) for name, m in ours.named_children()}
    assert kinds["conv"] is nniq.ConvReLU2d
    assert kinds["fc"] is nniq.LinearReLU
    assert kinds["up"] is nnq.ConvTranspose2d
    assert kinds["add"] is nnq.QFunctional
    assert not any(type(m).__module__.startswith("torch.ao") for m in ours.modules())
    assert type(theirs.conv).__module__.startswith("torch.ao")
    for name in ("quant", "conv", "depthwise", "short", "clip", "fc", "out", "up"):
        given, want = calls[name]
        got = getattr(ours, name)(as_octavo(given) if given.is_quantized else given)
        if name == "up":  # torch's own is wrong by more than rounding
            up = theirs.up
            exact = nn.functional.conv_transpose2d(
                given.dequantize(), up.weight().dequantize(), up.bias(), 2
            )
            want = torch.quantize_per_tensor(exact, float(up.scale), int(up.zero_point), want.dtype)
        apart = (got.int_repr().int() - want.int_repr().int()).abs()
        assert apart.max() <= 1, name
        assert (apart > 0).float().mean() < 0.02, name
    assert ours(images()).shape == (4, 5)


def test_weights_scales_and_zero_points_are_theirs() -> None:
    theirs = converted()
    ours: Any = tq.from_torch_ao(theirs)
    for name in ("conv", "depthwise", "short", "up", "fc", "out"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert torch.equal(a.weight().int_repr(), b.weight().int_repr()), name
        assert (a.bias() is None) == (b.bias() is None)
        assert b.bias() is None or torch.equal(a.bias(), b.bias())
        assert a.scale == torch.tensor(float(b.scale)).item()
        assert a.zero_point == int(b.zero_point)
        assert a._qualified_name == name


@pytest.mark.parametrize("adopt", [False, True])
def test_a_checkpoint_loads_without_data(adopt: bool) -> None:
    theirs = converted()
    buffer = io.BytesIO()
    torch.save(theirs.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    model: Any = Net()
    if adopt:
        import torch.ao.quantization as ao

        fused = ao.fuse_modules(model.eval(), FUSED)
    else:
        fused = tq.fuse_modules(model.eval(), FUSED)
    ours = tq.load_torch_ao(fused, state)
    direct = tq.from_torch_ao(theirs)
    for key, tensor in direct.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    assert torch.equal(ours(images()), direct(images()))
    assert type(fused.out) is nn.Linear


def test_a_checkpoint_of_another_architecture_is_refused() -> None:
    state = converted().state_dict()
    with pytest.raises(RuntimeError, match=r"missing \['bn.bias'.*Fuse the model"):
        tq.load_torch_ao(Net().eval(), state)
    fused = tq.fuse_modules(Net().eval(), FUSED)
    with pytest.raises(RuntimeError, match=r"unexpected \['more'\]"):
        tq.load_torch_ao(fused, {**state, "more": torch.zeros(1)})
    fused.out = nn.Linear(12, 6)
    with pytest.raises(ValueError, match=r"w must have shape \(6, 12\), got \(5, 12\)"):
        tq.load_torch_ao(fused, state)
    assert type(fused.conv).__name__ == "ConvReLU2d"
    with pytest.raises(ValueError, match="no quantized modules of this model"):
        tq.load_torch_ao(nn.Linear(2, 2), nn.Linear(2, 2).state_dict())


class Dynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 20)
        self.norm = nn.LayerNorm(20)
        self.body = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 7, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.norm(self.embed(ids)))  # type: ignore[no-any-return]


def test_dynamic_models_and_checkpoints() -> None:
    import torch.ao.quantization as ao

    torch.manual_seed(4)
    model = Dynamic()
    theirs = ao.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    ids = torch.arange(9).view(3, 3)
    want = theirs(ids)
    ours: Any = tq.from_torch_ao(theirs)
    assert type(ours.body[0]) is nnqd.Linear
    assert ours.body[0].per_tensor
    assert ours.body[0].reduce_range
    torch.testing.assert_close(ours(ids), want, rtol=1e-5, atol=1e-5)
    loaded = tq.load_torch_ao(Dynamic(), theirs.state_dict())
    assert torch.equal(loaded(ids), ours(ids))


def test_dynamic_convolutions() -> None:
    import torch.ao.nn.quantized.dynamic as ao_nnqd

    torch.manual_seed(5)
    conv = nn.Conv2d(3, 4, 3)
    conv.qconfig = tq.torch_compatible_dynamic_qconfig  # type: ignore[assignment]
    theirs = nn.Sequential(ao_nnqd.Conv2d(3, 4, 3))
    scale = float(conv.weight.abs().max()) / 127
    weight = torch.quantize_per_tensor(conv.weight.detach(), scale, 0, torch.qint8)
    theirs[0].set_weight_bias(weight, conv.bias.detach())
    ours = tq.from_torch_ao(theirs)
    assert type(ours[0]) is nnqd.Conv2d
    loaded = tq.load_torch_ao(nn.Sequential(nn.Conv2d(3, 4, 3)), theirs.state_dict())
    x = images()
    assert torch.equal(loaded(x), ours(x))
    want = nn.functional.conv2d(x, weight.dequantize(), conv.bias)
    assert (ours(x) - want).abs().max() < 0.05


class Norms(nn.Module):
    """Modules that keep float parameters, and those without a weight."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.quantization as ao

        self.quant = ao.QuantStub()
        self.bn = nn.BatchNorm2d(4)
        self.bn_relu = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.layer = nn.LayerNorm(6)
        self.hardswish = nn.Hardswish()
        self.leaky = nn.LeakyReLU(0.2)
        self.elu = nn.ELU()
        self.dropout = nn.Dropout()
        self.dequant = ao.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn_relu(self.bn(self.quant(x))))
        x = self.layer(self.instance(self.group(x)))
        x = self.elu(self.leaky(self.hardswish(x)))
        return self.dequant(self.dropout(x))  # type: ignore[no-any-return]


def test_normalizations_and_activations() -> None:
    import torch.ao.quantization as ao

    torch.manual_seed(11)
    model: Any = Norms()
    for part in model.modules():
        if getattr(part, "weight", None) is not None:
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    x = torch.randn(3, 4, 6, 6)
    model(x)
    model.eval()
    fused = ao.fuse_modules(model, [["bn_relu", "relu"]])
    fused.qconfig = ao.get_default_qconfig("onednn")
    prepared = ao.prepare(fused)
    prepared(x)
    theirs = ao.convert(prepared)
    want, ours = theirs(x), tq.from_torch_ao(theirs)
    assert not any(type(m).__module__.startswith("torch.ao") for m in ours.modules())
    step = float(theirs.elu.scale)
    assert (ours(x) - want).abs().max() <= 4 * step  # a step in each of eight layers
    # ELU, as the state dicts of torch.ao lack its scale, has to be left out there.
    theirs.elu, fused.elu = nn.Identity(), nn.Identity()
    loaded = tq.load_torch_ao(fused, theirs.state_dict())
    assert torch.equal(loaded(x), tq.from_torch_ao(theirs)(x))


@pytest.mark.parametrize("bits", [8, 4])
def test_embeddings(bits: int) -> None:
    import torch.ao.quantization as ao

    qconfig = (
        ao.float_qparams_weight_only_qconfig
        if bits == 8
        else ao.float_qparams_weight_only_qconfig_4bit
    )
    torch.manual_seed(12)
    bag = nn.EmbeddingBag(10, 8, mode="sum", include_last_offset=True)
    model = nn.ModuleDict({"table": nn.Embedding(10, 8), "bag": bag})
    for part in model.values():
        part.qconfig = qconfig  # type: ignore[assignment]
    theirs: Any = ao.convert(ao.prepare(model))
    ours: Any = tq.from_torch_ao(theirs)
    assert [type(m) for m in ours.values()] == [nnq.Embedding, nnq.EmbeddingBag]
    loaded: Any = tq.load_torch_ao(model, theirs.state_dict())
    ids, offsets = torch.tensor([1, 9, 3, 3]), torch.tensor([0, 3, 4])
    assert torch.equal(ours.table(ids), loaded.table(ids))
    assert torch.equal(ours.bag(ids, offsets), loaded.bag(ids, offsets))
    if bits == 8:  # torch.ao reads 4-bit tables of Embedding as if they had 8, and fails
        torch.testing.assert_close(ours.table(ids), theirs.table(ids))
    rows = theirs.table.weight()
    scales, zero_points = rows.q_per_channel_scales(), rows.q_per_channel_zero_points()
    levels = ours.table.weight.int_repr()
    want = (levels - zero_points[:, None]) * scales[:, None]
    torch.testing.assert_close(ours.table(ids), want[ids].float())
    # torch.ao's 4-bit rows round scale and offset to float16.
    close = {} if bits == 8 else {"rtol": 0, "atol": 2e-3 * float(levels.max() * scales.max())}
    torch.testing.assert_close(ours.bag(ids, offsets), theirs.bag(ids, offsets), **close)


def test_recurrent_layers_and_cells() -> None:
    import torch.ao.quantization as ao

    torch.manual_seed(13)
    x, step = torch.randn(5, 3, 12), torch.randn(3, 12)
    layers: list[tuple[nn.Module, Tensor]] = [
        (nn.LSTM(12, 16, 2, bidirectional=True), x),
        (nn.GRU(12, 16, batch_first=True), x),
        (nn.LSTMCell(12, 16), step),
        (nn.GRUCell(12, 16), step),
        (nn.RNNCell(12, 16, nonlinearity="relu"), step),
    ]
    for layer, given in layers:
        theirs = ao.quantize_dynamic(nn.Sequential(layer), {type(layer)}, dtype=torch.qint8)
        ours = tq.from_torch_ao(theirs)
        assert type(ours[0]) is getattr(nnqd, type(layer).__name__)
        want, got = theirs[0](given), ours[0](given)
        want, got = (y[0] if isinstance(y, tuple) else y for y in (want, got))
        assert (got - want).abs().max() < 5e-3

        buffer = io.BytesIO()
        torch.save(theirs.state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=False)  # script objects are in it
        fresh = copy.deepcopy(layer)
        for parameter in fresh.parameters():
            nn.init.zeros_(parameter)
        loaded = tq.load_torch_ao(nn.Sequential(fresh), state)
        again = loaded[0](given)
        assert torch.equal(again[0] if isinstance(again, tuple) else again, got)


@pytest.mark.parametrize(("saved", "given"), [(1, 2), (2, 1)])
def test_a_recurrent_checkpoint_of_another_depth_is_refused(saved: int, given: int) -> None:
    import torch.ao.quantization as ao

    theirs = ao.quantize_dynamic(nn.Sequential(nn.LSTM(4, 8, saved)), {nn.LSTM}, dtype=torch.qint8)
    other = nn.Sequential(nn.LSTM(4, 8, given))
    message = rf"'0' \(LSTM\) has {given} layers and directions, the state dict {saved}; give"
    with pytest.raises(ValueError, match=message):
        tq.load_torch_ao(other, theirs.state_dict())


def test_a_checkpoint_without_a_weight_is_refused_by_the_name_of_the_module() -> None:
    state = converted().state_dict()
    del state["depthwise.weight"]
    fused = tq.fuse_modules(Net().eval(), FUSED)
    with pytest.raises(RuntimeError, match=r"'depthwise' \(Conv2d\).*Missing key.*\"weight\""):
        tq.load_torch_ao(fused, state)


def test_float16_modules_are_refused() -> None:
    import torch.ao.quantization as ao

    theirs = ao.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.float16)
    with pytest.raises(ValueError, match="only int8 weights can be taken over"):
        tq.from_torch_ao(theirs)


def test_what_octavo_lacks_is_named() -> None:
    import torch.ao.nn.quantized as ao_nnq

    class Unheard(ao_nnq.ReLU6):
        pass

    Unheard.__module__ = "torch.ao.nn.quantized.modules.unheard"
    model = nn.Sequential(nn.Linear(2, 2), Unheard())
    with pytest.raises(ValueError, match=r"no counterpart of these modules: '1' \(Unheard\)"):
        tq.from_torch_ao(model)
    with pytest.raises(ValueError, match="has no quantized modules"):
        tq.from_torch_ao(nn.Linear(2, 2))


def test_fx_graphs_are_refused() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    x = torch.randn(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(
            nn.Sequential(nn.Linear(4, 4)).eval(), get_default_qconfig_mapping("x86"), (x,)
        )
        prepared(x)
        graph = convert_fx(prepared)
    with pytest.raises(ValueError, match="FX graph calls torch's quantized operations"):
        tq.from_torch_ao(graph)


def test_hooks_and_inplace() -> None:
    import torch.ao.quantization as ao

    theirs = ao.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    seen: list[int] = []
    theirs[0].register_forward_hook(lambda *_: seen.append(1))
    assert tq.from_torch_ao(theirs, inplace=True) is theirs
    theirs(torch.randn(2, 4))
    assert seen == [1]
