"""How good embeddings are: for the search they are made for, and beside the float model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamic_transformer_parts.models import Batch


@dataclass(frozen=True)
class Embedded:
    """Unit vectors, (N, features) each: ``passages[i]`` answers ``questions[i]``."""

    questions: Tensor
    passages: Tensor

    @property
    def all(self) -> Tensor:
        """Questions and passages."""
        return torch.cat([self.questions, self.passages])


def embed(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """The vectors of all texts of some batches."""
    with torch.inference_mode():
        return torch.cat([model(*batch) for batch in batches])


def right_answers(embedded: Embedded) -> float:
    """The share of questions whose nearest passage is the right one, in percent."""
    nearest = (embedded.questions @ embedded.passages.T).argmax(1)
    return 100.0 * float((nearest == torch.arange(len(nearest))).double().mean())


def same_neighbours(got: Tensor, wanted: Tensor) -> float:
    """The share of texts whose nearest other text is the same with both, in percent."""
    return 100.0 * float((_neighbours(got) == _neighbours(wanted)).double().mean())


def cosines(got: Tensor, wanted: Tensor) -> Tensor:
    """Of each text's two vectors."""
    return F.cosine_similarity(got.double(), wanted.double())


def _neighbours(vectors: Tensor) -> Tensor:
    return (vectors @ vectors.T).fill_diagonal_(-1.0).argmax(1)
