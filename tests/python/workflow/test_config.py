"""Configs: every setting changes what it says, local rules, and what wrong ones are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import octavo
from octavo import DynamicQuantConfig, StaticQuantConfig
from octavo.quantization import compare_weights
from octavo.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
)


def skewed() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(64, 24, generator=generator) ** 3 + 0.5 for _ in range(3)]


def layer(config: Any, capture: str | None = "eager") -> Any:
    """The int8 form of one Linear, and its wrapper."""
    torch.manual_seed(3)
    linear = nn.Linear(24, 8)
    with torch.no_grad():
        linear.weight[0] *= 20
        linear.weight += 0.1
    result = octavo.quantize(linear, skewed(), config, min_sqnr=-100.0, capture=capture)
    return result.model


@pytest.mark.parametrize(
    ("algorithm", "observer"),
    [
        ("minmax", MinMaxObserver),
        ("kl", HistogramObserver),
        ("percentile", PercentileObserver),
        ("mse", MSEObserver),
    ],
)
def test_act_algo(algorithm: str, observer: Any) -> None:
    qconfig = StaticQuantConfig(act_algo=algorithm, percentile=97.0).qconfig()
    assert qconfig is not None
    assert type(qconfig.activation()) is observer
    alone = observer(percentile=97.0) if observer is PercentileObserver else observer()
    for batch in skewed():
        alone(batch)
    scale, zero_point = alone.calculate_qparams()
    quant = layer(StaticQuantConfig(act_algo=algorithm, percentile=97.0)).quant
    assert torch.equal(quant.scale, scale)
    assert int(quant.zero_point) == int(zero_point)


def test_percentile() -> None:
    scales = [
        float(layer(StaticQuantConfig(act_algo="percentile", percentile=p)).quant.scale)
        for p in (90.0, 99.0, 100.0)
    ]
    assert scales[0] < scales[1] < scales[2]


def test_act_sym_and_dtype() -> None:
    assert int(layer(StaticQuantConfig(act_sym=True)).quant.zero_point) == 128
    assert int(layer(StaticQuantConfig(act_sym=True, act_dtype="int8")).quant.zero_point) == 0
    assert int(layer(StaticQuantConfig()).quant.zero_point) not in (0, 128)
    int8 = layer(StaticQuantConfig(act_dtype="int8")).quant
    assert int8(torch.zeros(1, 24)).int_repr().dtype == torch.int8


def test_reduce_range() -> None:
    full, half = (layer(StaticQuantConfig(reduce_range=r)).quant.scale for r in (False, True))
    assert float(half) == pytest.approx(float(full) * 255 / 127, rel=1e-3)


def test_weight_settings() -> None:
    def weight(**settings: Any) -> Any:
        return layer(StaticQuantConfig(**settings)).module.weight()

    assert weight().qscheme() == octavo.per_channel_affine
    assert weight().q_per_channel_zero_points().tolist() == [0] * 8
    assert weight(w_granularity="per_tensor").qscheme() == octavo.per_tensor_affine
    assert weight(w_granularity="per_tensor").q_zero_point() == 0
    assert any(weight(w_sym=False).q_per_channel_zero_points().tolist())
    assert weight(w_sym=False, w_granularity="per_tensor").q_zero_point() != 0
    by_mse = weight(w_granularity="per_tensor", w_algo="mse").q_scale()
    assert by_mse < weight(w_granularity="per_tensor").q_scale()


def test_dynamic_settings() -> None:
    def dynamic(**settings: Any) -> Any:
        return layer(DynamicQuantConfig(**settings), capture=None)

    assert not dynamic().per_tensor
    assert dynamic(act_granularity="per_tensor").per_tensor
    assert not dynamic().reduce_range
    assert dynamic(reduce_range=True).reduce_range
    assert dynamic(w_granularity="per_tensor").weight().qscheme() == octavo.per_tensor_affine
    assert any(dynamic(w_sym=False).weight().q_per_channel_zero_points().tolist())


def test_local_rules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))
            self.conv = nn.Conv1d(8, 8, 1)
            self.head = nn.Linear(8, 2)

    other, third = StaticQuantConfig(act_sym=True), StaticQuantConfig(act_algo="mse")
    config = StaticQuantConfig().set_local(nn.Linear, other)
    found = config.resolve(Net())
    assert found["head"] == found["encoder.1.0"] == other
    assert found["conv"] == found[""] == config
    config.set_local([r"encoder\..*", nn.Conv1d], None)
    found = config.resolve(Net())
    assert found["encoder.0"] is None is found["encoder.1.0"] is found["conv"]
    assert found["head"] == other
    config.set_local("encoder.1", third).set_local("encoder", StaticQuantConfig(w_dtype="fp32"))
    found = config.resolve(Net())
    assert found["encoder.0"] is None
    assert found["encoder.1.0"] == third  # the longer path counts, whatever came last


def test_local_rules_are_followed() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    data = [torch.randn(4, 8)]
    config = StaticQuantConfig().set_local("1", None)
    config.set_local("2", StaticQuantConfig(w_granularity="per_tensor"))
    int8, report = octavo.quantize(model, data, config, capture="eager")
    assert [bool(row.becomes) for row in report] == [True, False, True]
    assert "config" in report[1].reason
    assert type(int8[1]) is nn.Linear
    assert int8[0].module.weight().qscheme() == octavo.per_channel_affine
    assert int8[2].module.weight().qscheme() == octavo.per_tensor_affine


def test_a_dynamic_rule_in_a_static_config() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 16, 3)
            self.lstm = nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(self.conv(x).transpose(1, 2))
            return self.head(y[:, -1])  # type: ignore[no-any-return]

    config = StaticQuantConfig().set_local(nn.LSTM, DynamicQuantConfig())
    _, report = octavo.quantize(Net().eval(), [torch.randn(2, 4, 20)], config)
    became = {row.name: row.becomes for row in report.swapped}
    assert became == {
        "conv": "quantized.Conv1d",
        "lstm": "quantized.dynamic.LSTM",
        "head": "quantized.Linear",
    }
    assert report.sqnr is not None
    assert report.sqnr > 25


def test_expanded() -> None:
    config = StaticQuantConfig(act_algo=["minmax", "kl"], act_sym=[True, False])
    config.set_local(nn.Linear, None)
    made = config.expanded()
    assert [(c.settings["act_algo"], c.settings["act_sym"]) for c in made] == [
        ("minmax", True),
        ("kl", True),
        ("minmax", False),
        ("kl", False),
    ]
    assert all(c.local == config.local for c in made)
    with pytest.raises(ValueError, match=r"act_sym has 2 values|act_algo has 2 values"):
        config.qconfig()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: StaticQuantConfig(act_algoo="kl"), TypeError, "did you mean 'act_algo'"),
        (lambda: StaticQuantConfig(act_algo="minmx"), ValueError, "did you mean 'minmax'"),
        (lambda: StaticQuantConfig(act_algo=["kl", "x"]), ValueError, "act_algo must be one of"),
        (lambda: StaticQuantConfig(act_algo=[]), ValueError, "empty list"),
        (lambda: StaticQuantConfig(w_granularity="channel"), ValueError, "'per_channel'"),
        (lambda: StaticQuantConfig(act_granularity="per_channel"), ValueError, "per_tensor"),
        (lambda: StaticQuantConfig(w_sym=1), ValueError, "True, False"),
        (lambda: StaticQuantConfig(percentile=0), ValueError, "percentile"),
        (lambda: StaticQuantConfig(w_algo="mse"), ValueError, "w_granularity='per_tensor'"),
        (lambda: StaticQuantConfig(act_dtype="fp32"), ValueError, "w_dtype='fp32'"),
        (lambda: DynamicQuantConfig(act_sym=True), ValueError, "act_sym"),
        (lambda: DynamicQuantConfig(act_algo="kl"), ValueError, "minmax"),
        (lambda: DynamicQuantConfig(percentile=3), TypeError, "unknown setting 'percentile'"),
        (lambda: StaticQuantConfig().set_local(3, None), TypeError, "path"),
        (lambda: StaticQuantConfig().set_local("a(", None), ValueError, "regular expression"),
        (lambda: StaticQuantConfig().set_local("a", "fp32"), TypeError, "config must be"),
        (
            lambda: DynamicQuantConfig().set_local("a", StaticQuantConfig()),
            TypeError,
            "start from a StaticQuantConfig",
        ),
        (
            lambda: StaticQuantConfig().set_local("a", StaticQuantConfig().set_local("b", None)),
            ValueError,
            "local rules of its own",
        ),
    ],
)
def test_wrong_settings(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("encoder.layerz", "did you mean 'encoder.layers'"),
        (r"decoder\..*", "no module of the model is named"),
        ("Linear", "give the class"),
        (nn.Conv2d, "the model has no Conv2d; it has"),
    ],
)
def test_rules_that_match_nothing(rule: Any, message: str) -> None:
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": nn.Linear(2, 2)})})
    with pytest.raises(ValueError, match=message):
        StaticQuantConfig().set_local(rule, None).resolve(model)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "it has no modules inside of it"),
        (2, "it has '0', '1'"),
        (10, "it has '0', '1', '2', '3', '4', '5', '6', '7' and 2 more"),
    ],
)
def test_modules_that_there_are(count: int, message: str) -> None:
    model = nn.Sequential(*(nn.Identity() for _ in range(count)))
    with pytest.raises(ValueError, match=f"no module of the model is named 'decoder'; {message}$"):
        StaticQuantConfig().set_local("decoder", None).resolve(model)


def test_weights_are_the_models() -> None:
    linear = nn.Linear(24, 8)
    int8, _ = octavo.quantize(linear, [torch.randn(4, 24)], capture="eager")
    wrapped = {f"module.{key}": value for key, value in linear.state_dict().items()}
    (both,) = compare_weights(wrapped, int8.state_dict()).values()
    assert float((both["float"] - both["quantized"]).abs().max()) < 0.002
