"""Attention on float heads, as the quantized forms of multi-head attention share it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo._errors import HeadsError
from octavo.nn.quantized.modules.utils import describe

__all__ = ["AttentionMath", "Heads"]


class Heads(NamedTuple):
    """Query, key and value, ``[batch, heads, length, head_dim]``."""

    query: Tensor
    key: Tensor
    value: Tensor


class AttentionMath(nn.Module, ABC):
    """What forms of ``torch.nn.MultiheadAttention`` do between their projections.

    Query, key and value are ``[batch, length, size]`` here, whatever ``batch_first`` says.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    kdim: int
    vdim: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    bias_k: Tensor | None
    bias_v: Tensor | None

    # torch.nn.TransformerEncoderLayer reads it: it must not take weights out of here.
    _qkv_same_embed_dim = False

    def _set_sizes(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float,
        add_zero_attn: bool,
        kdim: int | None,
        vdim: int | None,
        batch_first: bool,
    ) -> None:
        """The arguments of the constructor, as ``torch.nn.MultiheadAttention`` keeps them.

        Raises:
            HeadsError: ``embed_dim`` not divisible by ``num_heads``, or one of them not positive.
        """
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise HeadsError(
                f"{self._label()}: embed_dim and num_heads must be > 0 and embed_dim divisible by "
                f"num_heads, got {embed_dim} and {num_heads}"
            )
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn

    def _label(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"

    @abstractmethod
    def _projection_biases(self) -> Sequence[Tensor | None]:
        """Those of query, key and value, one after the other."""

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The biases of query, key and value in one, ``[3 * embed_dim]``, or None."""
        present = [bias for bias in self._projection_biases() if bias is not None]
        return torch.cat(present) if present else None

    def _check_inputs(self, query: Any, key: Any, value: Any) -> bool:
        """Whether the inputs have a batch dimension; raises where they do not fit each other."""
        named = {"query": query, "key": key, "value": value}
        sizes = {"query": self.embed_dim, "key": self.kdim, "value": self.vdim}
        for name, x in named.items():
            if x.dim() not in (2, 3) or x.dim() != query.dim() or x.shape[-1] != sizes[name]:
                raise RuntimeError(
                    f"{self._label()}: {name} must have shape [length, {sizes[name]}], or with a "
                    f"batch {'[N, L, E]' if self.batch_first else '[L, N, E]'}, and as many "
                    f"dimensions as query, got {tuple(x.shape)}; query is {tuple(query.shape)}"
                )
        batched = bool(query.dim() == 3)
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (
            batched and key.shape[batch] != query.shape[batch]
        ):
            raise RuntimeError(
                f"{self._label()}: key and value must have the same length, and all three the same "
                f"batch, got query {tuple(query.shape)}, key {tuple(key.shape)}, value "
                f"{tuple(value.shape)}"
            )
        return batched

    def _attend(
        self,
        heads: Heads,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        is_causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of float heads, whose queries are multiplied by ``scale``.

        Returns:
            ``[batch, length, embed_dim]``, and the weights ``[batch, heads, length, keys]`` or
            None.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError(
                f"{self._label()}: is_causal is a hint about attn_mask; give attn_mask too"
            )
        causal_only = is_causal and key_padding_mask is None and not need_weights
        mask = None
        if not causal_only:
            mask = self._mask(heads, attn_mask, key_padding_mask)
        heads, mask = self._with_extra_keys(heads, mask)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (heads.query * scale) @ heads.key.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            attended = weights @ heads.value
        else:
            attended = F.scaled_dot_product_attention(
                *heads, attn_mask=mask, dropout_p=dropout, is_causal=causal_only, scale=scale
            )
        return attended.transpose(1, 2).flatten(2), weights

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def _with_extra_keys(self, heads: Heads, mask: Tensor | None) -> tuple[Heads, Tensor | None]:
        """Appends ``bias_k`` and ``bias_v``, and a key and value of zeros, as the module has them;
        no mask hides these."""
        query, key, value = heads
        for extra in self._extra_keys():
            shape = (key.shape[0], self.num_heads, 1, self.head_dim)
            more = [t.to(key.dtype).view(1, self.num_heads, 1, -1).expand(shape) for t in extra]
            key, value = torch.cat([key, more[0]], 2), torch.cat([value, more[1]], 2)
            mask = None if mask is None else F.pad(mask, (0, 1))
        return Heads(query, key, value), mask

    def _extra_keys(self) -> list[tuple[Tensor, Tensor]]:
        extra = []
        if self.bias_k is not None and self.bias_v is not None:
            extra.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            extra.append((torch.zeros(self.embed_dim),) * 2)
        return extra

    def _mask(
        self, heads: Heads, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor | None:
        """Both masks as one to add to the scores, ``[1 or batch, 1 or heads, 1 or L, S]``."""
        batch, _, length, _ = heads.query.shape
        keys = heads.key.shape[2]
        result = None
        if attn_mask is not None:
            whole = (batch * self.num_heads, length, keys)
            self._check_mask("attn_mask", attn_mask, ((length, keys), whole))
            result = self._additive(attn_mask, heads.query.dtype)
            if result.dim() == 3:
                result = result.view(batch, self.num_heads, length, keys)
            else:
                result = result.view(1, 1, length, keys)
        if key_padding_mask is not None:
            fitting = [(batch, keys)] if batch != 1 else [(1, keys), (keys,)]
            self._check_mask("key_padding_mask", key_padding_mask, fitting)
            padding = self._additive(key_padding_mask, heads.query.dtype)
            padding = padding.view(batch, 1, 1, keys)
            result = padding if result is None else result + padding
        return result

    def _check_mask(self, name: str, mask: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        fits = isinstance(mask, Tensor) and tuple(mask.shape) in shapes
        if not fits or not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise RuntimeError(
                f"{self._label()}: {name} must be a bool or float tensor of shape "
                f"{' or '.join(str(shape) for shape in shapes)}, got {describe(mask)}"
            )

    @staticmethod
    def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
        if mask.dtype == torch.bool:
            return torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask, float("-inf"))
        return mask.to(dtype)
