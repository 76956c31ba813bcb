"""Input-weight equalization keeps what a model computes, finds the module that can take the
factors, and wins back the accuracy that outlier channels cost."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.quantization.numeric_suite import sqnr


def data(*shape: int, count: int = 3, outliers: float = 1.0) -> list[Tensor]:
    """Batches; every eighth channel (dimension 1) is larger."""
    g = torch.Generator().manual_seed(len(shape))
    batches = [torch.randn(shape, generator=g) for _ in range(count)]
    for batch in batches:
        batch[:, ::8] *= outliers
    return batches


def equalized(model: nn.Module, batches: list[Tensor], **options: Any) -> Any:
    """The equalized model, which computes the same as the given one; that one is not changed."""
    before = copy.deepcopy(model.state_dict())
    result: Any = tq.input_weight_equalization(model, batches, **options)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    for batch in batches:
        want = model(batch)
        largest = float(want.detach().abs().max())
        torch.testing.assert_close(result(batch), want, rtol=1e-4, atol=1e-4 * largest)
    return result


class Attention(nn.Module):
    """Pre-norm, as in vision transformers and GPT, with outlier channels behind the norms that
    matter as much as the others."""

    def __init__(self, size: int = 32, relu: Any = nn.ReLU) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(size), nn.Linear(size, size)
        self.q, self.k, self.v = (nn.Linear(size, size) for _ in range(3))
        self.norm2, self.up, self.down = (
            nn.LayerNorm(size),
            nn.Linear(size, 96),
            nn.Linear(96, size),
        )
        self.relu, self.drop = relu(), nn.Dropout()
        with torch.no_grad():
            for norm in (self.norm, self.norm2):
                norm.weight[::8] *= 40
            for layer in (self.q, self.k, self.v, self.up):
                layer.weight[:, ::8] /= 40

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        weights = torch.softmax(self.q(h) @ self.k(h).transpose(-1, -2) / 6, -1)
        x = x + self.out(weights @ self.v(h))
        return x + self.down(self.drop(self.relu(self.up(self.norm2(x)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "relu", [nn.ReLU, lambda: nn.ReLU(inplace=True), lambda: nn.LeakyReLU(0.2)]
)
@pytest.mark.parametrize(
    "qconfig", [tq.default_dynamic_qconfig, tq.torch_compatible_dynamic_qconfig]
)
def test_transformers_with_outlier_channels(relu: Any, qconfig: tq.QConfig) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Attention(relu=relu), Attention(relu=relu)).eval()
    batches = data(4, 10, 32)
    better = equalized(model, batches)
    places = {f"{i}.{name}": f"in '{i}.norm'" for i in (0, 1) for name in "qkv"}
    places |= {f"{i}.up": f"in '{i}.norm2'" for i in (0, 1)}
    places |= {f"{i}.down": f"in '{i}.up'" for i in (0, 1)}
    assert better.equalized == places | {f"{i}.out": "before it" for i in (0, 1)}
    x = data(4, 10, 32, count=4)[-1]
    want = model(x).detach()

    def decibels(candidate: nn.Module) -> float:
        return sqnr(want, tq.quantize_dynamic(candidate, {nn.Linear: qconfig})(x))

    before, after = decibels(model), decibels(better)
    assert after > before + 15


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        self.conv, self.relu = nn.Conv2d(16, 24, 3), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(24, 8, 3, groups=2)
        self.fc = nn.Linear(8, 5)
        self.dequant = tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.pool(self.relu(self.conv(self.quant(x)))))
        return self.dequant(self.fc(x.mean([2, 3])))  # type: ignore[no-any-return]


def static_sqnr(model: nn.Module, batches: list[Tensor], want: Tensor) -> float:
    model = copy.deepcopy(model)
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare(model)
    for batch in batches:
        prepared(batch)
    return sqnr(want, tq.convert(prepared)(batches[0]))


def test_static_networks_with_outlier_channels() -> None:
    torch.manual_seed(1)
    batches = data(8, 16, 10, 10, outliers=60.0)
    model = tq.fuse_modules(Static().eval(), ["conv", "relu"])
    with torch.no_grad():
        model.conv[0].weight[:, ::8] /= 60  # the outliers matter no more than the others
    better = equalized(model, batches)
    assert better.equalized == {
        "conv": "before 'quant'",
        "second": "in 'conv'",
        "fc": "left as it was: its input is not a module's output",
    }
    assert isinstance(better.quant[0], tq.ChannelScale)
    want = model(batches[0]).detach()
    before, after = (static_sqnr(m, batches, want) for m in (model, better))
    assert after > before + 15
    report = tq.report(better)
    assert "ChannelScale" in {row.type for row in report}
    loaded = tq.input_weight_equalization(model, batches)
    loaded.load_state_dict(better.state_dict())
    assert torch.equal(pickle.loads(pickle.dumps(better))(batches[0]), better(batches[0]))


def test_scale_is_torchs() -> None:
    theirs = pytest.importorskip("torch.ao.quantization.fx._equalize")
    x, weight = torch.randn(50, 6), torch.randn(4, 6)
    x[:, 2] = 3.0
    weight[:, 4] = 0.0
    inputs, weights = theirs._InputEqualizationObserver(), theirs._WeightEqualizationObserver()
    inputs(x)
    weights(weight)
    want = theirs.calculate_equalization_scale(inputs, weights)
    got = tq.equalization_scale(x.amin(0), x.amax(0), weight.amin(0), weight.amax(0))
    assert torch.equal(got, want)
    assert got[2] == got[4] == 1
    with pytest.raises(ValueError, match=r"\(6,\) channels and the weights \(4,\)"):
        tq.equalization_scale(x.amin(0), x.amax(0), weight.amin(1), weight.amax(1))


PAIRS: list[tuple[list[nn.Module], tuple[int, ...], str]] = [
    ([nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)], (5, 6), "in '0'"),
    ([nn.Conv1d(4, 8, 3), nn.Identity(), nn.Conv1d(8, 4, 3)], (2, 4, 9), "in '0'"),
    ([nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 4, 3, groups=2)], (2, 4, 6, 6), "in '0'"),
    ([nn.Conv2d(4, 6, 1), nn.AvgPool2d(2), nn.ConvTranspose2d(6, 4, 2)], (2, 4, 6, 6), "in '0'"),
    ([nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 3, 1)], (2, 4, 6, 6), "in '0'"),
    ([nn.GroupNorm(2, 4), nn.Conv1d(4, 3, 1)], (2, 4, 6), "in '0'"),
    ([nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 3, 1)], (2, 4, 6, 6), "in '0'"),
    ([nn.LayerNorm(4), nn.Dropout(), nn.Linear(4, 3)], (2, 5, 4), "in '0'"),
    ([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)], (2, 4), "before it"),
    ([nn.Conv1d(4, 4, 1), nn.Linear(4, 3)], (2, 4, 4), "before it"),
    ([nn.LayerNorm([4, 4]), nn.Linear(4, 3)], (2, 4, 4), "before it"),
    ([nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3)], (2, 4), "before it"),
    ([nn.Linear(4, 4), nn.MaxPool1d(2), nn.Linear(2, 3)], (2, 3, 4), "before it"),
    ([nn.Linear(6, 8), nn.Flatten(1), nn.Linear(8, 4)], (5, 6), "before it"),
]


@pytest.mark.parametrize(("modules", "shape", "place"), PAIRS)
def test_where_the_factors_go(modules: list[nn.Module], shape: Any, place: str) -> None:
    model = nn.Sequential(*modules).eval()
    batches = data(*shape)
    last = str(len(modules) - 1)
    got = equalized(model, batches, layers=[last])
    assert got.equalized == {last: place}
    changed = [key for key, value in got.state_dict().items() if key in model.state_dict()]
    assert any(not torch.equal(got.state_dict()[k], model.state_dict()[k]) for k in changed) or (
        place == "before it"
    )
    again = equalized(model, batches, multiply=False)
    assert again.equalized[last] == (place if place != "before it" else again.equalized[last])
    assert not any(isinstance(m, tq.ChannelScale) for m in again.modules())


class Tangled(nn.Module):
    """Tensors that go to several places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first = nn.LayerNorm(8), nn.Linear(8, 8)
        self.second, self.third, self.twice = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied, self.also = nn.Linear(8, 8), nn.Linear(8, 8)
        self.also.weight = self.tied.weight
        self.unused = nn.Linear(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.returned, self.final = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.norm(x)
        h = self.first(h) + h
        y = self.twice(self.twice(self.second(h)))
        y = self.also(self.tied(self.third(y)))
        hidden = self.returned(self.normed(y))
        return {"hidden": hidden, "final": self.final(hidden) * hidden.shape[0]}


def test_tensors_that_go_elsewhere_are_not_scaled() -> None:
    torch.manual_seed(2)
    model = Tangled().eval()
    got: Any = tq.input_weight_equalization(model, data(4, 8), multiply=False)
    x = data(4, 8)[0]
    for key, value in model(x).items():
        torch.testing.assert_close(got(x)[key], value, rtol=1e-4, atol=1e-4)
    why = {key: value.removeprefix("left as it was: ") for key, value in got.equalized.items()}
    assert why["first"] == "its input goes elsewhere too"
    assert why["second"] == "its input is not a module's output"
    assert why["twice"] == "it is called more than once"
    assert why["third"] == "'twice', which gives its input, is called more than once"
    assert why["tied"] == why["also"] == "its weight is that of another module too"
    assert why["unused"] == "the data do not reach it"
    assert why["normed"].endswith("shares its parameters")
    assert why["returned"] == "in 'normed'"
    assert why["final"] == "its input goes elsewhere too"
    multiplied: Any = tq.input_weight_equalization(model, data(4, 8))
    assert multiplied.equalized["twice"] == "before it"
    for key, value in model(x).items():
        torch.testing.assert_close(multiplied(x)[key], value, rtol=1e-4, atol=1e-4)


def test_the_model_itself_and_in_place() -> None:
    torch.manual_seed(3)
    layer = nn.Linear(8, 4).eval()
    assert isinstance(equalized(layer, data(4, 8)), nn.Sequential)
    model = nn.Sequential(nn.LayerNorm(8), layer).eval()
    weight = layer.weight.detach().clone()
    assert tq.input_weight_equalization(model, data(4, 8), inplace=True) is model
    assert not torch.equal(layer.weight, weight)


def test_transformer_encoder_layers() -> None:
    torch.manual_seed(4)
    for first in (False, True):
        kind = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=first)
        got = equalized(kind.eval(), data(2, 5, 16))
        reads = "left as it was: TransformerEncoderLayer reads its weight"
        assert got.equalized["linear1"] == ("in 'norm2'" if first else reads)
        int8 = tq.quantize_dynamic(got)
        x = data(2, 5, 16)[0]
        assert sqnr(kind(x).detach(), int8(x)) > 25


class Reads(nn.Module):
    """Computes with a layer's weight instead of calling it, besides calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + nn.functional.linear(x, self.layer.weight)  # type: ignore[no-any-return]


class ReadsAfterNorm(Reads):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x)) + x @ self.layer.weight  # type: ignore[no-any-return]


class Named(nn.Module):
    """Takes two arguments, as models of the transformers package take several."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(self.norm(x if shift is None else x + shift))
        return y


def test_batches_of_arguments() -> None:
    """By position, by name, or one tensor: the same call, and the same factors."""
    torch.manual_seed(0)
    model = Named().eval()
    x, shift = data(4, 16, count=2)
    ways = ([(x, shift)], [{"x": x, "shift": shift}], [{"shift": shift, "x": x}])
    first, *others = (tq.input_weight_equalization(model, way) for way in ways)
    assert not torch.equal(first.norm.weight, model.norm.weight)
    torch.testing.assert_close(first(x, shift), model(x, shift))
    for other in others:
        assert torch.equal(other.norm.weight, first.norm.weight)
        assert torch.equal(other.layer.weight, first.layer.weight)
    with pytest.raises(TypeError, match="no_such"):
        tq.input_weight_equalization(model, [{"no_such": x}])


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    with pytest.raises(ValueError, match="data has no batches"):
        tq.input_weight_equalization(model, [])
    with pytest.raises(ValueError, match="training mode"):
        tq.input_weight_equalization(copy.deepcopy(model).train(), data(4, 8))
    with pytest.raises(ValueError, match=r"no Linear or convolution named \['2'\]"):
        tq.input_weight_equalization(model, data(4, 8), layers=["1", "2"])
    with pytest.raises(ValueError, match="cannot equalize '0': left as it was"):
        tq.input_weight_equalization(model, data(4, 8), layers=["0"], multiply=False)
    with pytest.raises(ValueError, match="is quantized already"):
        tq.input_weight_equalization(tq.quantize_dynamic(model), data(4, 8))
    with pytest.raises(RuntimeError, match="fails after it, so it reads a layer"):
        tq.input_weight_equalization(Reads().eval(), data(4, 8))
    with pytest.raises(RuntimeError, match="output differs by"):
        tq.input_weight_equalization(ReadsAfterNorm().eval(), data(4, 8, outliers=9.0))
    scale = tq.ChannelScale(torch.ones(8))
    q = octavo.quantize_per_tensor(torch.randn(4, 8), 0.1, 128, octavo.quint8)
    with pytest.raises(TypeError, match="expected a float tensor, got a quantized one"):
        scale(q)
