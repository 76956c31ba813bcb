"""The encoder of BERT-base (Devlin et al., 2018): 12 layers of width 768, 12 heads."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH, _HEADS, _HIDDEN, _LAYERS, _POSITIONS = 768, 12, 3072, 12, 512


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.value, self.output = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.attention_norm = nn.LayerNorm(_WIDTH)
        self.wide, self.narrow = nn.Linear(_WIDTH, _HIDDEN), nn.Linear(_HIDDEN, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], _HEADS, _WIDTH // _HEADS).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.output(mixed))
        out: Tensor = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        return out


class Bert(nn.Module):
    """Token ids (N, T), T <= 512, to features (N, T, 768)."""

    VOCABULARY: ClassVar[int] = 30522

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(self.VOCABULARY, _WIDTH)
        self.positions = nn.Embedding(_POSITIONS, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.layers = nn.Sequential(*[_Layer() for _ in range(_LAYERS)])

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        out: Tensor = self.layers(self.norm(self.words(tokens) + self.positions(places)))
        return out
