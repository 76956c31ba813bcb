"""A copy of as many bytes: the limit of what only moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.bench.cases import (
    Case,
    ElementwiseCase,
    EmbeddingCase,
    FakeQuantizeCase,
    ImageCase,
    NormalizeCase,
)
from octavo.bench.cases import elementwise as elementwise_data
from octavo.bench.cases import embedding as embedding_data
from octavo.bench.cases import fake_quantize as fake_quantize_data
from octavo.bench.cases import image as image_data
from octavo.bench.cases import normalize as normalize_data
from octavo.bench.peers.base import Peer, Prepared


class Copy(Peer):
    """``Tensor.copy_`` of half the case's traffic: it reads that many bytes and writes them."""

    name = "copy"
    order = 9

    def applies_to(self, kind: str) -> bool:
        kinds = (ElementwiseCase, EmbeddingCase, FakeQuantizeCase, ImageCase, NormalizeCase)
        return kind in [case.kind for case in kinds]

    def prepare_elementwise(self, case: ElementwiseCase) -> Prepared:
        return _copy(case, elementwise_data.expected(case))

    def prepare_embedding(self, case: EmbeddingCase) -> Prepared:
        return _copy(case, embedding_data.expected(case))

    def prepare_fake_quantize(self, case: FakeQuantizeCase) -> Prepared:
        return _copy(case, fake_quantize_data.expected(case).results)

    def prepare_image(self, case: ImageCase) -> Prepared:
        return _copy(case, image_data.expected(case))

    def prepare_normalize(self, case: NormalizeCase) -> Prepared:
        return _copy(case, normalize_data.expected(case))


def _copy(case: Case, reference: Tensor) -> Prepared:
    """``reference`` stands for the result: a copy computes nothing to be compared."""
    source = torch.ones(max(1, case.traffic // 2), dtype=torch.uint8)
    target = torch.zeros_like(source)
    return Prepared(lambda: target.copy_(source), lambda output: reference)


PEERS: list[Peer] = [Copy()]
