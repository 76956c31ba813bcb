"""What tests of accuracy share."""

from __future__ import annotations

import pytest
import torch

from octavo.bench.accuracy import sentences
from octavo.bench.models.bert import Bert, Shape


@pytest.fixture
def small_shape() -> Shape:
    """Of the random sentence model."""
    return Shape(width=24, heads=3, hidden=48, layers=2)


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch, small_shape: Shape) -> None:
    """The sentence model with random weights and short random sentences, without its package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        monkeypatch.setattr(sentences, "_SHAPE", small_shape)
        weights = Bert(small_shape).state_dict()
        tokens = [torch.randint(0, 1000, (1, 5 + i % 12)) for i in range(120)]
    monkeypatch.setattr(sentences, "_weights", lambda: weights)
    monkeypatch.setattr(sentences, "_tokens", lambda: tokens)
