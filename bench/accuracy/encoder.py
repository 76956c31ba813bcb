"""BERT's layers for static quantization in eager mode: with stubs where numbers change their kind.

With ``Parts.plain()`` each of them computes what :class:`octavo.bench.models.bert.Layer` does.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from octavo.bench.models import Parts
from octavo.bench.models.bert import Layer, Shape


class LinearLayer(Layer):
    """Linears in int8; attention, sums, LayerNorm and GELU in float."""

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__(shape)
        self.quants = nn.ModuleList(parts.quant() for _ in range(4))
        self.dequant = parts.dequant()

    def forward(self, x: Tensor) -> Tensor:
        q, float_of = self.quants[0](x), self.dequant
        parts = (float_of(linear(q)) for linear in (self.query, self.key, self.value))
        mixed = self.output(self.quants[1](self.attend(*parts)))
        x = self.attention_norm(x + float_of(mixed))
        wide = self.activation(float_of(self.wide(self.quants[2](x))))
        out: Tensor = self.norm(x + float_of(self.narrow(self.quants[3](wide))))
        return out


class NormLayer(Layer):
    """Linears, LayerNorms and the sums before them in int8; attention and GELU in float."""

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__(shape)
        self.quants = nn.ModuleList(parts.quant() for _ in range(2))
        self.dequant = parts.dequant()
        self.sums: Any = nn.ModuleList(parts.functional() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        float_of = self.dequant
        parts = (float_of(linear(x)) for linear in (self.query, self.key, self.value))
        mixed = self.output(self.quants[0](self.attend(*parts)))
        x = self.attention_norm(self.sums[0].add(x, mixed))
        wide = self.quants[1](self.activation(float_of(self.wide(x))))
        out: Tensor = self.norm(self.sums[1].add(x, self.narrow(wide)))
        return out


class WholeLayer(Layer):
    """Everything in int8: also the two products of attention, softmax and GELU."""

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__(shape)
        self.sums: Any = nn.ModuleList(parts.functional() for _ in range(2))
        self.products: Any = nn.ModuleList(parts.functional() for _ in range(2))
        self.softmax = nn.Softmax(-1)
        self.factor = 1.0 / math.sqrt(shape.width // shape.heads)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.split(part(x)) for part in (self.query, self.key, self.value))
        scores = self.products[0].matmul(query, key.transpose(-1, -2))
        weights = self.softmax(self.products[0].mul_scalar(scores, self.factor))
        mixed = self.products[1].matmul(weights, value).transpose(1, 2).flatten(2)
        x = self.attention_norm(self.sums[0].add(x, self.output(mixed)))
        wide = self.activation(self.wide(x))
        out: Tensor = self.norm(self.sums[1].add(x, self.narrow(wide)))
        return out
