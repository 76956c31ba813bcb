"""octavo.autotune: it reaches its goal, stops in its budget, and returns the best."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import octavo
from octavo import DynamicQuantConfig, StaticQuantConfig
from octavo.workflow.calibrate import Batch
from octavo.workflow.rank import own_sqnr
from workflow_support import Classifier, DigitsCNN, accuracy, calibration, tokens, trained_cnn


def fragile() -> DigitsCNN:
    """The trained network with a dead channel whose weights are huge: the float model computes
    what it would without it, and int8 weights of conv2 have no levels left for the others.
    """
    model = copy.deepcopy(trained_cnn())
    with torch.no_grad():
        model.bn1.weight[0] = 0.0
        model.bn1.bias[0] = -1.0
        model.conv2.weight[:, 0] = 1e4
    return model


class Counted:
    """An eval_fn that counts its calls."""

    def __init__(self, score: Callable[[nn.Module], float]) -> None:
        self.score, self.calls = score, 0

    def __call__(self, model: nn.Module) -> float:
        assert not model.training
        self.calls += 1
        return self.score(model)


def test_a_fragile_layer_is_reverted() -> None:
    model, score = fragile(), Counted(accuracy)
    config = StaticQuantConfig(act_algo="minmax")
    result = octavo.autotune(model, config, score, 0.01, 6, calibration_data=calibration())
    assert result.holds
    assert result.baseline - result.score <= 0.01
    assert result.trials[0].drop is not None
    assert result.trials[0].drop > 0.2
    assert not result.trials[0].holds
    assert [trial.reverted for trial in result.trials] == [(), ("conv2",)]
    assert score.calls == 3
    tuned, report = result
    assert accuracy(tuned) == result.score
    left = {row.name for row in report if row.name in ("stem.0", "conv1", "conv2", "head")}
    assert {row.name for row in report.left_float} & left == {"conv2"}
    again, _ = octavo.quantize(model, calibration(), result.config)
    assert accuracy(again) == result.score
    assert result.config != config
    assert config.local == []


@pytest.mark.parametrize("capture", ["fx", "eager"])
def test_own_sqnr_finds_the_layer(capture: str) -> None:
    model, data = fragile(), calibration()
    int8 = octavo.quantize(model, data, min_sqnr=-math.inf, capture=capture)
    part = "" if capture == "fx" else ".module"
    losses = own_sqnr(int8.reference, int8.model, Batch((data[0],), {}))
    assert min(losses, key=lambda name: losses[name]) == f"conv2{part}"
    others = [loss for name, loss in losses.items() if name != f"conv2{part}"]
    assert losses[f"conv2{part}"] < 5
    assert min(others) > 25  # head, which gets what conv2 spoilt, is not blamed for it
    compared = {row.name: row.sqnr for row in int8.report}
    assert compared["head"] is not None
    assert compared["head"] < losses[f"head{part}"] - 10


def test_the_budget_of_trials() -> None:
    score = Counted(accuracy)
    config = [StaticQuantConfig(act_algo="minmax"), StaticQuantConfig(act_algo="kl")]
    with pytest.warns(UserWarning, match="none of 2 trials loses at most 0.001"):
        result = octavo.autotune(fragile(), config, score, 0.001, 2, calibration_data=calibration())
    assert (len(result.trials), score.calls) == (2, 3)
    assert not result.holds
    assert result.score == max(trial.score or 0.0 for trial in result.trials)


def test_the_budget_of_time() -> None:
    def waits(model: nn.Module) -> float:
        if not hasattr(model, "workflow_report"):
            return 1.0
        time.sleep(1.1)
        return 0.0

    with pytest.warns(UserWarning, match="none of 1 trials"):
        result = octavo.autotune(
            nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))),
            StaticQuantConfig(act_algo=["minmax", "kl", "mse"]),
            waits,
            calibration_data=[torch.randn(2, 4)],
            max_seconds=1.0,
        )
    assert len(result.trials) == 1


def test_more_and_more_layers_are_reverted() -> None:
    """Where nothing helps: all trials are used, and something stays int8 in every one."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12))).eval()

    def score(candidate: nn.Module) -> float:
        if not hasattr(candidate, "workflow_report"):
            return 100.0
        return float(sum(type(m) is nn.Linear for m in candidate.modules()))

    with pytest.warns(UserWarning, match="none of 6 trials"):
        result = octavo.autotune(
            model,
            StaticQuantConfig(act_algo="minmax"),
            score,
            max_trials=6,
            calibration_data=[torch.randn(8, 4)],
        )
    counts = [len(trial.reverted) for trial in result.trials]
    assert counts == sorted(set(counts))
    assert (counts[0], counts[1], counts[-1], len(counts)) == (0, 2, 11, 6)
    assert len(result.report.swapped) == 1


def test_the_first_config_that_holds_ends_it() -> None:
    score = Counted(accuracy)
    configs = StaticQuantConfig(act_algo=["minmax", "kl"])
    result = octavo.autotune(trained_cnn(), configs, score, 0.02, calibration_data=calibration())
    assert result.holds
    assert score.calls == 2
    assert result.config == StaticQuantConfig(act_algo="minmax")


def test_relative_drop_and_iterators() -> None:
    data = iter(calibration())
    result = octavo.autotune(
        trained_cnn(), None, lambda m: 50 * accuracy(m), 0.02, relative=True, calibration_data=data
    )
    assert result.holds
    assert result.trials[0].drop == pytest.approx(
        (result.baseline - result.score) / result.baseline
    )


def test_dynamic_configs_without_data() -> None:
    model, batch = Classifier().eval(), tokens(1)[0]
    wanted = model(**batch)["logits"].detach()

    def score(candidate: nn.Module) -> float:
        return -float((candidate(**batch)["logits"] - wanted).norm() / wanted.norm())

    configs = [DynamicQuantConfig(act_granularity=["per_tensor", "per_token"])]
    result = octavo.autotune(model, configs, score, 0.1)
    assert result.holds
    assert result.report.mode == "dynamic"


def test_a_config_that_fails_is_a_trial() -> None:
    """The table tells why; the next config is tried."""
    model = nn.Sequential(nn.LSTM(4, 4))
    result = octavo.autotune(
        model,
        [StaticQuantConfig(), DynamicQuantConfig()],
        lambda m: 1.0,
        calibration_data=[torch.randn(3, 2, 4)],
    )
    assert result.holds
    assert result.trials[0].score is None
    assert "no layer that can be quantized" in result.trials[0].error
    with pytest.raises(RuntimeError, match="no config quantizes the model"):
        octavo.autotune(
            model, StaticQuantConfig(), lambda m: 1.0, calibration_data=[torch.randn(3, 2, 4)]
        )


def test_the_table() -> None:
    rich_console = pytest.importorskip("rich.console")
    result = octavo.autotune(
        trained_cnn(),
        StaticQuantConfig(act_algo="minmax", act_sym=True),
        accuracy,
        0.5,
        calibration_data=calibration()[:1],
    )
    text = str(result.trials)
    assert "StaticQuantConfig(act_sym=True, act_algo='minmax')" in text
    assert "holds" in text
    assert "float model: 0.9" in text
    console = rich_console.Console(file=io.StringIO(), width=140)
    console.print(result.trials)
    assert "act_sym=True" in console.file.getvalue()


def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    octavo.autotune(
        nn.Linear(4, 4), None, lambda m: 1.0, calibration_data=[torch.randn(2, 4)], verbose=True
    )
    assert "holds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"configs": []}, ValueError, "empty list"),
        ({"configs": {"a": 1}}, TypeError, "got str"),
        ({"max_drop": -1}, ValueError, "max_drop"),
        ({"max_trials": 0}, ValueError, "max_trials"),
        ({"max_seconds": 0}, ValueError, "max_seconds"),
        ({"eval_fn": lambda m: None}, TypeError, "must return a number, got None"),
        ({"eval_fn": lambda m: math.nan}, ValueError, "nan for the float model"),
        ({"calibration_data": None}, ValueError, "needs calibration_data"),
        ({"model": 3}, TypeError, "model must be"),
        (
            {"configs": StaticQuantConfig().set_local("fc", None)},
            ValueError,
            "no module of the model is named 'fc'",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {
        "model": nn.Linear(4, 4),
        "configs": None,
        "eval_fn": lambda m: 1.0,
        "calibration_data": [torch.randn(2, 4)],
        **arguments,
    }
    with pytest.raises(kind, match=message):
        octavo.autotune(**given)
