"""A copy of as many bytes: the limit of what only moves them."""

from __future__ import annotations

import torch

from octavo.bench.cases import ElementwiseCase
from octavo.bench.cases import elementwise as elementwise_data
from octavo.bench.peers.base import Peer, Prepared


class Copy(Peer):
    """``Tensor.copy_`` of half the case's traffic: it reads that many bytes and writes them."""

    name = "copy"
    order = 9

    def applies_to(self, kind: str) -> bool:
        return kind == ElementwiseCase.kind

    def prepare_elementwise(self, case: ElementwiseCase) -> Prepared:
        source = torch.ones(max(1, case.traffic // 2), dtype=torch.uint8)
        target = torch.zeros_like(source)
        reference = elementwise_data.expected(case)  # a copy computes nothing to be compared
        return Prepared(lambda: target.copy_(source), lambda output: reference)


PEERS: list[Peer] = [Copy()]
