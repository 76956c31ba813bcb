"""quantize_dynamic: what is replaced and what is not, in all the ways in which people call it, and
that every module that stays float has its reason told."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
from octavo import quantization as tq
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.quantized import dynamic as nnqd
from torch_oracle import torch_quantized


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.conv(x).flatten(1)))  # type: ignore[no-any-return]


class Named(nn.Linear):
    """A subclass that computes what its base does."""


class Scaled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(m) for name, m in model.named_modules() if not list(m.children())}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("spec", "replaced"),
    [
        (None, {"body.0", "body.2", "head"}),
        ({nn.Linear}, {"body.0", "body.2", "head"}),
        ([nn.Linear], {"body.0", "body.2", "head"}),
        ({"head"}, {"head"}),
        ({"body"}, {"body.0", "body.2"}),
        ({nn.Sequential}, {"body.0", "body.2"}),
        ({nn.Conv2d, nn.Linear}, {"conv", "body.0", "body.2", "head"}),
        ({nn.Linear: tq.default_dynamic_qconfig, "head": None}, {"body.0", "body.2"}),
        ({nn.Linear: tq.default_dynamic_qconfig, "body": None}, {"body.0", "body.2", "head"}),
        ({"": tq.default_dynamic_qconfig}, {"conv", "body.0", "body.2", "head"}),
    ],
)
def test_replaces_what_the_spec_names(spec: Any, replaced: set[str]) -> None:
    model = net()
    quantized = tq.quantize_dynamic(model, spec)
    for name, kind in kinds(quantized).items():
        ours = kind.__module__.startswith("octavo.nn.quantized.dynamic")
        assert ours == (name in replaced), name
    assert {row.name for row in quantized.quantization_report.swapped} == replaced
    assert not quantized.training
    assert model.training
    assert type(model.head) is nn.Linear
    want, got = model(images()), quantized(images())
    assert torch.nn.functional.cosine_similarity(want.flatten(), got.flatten(), 0) > 0.999


@pytest.mark.parametrize("dtype", [octavo.qint8, torch.qint8, torch.int8])
def test_takes_each_name_of_the_dtype(dtype: Any) -> None:
    quantized = tq.quantize_dynamic(net(), {nn.Linear}, dtype=dtype)
    assert type(quantized.head) is nnqd.Linear


def test_inplace_changes_the_model() -> None:
    model = net()
    assert tq.quantize_dynamic(model, {nn.Linear}, inplace=True) is model
    assert type(model.head) is nnqd.Linear


def test_the_model_itself_may_be_replaced() -> None:
    model = nn.Linear(4, 3)
    assert type(tq.quantize_dynamic(model)) is nnqd.Linear
    with pytest.raises(ValueError, match=r"model itself is a Linear.*without inplace"):
        tq.quantize_dynamic(model, inplace=True)


def test_fused_modules_become_fused_ones() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv1d(3, 3, 1), nn.ReLU())
    fused = tq.fuse_modules(model.eval(), [["0", "1"], ["2", "3"]])
    assert type(fused[0]) is nni.LinearReLU
    quantized = tq.quantize_dynamic(fused, {nn.Linear, nn.Conv1d})
    assert [type(m) for m in quantized] == [
        nniqd.LinearReLU,
        nn.Identity,
        nniqd.ConvReLU1d,
        nn.Identity,
    ]


def test_subclasses_count_unless_they_compute_something_else() -> None:
    model = nn.Sequential(Named(4, 4), Scaled(4, 4))
    with pytest.warns(UserWarning, match=r"stay float:\s+'1' \(Scaled\): Scaled overrides forward"):
        quantized = tq.quantize_dynamic(model, {nn.Linear})
    assert [type(m) for m in quantized] == [nnqd.Linear, Scaled]


def test_what_has_no_form_is_in_a_warning_and_in_the_report() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.RNN(4, 4), nn.LayerNorm(4))
    with pytest.warns(UserWarning, match=r"stay float:\s+'1' \(RNN\)"):
        quantized = tq.quantize_dynamic(model, {nn.Linear, nn.RNN})
    reasons = {row.name: row.reason for row in quantized.quantization_report.left_float}
    assert "RNN has no int8 module" in reasons["1"]
    assert reasons["2"] == "has no int8 form"
    quantized = tq.quantize_dynamic(net(), {"head"})
    reasons = {row.name: row.reason for row in quantized.quantization_report.left_float}
    assert reasons["conv"] == "qconfig_spec does not name it"
    assert tq.explain(quantized) is quantized.quantization_report


def test_warns_about_unknown_names_and_where_nothing_is_replaced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tq.quantize_dynamic(net(), {"haed"})
    assert "no modules named ['haed']" in str(caught[0].message)
    with pytest.warns(UserWarning, match=r"quantize_dynamic: .*nothing was replaced"):
        tq.quantize_dynamic(nn.ReLU(), {nn.Linear})


def test_a_module_in_two_places_stays_one() -> None:
    model = net()
    model.body[2] = model.body[0] = nn.Linear(16, 16)
    quantized = tq.quantize_dynamic(model, {nn.Linear})
    assert quantized.body[0] is quantized.body[2]
    assert type(quantized.body[0]) is nnqd.Linear


def test_tied_weights_leave_the_embedding_float() -> None:
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11, bias=False))
    model[1].weight = model[0].weight
    quantized = tq.quantize_dynamic(model, {nn.Linear})
    assert torch.equal(quantized[0].weight, model[0].weight)
    assert type(quantized[1]) is nnqd.Linear


def test_settings_of_torch() -> None:
    """With torch's settings, results are torch's where its 7 bits keep it from saturating."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    ours = tq.quantize_dynamic(model, {nn.Linear: tq.torch_compatible_dynamic_qconfig})
    assert ours[0].per_tensor
    assert ours[0].reduce_range
    assert ours[0].weight().qscheme() == torch.per_tensor_affine
    with torch_quantized():
        theirs = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
        x = torch.randn(16, 40)
        want = theirs(x)
    torch.testing.assert_close(ours(x), want, rtol=1e-5, atol=1e-5)


def test_float16_weights() -> None:
    model = net()
    quantized = tq.quantize_dynamic(model, {nn.Linear}, dtype=torch.float16)
    assert type(quantized.head) is nnqd.LinearFloat16
    x = torch.randn(3, 5, 16)
    want = nn.functional.linear(x, model.head.weight.half().float(), model.head.bias)
    torch.testing.assert_close(quantized.head(x), want, rtol=1e-6, atol=1e-6)
    assert quantized.head(x.bfloat16()).dtype == torch.bfloat16
    other = tq.quantize_dynamic(net(), dtype=torch.float16)
    nn.init.zeros_(other.head.bias)
    other.load_state_dict(quantized.state_dict())
    assert torch.equal(other.head(x), quantized.head(x))
    assert torch.equal(pickle.loads(pickle.dumps(quantized)).head(x), quantized.head(x))
    with pytest.raises(TypeError, match="LinearFloat16 'head': input must be a float tensor"):
        quantized.head(torch.zeros(2, 16, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"in_features = 16 elements, got shape \(2, 15\)"):
        quantized.head(torch.zeros(2, 15))
    big = nn.Linear(2, 2)
    nn.init.constant_(big.weight, 1e6)
    with pytest.raises(ValueError, match="larger than float16 can hold"):
        tq.quantize_dynamic(big, dtype=torch.float16)


def test_float16_blocks_give_the_whole() -> None:
    linear = nn.Linear(1024, 700)
    half = nnqd.LinearFloat16.from_float(linear)
    x = torch.randn(2, 1024)
    want = nn.functional.linear(x, linear.weight.half().float(), linear.bias)
    torch.testing.assert_close(half(x), want, rtol=1e-5, atol=1e-5)


def _conv1d(inputs: int, outputs: int) -> nn.Module:
    """As Hugging Face transformers defines it."""

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf = outputs
            self.weight = nn.Parameter(torch.randn(inputs, outputs))
            self.bias = nn.Parameter(torch.randn(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    Conv1D.__module__ = "transformers.pytorch_utils"
    return Conv1D()


def test_conv1d_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _conv1d(12, 7)
    home = type("transformers.pytorch_utils", (), {"Conv1D": type(module)})
    monkeypatch.setitem(__import__("sys").modules, "transformers.pytorch_utils", home)
    for spec in (None, {type(module)}):
        quantized = tq.quantize_dynamic(nn.Sequential(module), spec)
        assert type(quantized[0]) is nnqd.Linear
        linear = nn.Linear(12, 7)
        linear.weight = nn.Parameter(module.weight.T.contiguous())  # type: ignore[union-attr,operator]
        linear.bias = module.bias  # type: ignore[assignment]
        x = torch.randn(3, 12)
        assert torch.equal(quantized(x), nnqd.Linear.from_float(linear)(x))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (nn.Linear, TypeError, r"must be a set of classes and names such as \{nn.Linear\}"),
        ("head", TypeError, "must be a set of classes and names"),
        ({3}, TypeError, "name modules by their class or path, got 3"),
        ({nn.Linear: "int8"}, TypeError, "'Linear': qconfig must be a QConfig or None"),
    ],
)
def test_refuses_other_specs(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tq.quantize_dynamic(net(), spec)


class Tagger(nn.Module):
    """Embeddings, recurrent layers and cells in one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.bag = nn.EmbeddingBag(20, 16, mode="mean")
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 16, batch_first=True)
        self.cells = nn.ModuleList([nn.LSTMCell(16, 16), nn.GRUCell(16, 16), nn.RNNCell(16, 16)])
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.gru(self.lstm(self.embed(ids))[0])
        h, c = self.cells[0](x[:, -1] + self.bag(ids))
        return self.head(self.cells[2](self.cells[1](h, c)))  # type: ignore[no-any-return]


RECURRENT = {
    "lstm": nnqd.LSTM,
    "gru": nnqd.GRU,
    "cells.0": nnqd.LSTMCell,
    "cells.1": nnqd.GRUCell,
    "cells.2": nnqd.RNNCell,
}


@pytest.mark.parametrize("spec", [None, {nn.LSTM, nn.GRU, nn.Linear} | {"cells"}])
def test_recurrent_layers_and_cells(spec: Any) -> None:
    torch.manual_seed(9)
    model = Tagger().eval()
    ids = torch.randint(0, 20, (3, 7))
    quantized: Any = tq.quantize_dynamic(model, spec)
    for name, kind in (RECURRENT | {"head": nnqd.Linear}).items():
        assert type(quantized.get_submodule(name)) is kind
    assert type(quantized.embed) is nn.Embedding
    torch.testing.assert_close(quantized(ids), model(ids), rtol=0, atol=0.02)
    other: Any = tq.quantize_dynamic(Tagger(), spec)
    other.load_state_dict(quantized.state_dict())
    assert torch.equal(other(ids), quantized(ids))


@pytest.mark.parametrize("bits", [8, 4])
def test_embeddings(bits: int) -> None:
    torch.manual_seed(10)
    model = Tagger().eval()
    dtype = octavo.quint8 if bits == 8 else octavo.quint4x2
    ids = torch.randint(0, 20, (3, 7))
    quantized: Any = tq.quantize_dynamic(model, dtype=dtype)
    assert type(quantized.bag) is nnq.EmbeddingBag
    assert type(quantized.embed) is (nnq.Embedding if bits == 8 else nn.Embedding)
    assert type(quantized.lstm) is nn.LSTM
    rows = model.bag.weight.detach()
    step = float((rows.amax(1) - rows.amin(1)).max()) / (2**bits - 1)
    assert (quantized.bag(ids) - model.bag(ids)).abs().max() <= 0.51 * step
    named = tq.quantize_dynamic(model, {nn.Embedding, nn.EmbeddingBag}, dtype=dtype)
    assert type(named.embed) is nnq.Embedding


def test_what_a_dtype_does_not_fit_stays_float_and_is_told() -> None:
    model = Tagger()
    with pytest.warns(UserWarning, match=r"'lstm' \(LSTM\): float16 weights are for Linear only"):
        quantized = tq.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=torch.float16)
    assert type(quantized.lstm) is nn.LSTM
    assert type(quantized.head) is nnqd.LinearFloat16
    with pytest.warns(UserWarning, match=r"'embed' \(Embedding\): .*float_qparams_weight_only"):
        quantized = tq.quantize_dynamic(model, {nn.Embedding, nn.Linear})
    assert type(quantized.embed) is nn.Embedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.qint32, "int8", None])
def test_refuses_other_dtypes(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"quantize_dynamic: dtype must be octavo\.qint8"):
        tq.quantize_dynamic(net(), {nn.Linear}, dtype=dtype)


def test_refuses_weights_it_cannot_take_and_changes_nothing() -> None:
    model = net()
    nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(ValueError, match=r"quantize_dynamic: 'weight' of 'head' \(Linear\) holds"):
        tq.quantize_dynamic(model, {nn.Linear}, inplace=True)
    assert type(model.body[0]) is nn.Linear
    assert not hasattr(model.body[0], "qconfig")
    model = nn.Sequential(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"'0'.*is on meta"):
        tq.quantize_dynamic(model, {nn.Linear})


def test_state_dict_pickle_and_copies() -> None:
    torch.manual_seed(5)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    quantized = tq.quantize_dynamic(model)
    x = torch.randn(2, 5, 16)
    want = quantized(x)
    buffer = io.BytesIO()
    torch.save(quantized.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(6)
    other = tq.quantize_dynamic(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), want)
    assert torch.equal(copy.deepcopy(quantized)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(quantized))(x), want)


def test_in_inference_mode_and_then_outside_of_it() -> None:
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 8))
    wanted = tq.quantize_dynamic(tq.quantize_dynamic(model), dtype=octavo.quint8)
    with torch.inference_mode():
        half_done = tq.quantize_dynamic(model)
    int8 = tq.quantize_dynamic(half_done, dtype=octavo.quint8)
    tokens = torch.arange(20)
    assert int8.quantization_report.swapped
    assert torch.equal(int8(tokens), wanted(tokens))


def test_user_hooks_go_on() -> None:
    model = net()
    seen: list[torch.Size] = []
    model.head.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    tq.quantize_dynamic(model, {nn.Linear})(images())
    assert seen == [(2, 5)]
