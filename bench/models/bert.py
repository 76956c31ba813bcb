"""The encoder of BERT (Devlin et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, _POSITIONS = 30522, 512


@dataclass(frozen=True)
class Shape:
    """Attributes:
    width: features of a token.
    hidden: features between the two Linears at the end of a layer.
    epsilon: of every LayerNorm.
    """

    width: int
    heads: int
    hidden: int
    layers: int
    epsilon: float = 1e-5


BASE = Shape(width=768, heads=12, hidden=3072, layers=12)


class Layer(nn.Module):
    """Features (N, T, width) to the same."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.heads = shape.heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=shape.epsilon)
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(width, eps=shape.epsilon)

    def split(self, x: Tensor) -> Tensor:
        """(N, T, width) to (N, heads, T, width / heads)."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of all heads, (N, T, width)."""
        parts = (self.split(query), self.split(key), self.split(value))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attend(self.query(x), self.key(x), self.value(x))
        x = self.attention_norm(x + self.output(mixed))
        out: Tensor = self.norm(x + self.narrow(self.activation(self.wide(x))))
        return out


class Bert(nn.Module):
    """Token ids (N, T), T <= 512, to features (N, T, width).

    Args:
        layer: makes one layer.
    """

    def __init__(self, shape: Shape = BASE, layer: Callable[[Shape], nn.Module] = Layer) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(_POSITIONS, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layers = nn.Sequential(*[layer(shape) for _ in range(shape.layers)])

    def embed(self, tokens: Tensor) -> Tensor:
        """What the first layer gets."""
        places = torch.ones_like(tokens[0]).cumsum(0) - 1  # an arange that torch.fx can trace
        embedded: Tensor = self.norm(self.words(tokens) + self.positions(places))
        return embedded

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.layers(self.embed(tokens))
        return out
