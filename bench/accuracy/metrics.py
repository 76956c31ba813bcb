"""How good a quantized model's outputs are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Key in a document -> (heading, digits after the point).
HEADINGS = {
    "top1": ("top-1, %", 2),
    "mean_cosine": ("mean cosine to float32", 5),
    "rank_correlation": ("rank correlation of similarities", 5),
    "sqnr_db": ("SQNR, dB", 2),
}


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of right answers, in percent. (N, classes) and (N,)."""
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def sqnr_db(got: Tensor, wanted: Tensor) -> float:
    """Signal to quantization noise, in dB; infinite where the two are equal."""
    noise = float((got.double() - wanted.double()).square().sum())
    signal = float(wanted.double().square().sum())
    return 10.0 * math.log10(signal / noise) if noise > 0.0 else math.inf


def mean_cosine(got: Tensor, wanted: Tensor) -> float:
    """Of the angles between rows, (N, features)."""
    return float(F.cosine_similarity(got.double(), wanted.double()).mean())


def rank_correlation(got: Tensor, wanted: Tensor) -> float:
    """Spearman's, of the cosine similarities of all pairs of rows: whether the same sentences are
    the closest ones.
    """
    ranks = torch.stack([_ranks(_similarities(got)), _ranks(_similarities(wanted))])
    return float(torch.corrcoef(ranks)[0, 1])


def _similarities(rows: Tensor) -> Tensor:
    unit = F.normalize(rows.double(), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (unit @ unit.T)[first, second]


def _ranks(values: Tensor) -> Tensor:
    """0 for the smallest; equal values, which real numbers hardly are, in any order."""
    ranks = torch.empty_like(values)
    ranks[values.argsort()] = torch.arange(len(values), dtype=values.dtype)
    return ranks
