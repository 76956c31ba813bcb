"""Trained networks through the graph flows: as good as in eager mode with the same settings, and
the same bits wherever the flows quantize the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.bench.accuracy import digits, sentences
from octavo.bench.accuracy.settings import Library
from octavo.bench.cases import AccuracyCase
from octavo.bench.cases.accuracy import missing_packages
from octavo.bench.models import Parts
from octavo.quantization.backend_config import get_native_backend_config
from octavo.quantization.quantize_fx import convert_fx, prepare_fx
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)

_LIBRARY = Library(octavo.quantization, octavo.nn.quantized.FloatFunctional)
_IMAGES = {0: torch.export.Dim("images", min=2, max=1024)}
_TOKENS = {1: torch.export.Dim("tokens", min=2, max=512)}
_SENTENCES = 24  # of the trained model, which takes its time


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def _case(model: str, **rest: Any) -> AccuracyCase:
    return AccuracyCase(
        command="accuracy", name="", model=model, mode="static", settings="defaults", **rest
    )


def _eager(case: AccuracyCase) -> Tensor:
    return case.outputs(tq.convert(case.prepared(_LIBRARY)))


def _by_fx(
    case: AccuracyCase, network: nn.Module, data: Sequence[Tensor], mapping: Any, **rest: Any
) -> Tensor:
    prepared = prepare_fx(network, mapping, (data[0],), **rest)
    for batch in data:
        prepared(batch)
    return case.outputs(convert_fx(prepared))


def _by_export(
    case: AccuracyCase, network: nn.Module, data: Sequence[Tensor], quantizer: Any, sizes: Any
) -> Tensor:
    graph = torch.export.export(network, (data[0],), dynamic_shapes=(sizes,)).module()
    prepared = prepare_pt2e(graph, quantizer)
    for batch in data:
        prepared(batch)
    return case.outputs(octavo.lower(convert_pt2e(prepared)))


@lru_cache(maxsize=1)
def _digits() -> dict[str, Tensor]:
    """The logits of all 600 test images, by flow."""
    case, data = _case("digits", epochs=2), digits.calibration()
    mapping = tq.get_default_qconfig_mapping()

    def plain() -> nn.Module:
        return case.network(Parts.plain())

    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    native = get_native_backend_config()
    return {
        "eager": _eager(case),
        "fx, separate additions": _by_fx(case, plain(), data, mapping, backend_config=native),
        "fx": _by_fx(case, plain(), data, mapping),
        "export": _by_export(case, plain(), data, quantizer, _IMAGES),
    }


def _need(model: str) -> None:
    absent = missing_packages(model)
    if absent:
        pytest.skip(f'needs {", ".join(absent)}: pip install "octavo[accuracy]"')


@pytest.mark.slow
def test_digits_are_the_same_bits_with_the_same_fusions() -> None:
    _need("digits")
    found = _digits()
    assert torch.equal(found["fx, separate additions"], found["eager"])
    # Both flows fuse additions into convolutions, which saves a rounding.
    assert torch.equal(found["export"], found["fx"])


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["fx", "export"])
def test_digits_are_as_good_as_in_eager_mode(flow: str) -> None:
    _need("digits")
    found, case = _digits(), _case("digits", epochs=2)
    got, wanted = found[flow], found["eager"]
    assert len(got) == 600
    scores, eager = case.metrics(got), case.metrics(wanted)
    assert abs(scores["top1"] - eager["top1"]) <= 0.5  # 3 of 600 images
    assert scores["sqnr_db"] > eager["sqnr_db"] - 0.25
    assert int((got.argmax(1) != wanted.argmax(1)).sum()) <= 3


def _embeddings(case: AccuracyCase) -> dict[str, Tensor]:
    """With int8 Linears and everything else in float, by flow."""
    data, linear = sentences.calibration(), nn.Linear
    mapping = tq.QConfigMapping().set_object_type(linear, tq.get_default_qconfig())
    config = get_default_octavo_quantization_config()
    quantizer = OctavoQuantizer().set_object_type(linear, config)
    return {
        "eager": _eager(case),
        "fx": _by_fx(case, sentences.network(Parts.plain(), None), data, mapping),
        "export": _by_export(
            case, sentences.network(Parts.plain(), None), data, quantizer, _TOKENS
        ),
    }


def _agree(found: dict[str, Tensor], sentences_wanted: int) -> None:
    assert len(found["eager"]) == sentences_wanted
    assert torch.equal(found["fx"], found["eager"])
    assert torch.equal(found["export"], found["eager"])


@pytest.mark.usefixtures("random_weights")
def test_random_sentence_models_are_the_same_bits() -> None:
    _agree(_embeddings(_case("sentences", part="Linear")), 90)


@pytest.mark.slow
def test_trained_sentence_models_are_the_same_bits() -> None:
    _need("sentences")
    case = _case("sentences", part="Linear", limit=_SENTENCES)
    found = _embeddings(case)
    _agree(found, _SENTENCES)
    assert case.metrics(found["export"])["mean_cosine"] > 0.9
