"""octavo.quantize with capture="export": models that torch.fx cannot trace, in one call."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
from octavo import DynamicQuantConfig, StaticQuantConfig
from octavo.lowering import lowering_report
from octavo.quantization.numeric_suite import sqnr
from octavo.workflow.calibrate import Batch
from octavo.workflow.calls import CallForm
from octavo.workflow.rank import own_sqnr
from workflow_support import Classifier, calibration, digits, tokens, trained_cnn

# torch's own export of a float LSTM.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm")


def test_the_bits_of_fx() -> None:
    model, data = trained_cnn(), calibration()[:2]
    got, report = octavo.quantize(model, data, capture="export")
    want, traced = octavo.quantize(model, data, capture="fx")
    assert (report.capture, report.mode, report.batches) == ("export", "static", 2)
    assert torch.equal(got(digits().test_images), want(digits().test_images))
    theirs = {row.name: row for row in traced}
    layers = [row for row in report if "Conv" in row.becomes or "Linear" in row.becomes]
    assert [row.name for row in layers] == ["stem.0", "conv1", "conv2", "head"]
    for row in layers:  # the float chain's output, not that of the convolution alone
        assert row.sqnr == pytest.approx(theirs[row.name].sqnr, abs=0.01)
        assert (row.becomes, row.kernel) == (theirs[row.name].becomes, theirs[row.name].kernel)
        assert row.bytes_after == theirs[row.name].bytes_after
        assert row.bytes_before is not None
        assert row.bytes_after is not None
        assert row.bytes_after < row.bytes_before
    assert all(row.becomes or row.reason for row in report)
    assert {name for name, m in model.named_modules() if not list(m.children())} <= {
        row.name for row in report
    }


def test_each_layer_is_compared_with_itself() -> None:
    """Weights of 8 bits leave each layer some 40 dB by itself, and one with spoilt weights less."""
    model = copy.deepcopy(trained_cnn())
    with torch.no_grad():
        model.bn1.weight[0] = 0.0
        model.bn1.bias[0] = -1.0
        model.conv2.weight[:, 0] = 1e4  # of a dead channel: no levels are left for the others
    result = octavo.quantize(model, calibration(), capture="export", min_sqnr=-99.0)
    losses = own_sqnr(result.reference, result.model, Batch((calibration()[0],), {}))
    by_path = {result.paths[name]: loss for name, loss in losses.items()}
    assert by_path.pop("conv2") < 5
    assert {"stem.0", "conv1", "head"} <= set(by_path)
    assert min(by_path.values()) > 25


class Calls(nn.Module):
    """Positional, nested and keyword-only arguments; a result with numbers and None in it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(
        self,
        x: Tensor,
        extra: dict[str, Tensor],
        double: bool = False,
        *others: Tensor,
        scale: float,
        bias: Tensor | None = None,
        **options: Tensor,
    ) -> dict[str, Any]:
        y = self.up(x + extra["a"] - extra["b"])
        for other in (*others, *options.values()):
            y = y + other
        y = self.down(y.relu()) * scale
        y = y * 2 if double else y
        y = y if bias is None else y + bias
        return {"y": y, "parts": (y[..., :1], [y.sum(-1)]), "rows": x.shape[0], "none": None}


def test_forms_of_calls() -> None:
    model = Calls().eval()
    extra = {"a": torch.randn(5, 8), "b": torch.randn(5, 8)}
    x, other, option = torch.randn(5, 8), torch.randn(5, 16), torch.randn(5, 16)
    args: tuple[Any, ...] = (x, extra, True, other)
    form = CallForm(model.forward)
    bound = form.bind(args, {"scale": 0.5, "option": option})
    assert list(bound) == ["x", "extra", "double", "others", "scale", "options"]
    assert len(form.call(bound)[0]) == 4
    assert form.call(bound)[1].keys() == {"scale", "option"}
    assert form.bind((x, extra, False), {"scale": 0.5, "bias": None}).keys() == {
        *("x", "extra", "scale")
    }
    data = [{"x": x, "extra": extra, "double": True, "scale": 0.5}]
    int8, report = octavo.quantize(model, data, capture="export")
    got = int8(x, {"b": extra["b"], "a": extra["a"]}, scale=0.5, double=True, bias=None)
    want = model(**data[0])
    assert sqnr(want["y"], got["y"]) > 25
    assert type(got["parts"]) is tuple
    assert type(got["parts"][1]) is list
    assert (got["rows"], got["none"]) == (5, None)
    assert {row.name for row in report.swapped} >= {"up", "down"}
    batch = {"x": x[:2], "extra": {k: v[:2] for k, v in extra.items()}}
    assert int8(**batch, double=True, scale=0.5)["rows"] == 2
    more = [{**data[0], "option": option}]  # torch.export has no names for what varies in **options
    fixed, report = octavo.quantize(model, more, capture="export")
    assert sqnr(model(**more[0])["y"], fixed(**more[0])["y"]) > 25
    assert any("one shape" in note for note in report.notes)
    for changes, message in (
        ({"scale": 2.0}, r"argument \['scale'\] was 0\.5.*got 2\.0"),
        ({"double": False}, r"without \['double'\]"),
        ({"bias": torch.zeros(4)}, r"got \['bias'\] besides"),
        ({"x": 1.0}, r"argument \['x'\] was a tensor.*got 1\.0"),
        ({"extra": {"a": x}}, r"without \['extra'\]\['b'\]"),
        ({"more": option}, r"got \['options'\]\['more'\] besides"),
    ):
        with pytest.raises(ValueError, match=message):
            int8(**{**data[0], **changes})
    with pytest.raises(TypeError, match=r"captured model misses the argument 'scale'; takes x, "):
        int8(x, extra)
    with pytest.raises(TypeError, match="two values for argument 'x'"):
        int8(x, extra, x=x, scale=0.5)


class Branches(nn.Module):
    """Another path for large batches, which shapes alone decide, and one for single images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        if x.shape[0] == 1:
            return y * 100
        if x.shape[0] > 6:
            y = y.sin()
        z: Tensor = self.b(y)
        return z


def test_no_other_path_is_taken_in_silence() -> None:
    model = Branches().eval()
    data = [torch.randn(4, 8), torch.randn(6, 8)]
    int8, report = octavo.quantize(model, data, capture="export")
    assert report.notes == []
    assert sqnr(model(data[1]), int8(data[1])) > 25
    for rows in (1, 7):
        with pytest.raises(ValueError, match=r"do not fit the graph.*x\.shape\[0\]"):
            int8(torch.randn(rows, 8))
    with pytest.raises(ValueError, match=r"'x' must have shape \[any|'x' must have shape \[s"):
        int8(torch.randn(4, 9))
    again = pickle.loads(pickle.dumps(int8))
    with pytest.raises(ValueError, match="do not fit the graph"):
        again(torch.randn(1, 8))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_of_any_size(rows: int) -> None:
    """Batches of one are captured as those of two, and work where they were never seen."""
    data = [torch.randn(rows, 1, 16, 16) for _ in range(2)]
    int8, _ = octavo.quantize(trained_cnn(), data, capture="export")
    x = digits().test_images[:7]
    assert torch.equal(int8(x)[:1], int8(x[:1]))
    assert int8(x).shape == (7, 10)


def test_numbers_that_are_written_into_the_graph() -> None:
    """torch.export takes the length of a tensor for a constant: the size must not vary then."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return self.layer(x), len(x)

    int8, report = octavo.quantize(Counts().eval(), [torch.randn(5, 8)], capture="export")
    assert any("one shape" in note for note in report.notes)
    assert int8(torch.randn(5, 8))[1] == 5
    with pytest.raises(ValueError, match=r"must have shape \[5, 8\]"):
        int8(torch.randn(2, 8))


def test_sizes_that_vary_in_the_data_vary_in_the_result() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    data = [torch.randn(2, 3, 16, 20), torch.randn(2, 3, 18, 20)]
    int8, _ = octavo.quantize(model, data, capture="export")
    assert int8(torch.randn(3, 3, 30, 20)).shape == (3, 8, 1, 1)
    with pytest.raises(ValueError, match="must have shape"):
        int8(torch.randn(3, 3, 30, 24))


def test_local_rules() -> None:
    model, data = Classifier().eval(), tokens()
    config = StaticQuantConfig(act_algo="percentile", percentile=99.9)
    config.set_local("up", None).set_local("(query|key)", DynamicQuantConfig())
    config.set_local([nn.LayerNorm, "value"], StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    config.set_local(
        "head", StaticQuantConfig(act_dtype="int8", w_granularity="per_tensor", w_algo="mse")
    )
    int8, report = octavo.quantize(model, data, config, capture="export")
    became = {row.name: row.becomes for row in report}
    assert became["up"] == became["value"] == became["norm1"] == became["norm2"] == ""
    assert became["query"] == became["key"] == "quantized.dynamic.Linear"
    assert "Linear" in became["down"]
    assert "Linear" in became["head"]
    head = next(
        m for n, m in int8.graph.named_modules() if n.startswith("head") and "Lin" in repr(m)
    )
    assert head.weight().qscheme() == octavo.per_tensor_affine
    assert report.sqnr is not None
    assert report.sqnr > 20
    rules = StaticQuantConfig().set_local(nn.Linear, None).set_local(nn.LayerNorm, None)
    _, report = octavo.quantize(model, data, rules, capture="export")
    assert not any("Linear" in row.becomes for row in report)


@pytest.mark.parametrize(
    "settings",
    [
        {"act_sym": True},
        {"act_dtype": "int8", "act_sym": True, "reduce_range": True, "act_algo": "minmax"},
        {"act_algo": "minmax", "w_sym": False},
        {"act_algo": "mse", "w_granularity": "per_tensor"},
    ],
    ids=str,
)
def test_settings_as_with_fx(settings: Any) -> None:
    config = StaticQuantConfig(**settings)
    data = calibration()[:2]
    got = octavo.quantize(trained_cnn(), data, config, capture="export").model
    want = octavo.quantize(trained_cnn(), data, config, capture="fx").model
    x = digits().test_images
    if "reduce_range" in settings:  # graphs clamp to 7 bits, modules of the other flows use all 8
        assert sqnr(want(x), got(x)) > 25
        return
    assert torch.equal(got(x), want(x))


def test_dynamic() -> None:
    model, data = Classifier().eval(), tokens(2)
    int8, report = octavo.quantize(model, data, mode="dynamic", capture="export")
    assert (report.mode, report.capture) == ("dynamic", "export")
    assert sum("dynamic.Linear" in row.becomes for row in report) == 6
    plain = octavo.quantize(model, data, mode="dynamic").model
    assert torch.equal(int8(**data[0])["logits"], plain(**data[0])["logits"])
    with pytest.raises(ValueError, match="capture='fx' is for static quantization"):
        octavo.quantize(model, data, mode="dynamic", capture="fx")
    with pytest.raises(RuntimeError, match="quantizes '0' dynamically, a LSTM"):
        octavo.quantize(
            nn.Sequential(nn.LSTM(4, 4)), [torch.randn(3, 2, 4)], mode="dynamic", capture="export"
        )


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        if float(y.detach().sum()) > 1e6:
            y = y * 2
        z: Tensor = self.b(y)
        return z


def test_control_flow_on_data_falls_back() -> None:
    model, data = DataDependent().eval(), [torch.randn(4, 8), torch.randn(5, 8)]
    int8, report = octavo.quantize(model, data)
    assert report.capture == "eager"
    assert [item.capture for item in report.fallbacks] == ["fx", "export"]
    assert "data-dependent" in report.fallbacks[1].reason
    assert "not captured by export: " in str(report)
    assert sqnr(model(data[0]), int8(data[0])) > 25
    with pytest.raises(RuntimeError, match=r"could not be quantized statically:\n  export: "):
        octavo.quantize(model, data, capture="export")


# Models of the transformers package.

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
OF_DISTILBERT: dict[str, Any] = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


def build(name: str) -> nn.Module:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **SMALL)
        model = transformers.ViTForImageClassification(config)
    elif name == "bert":
        config = transformers.BertConfig(vocab_size=50, **SMALL)
        model = transformers.BertModel(config)
    else:
        config = transformers.DistilBertConfig(vocab_size=50, **OF_DISTILBERT)
        model = transformers.DistilBertModel(config)
    return model.eval()  # type: ignore[no-any-return]


def inputs(name: str, seed: int, rows: int = 2, length: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=generator)}
    ids = torch.randint(0, 50, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[0, length - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def first(output: Any) -> Tensor:
    return output[0]  # type: ignore[no-any-return]


@functools.cache
def quantized(name: str) -> Any:
    return octavo.quantize(build(name), [inputs(name, seed) for seed in range(3)])


NAMES = ["bert", "distilbert", "vit"]


@pytest.mark.parametrize("name", NAMES)
def test_transformers_static_in_one_call(name: str) -> None:
    model, (int8, report) = build(name), quantized(name)
    assert report.capture == "export"
    assert [item.capture for item in report.fallbacks] == ["fx"]
    linears = {path for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert linears <= {row.name for row in report.swapped}
    assert all(row.sqnr and row.kernel for row in report if row.name in linears)
    left = [row.op for row in lowering_report(int8.graph).left_float]
    assert not any("linear" in operator or "conv" in operator for operator in left)
    # Other batches, and lengths that calibration did not see; keyword or positional.
    for rows, length in ((1, 12), (3, 12), *(((2, 7),) if name != "vit" else ())):
        batch = inputs(name, 7, rows, length)
        with torch.no_grad():
            want, got = model(**batch), int8(**batch)
            assert type(got) is type(want)
            assert sqnr(first(want), first(got)) > 12
            assert torch.equal(first(int8(*batch.values())), first(got))
    with pytest.raises(ValueError, match="output_attentions"):
        int8(**inputs(name, 1), output_attentions=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_transformers_saved_and_loaded(tmp_path: Path, name: str, suffix: str) -> None:
    int8, _ = quantized(name)
    octavo.save(int8, tmp_path / f"model{suffix}")
    torch.manual_seed(9)
    fresh = type(build(name))(build(name).config)  # other weights, training mode
    loaded = octavo.load(tmp_path / f"model{suffix}", fresh)
    batch = inputs(name, 5, rows=4)
    assert torch.equal(first(loaded(**batch)), first(int8(**batch)))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(loaded)))
    assert torch.equal(first(copied(**batch)), first(int8(**batch)))


def test_loading_into_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    octavo.save(quantized("bert").model, path)
    with pytest.raises(ValueError, match=r"not what model\.pt was made of"):
        octavo.load(path, nn.Linear(4, 4))
    with pytest.raises((RuntimeError, ValueError)):
        octavo.load(path, build("distilbert"))


def test_autotune_reverts_layers_of_a_vit() -> None:
    model = build("vit")
    data = [inputs("vit", seed) for seed in range(2)]
    wanted = first(model(**data[0])).detach()

    def score(candidate: nn.Module) -> float:
        return min(sqnr(wanted, first(candidate(**data[0]))), 60.0)

    baseline = score(octavo.quantize(model, data, StaticQuantConfig(act_algo="minmax")).model)
    result = octavo.autotune(
        model,
        StaticQuantConfig(act_algo="minmax"),
        score,
        60.0 - (baseline + 1.0),
        8,
        calibration_data=data,
    )
    assert result.holds
    assert result.report.capture == "export"
    assert result.score > baseline + 1.0
    reverted = result.trials[-1].reverted
    assert reverted
    left = {row.name for row in result.report.left_float}
    weighted = {name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert set(reverted) & weighted
    assert left & weighted == set(reverted) & weighted


def test_prepare_and_convert() -> None:
    model, config = build("vit"), StaticQuantConfig(act_algo="minmax")
    data = [inputs("vit", seed) for seed in range(2)]
    prepared = octavo.prepare(model, config, data[0])
    assert torch.allclose(first(prepared(**data[1])), first(model(**data[1])), atol=1e-4)
    prepared = octavo.prepare(model, config, data[0])
    with torch.no_grad():
        for batch in data:
            prepared(**batch)
    int8: Any = octavo.convert(copy.deepcopy(prepared))
    want = octavo.quantize(model, data, config).model
    assert torch.equal(first(int8(**data[0])), first(want(**data[0])))
    assert int8.workflow_report.capture == "export"
    with pytest.raises(ValueError, match="nothing was observed"):
        octavo.convert(octavo.prepare(model, config, data[0]))


def test_it_compiles() -> None:
    int8 = octavo.quantize(Calls().eval(), [forms()], capture="export").model
    compiled = torch.compile(int8, fullgraph=True, backend="aot_eager")
    batch = forms()
    with torch.no_grad():
        assert torch.equal(compiled(**batch)["y"], int8(**batch)["y"])


def forms() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    x, a, b = (torch.randn(5, 8, generator=generator) for _ in range(3))
    return {"x": x, "extra": {"a": a, "b": b}, "scale": 0.5}
