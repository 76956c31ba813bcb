"""Dynamically quantized multi-head attention: int8 projections, attention itself in float."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn.quantized.dynamic.modules.linear import Linear
from octavo.nn.quantized.modules.attention_math import AttentionMath, Heads
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.utils import (
    describe,
    dynamic_activations,
    source_label,
)
from octavo.tensor import QTensor

__all__ = ["MultiheadAttention"]


class MultiheadAttention(QuantizedModule, AttentionMath):
    """Multi-head attention on float tensors whose projections of query, key and value, and of the
    output, are :class:`octavo.nn.quantized.dynamic.Linear`.

    Args:
        others: those of :class:`torch.nn.MultiheadAttention`; ``device`` must be the CPU and
            ``dtype`` None.
        per_tensor, reduce_range: of the projections, see :class:`Linear`.

    Attributes:
        q_proj, k_proj, v_proj: the projections of query, key and value, where these come from
            different tensors or have different sizes.
        in_proj: all three in one, where query, key and value are one tensor. Modules that
            ``from_float`` makes have this one if their sizes permit it; ``split_projections_``
            replaces it by the other three, as the first call with different tensors does.
        out_proj: the projection of the output.

    Shape, masks, arguments and results of ``forward`` are those of ``torch.nn.MultiheadAttention``.

    Raises:
        AssertionError, ValueError: one that is both, in the constructor, for ``embed_dim`` not
            divisible by ``num_heads``.
        TypeError: in ``forward``, query, key or value that are no float tensors.
        RuntimeError: in ``forward``, wrong ranks or sizes of inputs or masks.

    torch.ao leaves nn.MultiheadAttention float in ``quantize_dynamic``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        self._set_sizes(embed_dim, num_heads, dropout, add_zero_attn, kdim, vdim, batch_first)
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(f"{self._label()}: device must be the CPU, got {device}")
        if dtype is not None:
            raise ValueError(f"{self._label()}: dtype must be None, got {dtype}")
        activations = {"per_tensor": per_tensor, "reduce_range": reduce_range}
        if self.kdim == self.vdim == embed_dim:
            self.in_proj: Linear | None = Linear(embed_dim, 3 * embed_dim, bias, **activations)
        else:
            self.in_proj = None
            self._set_split(
                *(
                    Linear(size, embed_dim, bias, **activations)
                    for size in (embed_dim, self.kdim, self.vdim)
                )
            )
        self.out_proj = Linear(embed_dim, embed_dim, bias, **activations)
        extra = torch.zeros(1, 1, embed_dim) if add_bias_kv else None
        self.register_buffer("bias_k", extra)
        self.register_buffer("bias_v", None if extra is None else extra.clone())

    def _set_split(self, query: Linear, key: Linear, value: Linear) -> None:
        self.q_proj, self.k_proj, self.v_proj = query, key, value

    def _get_name(self) -> str:
        return "DynamicQuantizedMultiheadAttention"

    def _projection_biases(self) -> list[Tensor | None]:
        if self.in_proj is not None:
            return [self.in_proj._packed.bias]
        return [part.bias() for part in (self.q_proj, self.k_proj, self.v_proj)]

    def split_projections_(self) -> None:
        """Replaces ``in_proj`` by ``q_proj``, ``k_proj`` and ``v_proj``, which give the same bits.

        What reads a model's state dict should know in which form it is; ``load_state_dict`` takes
        both.
        """
        if self.in_proj is None:
            return
        whole, size = self.in_proj, self.embed_dim
        packed = whole._packed
        weight = packed.unpack()
        parts = []
        for i in range(3):
            rows = slice(i * size, (i + 1) * size)
            part = Linear(size, size, per_tensor=whole.per_tensor, reduce_range=whole.reduce_range)
            scales, zero_points = (
                t if t.numel() == 1 else t[rows] for t in (packed.scales, packed.zero_points)
            )
            bias = None if packed.bias is None else packed.bias[rows].clone()
            part._packed = part._pack(
                weight[rows].contiguous(), scales.clone(), zero_points.clone(), bias
            )
            part._qualified_name = f"{self._qualified_name}.{'qkv'[i]}_proj".lstrip(".")
            parts.append(part)
        self.in_proj = None
        self._set_split(*parts)

    def _join_projections(self) -> None:
        """Undoes :meth:`split_projections_`, for a state dict with ``in_proj``."""
        if self.in_proj is not None or not self.kdim == self.vdim == self.embed_dim:
            return
        parts = [part._packed for part in (self.q_proj, self.k_proj, self.v_proj)]
        biases = [part.bias for part in parts if part.bias is not None]
        scales, zero_points = (
            torch.cat([t.expand(self.embed_dim) for t in per_part])
            for per_part in zip(*((part.scales, part.zero_points) for part in parts), strict=True)
        )
        activations = {name: getattr(self.q_proj, name) for name in ("per_tensor", "reduce_range")}
        whole = Linear(self.embed_dim, 3 * self.embed_dim, bool(biases), **activations)
        whole._packed = whole._pack(
            torch.cat([part.unpack() for part in parts]),
            scales,
            zero_points,
            torch.cat(biases) if biases else None,
        )
        del self.q_proj, self.k_proj, self.v_proj
        self.in_proj = whole

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if any(key.startswith(f"{prefix}q_proj.") for key in state_dict):
            self.split_projections_()
        elif any(key.startswith(f"{prefix}in_proj.") for key in state_dict):
            self._join_projections()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        for name, x in {"query": query, "key": key, "value": value}.items():
            if isinstance(x, QTensor) or not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError(
                    f"{self._label()}: {name} must be a float tensor, got {describe(x)}"
                )
        batched = self._check_inputs(query, key, value)
        same = query is key and key is value
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        attended, weights = self._attend(
            self._project(query, key, value, same),
            key_padding_mask,
            need_weights,
            attn_mask,
            is_causal,
            self.head_dim**-0.5,
        )
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        out = self.out_proj(attended)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> Heads:
        if self.in_proj is not None and same:
            projected = self.in_proj(query).chunk(3, dim=-1)
        else:
            self.split_projections_()
            projected = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        return Heads(*map(self._split_heads, projected))

    @classmethod
    def from_float(
        cls,
        mod: nn.Module,
        use_precomputed_fake_quant: bool = False,
        *,
        per_tensor: bool | None = None,
        reduce_range: bool | None = None,
    ) -> MultiheadAttention:
        """A dynamically quantized module with the weights of a ``torch.nn.MultiheadAttention``.

        Args:
            mod: its ``qconfig.weight()`` quantizes each weight matrix; without a qconfig each
                output channel gets a scale of its own, symmetric, of 8 bits.
            use_precomputed_fake_quant: has no effect, as the module has no fake-quantize.
            per_tensor, reduce_range: see :class:`Linear`; None is what ``qconfig.activation()``
                says, or False without one.

        Raises:
            TypeError: wrong kind of module; a weight observer of another dtype than qint8.
            ValueError: NaN or Inf in a weight or bias.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, nn.MultiheadAttention):
            raise TypeError(f"{label}: expected a torch.nn.MultiheadAttention")
        bias = mod.in_proj_bias
        result = cls(
            mod.embed_dim,
            mod.num_heads,
            mod.dropout,
            bias is not None,
            mod.bias_k is not None,
            mod.add_zero_attn,
            mod.kdim,
            mod.vdim,
            mod.batch_first,
            **dynamic_activations(mod, mod.out_proj, per_tensor, reduce_range),
        )
        if result.in_proj is not None:
            result.in_proj._take_part(mod, mod.in_proj_weight, bias, label)
        else:
            biases = (None,) * 3 if bias is None else bias.chunk(3)
            weights = (mod.q_proj_weight, mod.k_proj_weight, mod.v_proj_weight)
            targets = (result.q_proj, result.k_proj, result.v_proj)
            for target, weight, part in zip(targets, weights, biases, strict=True):
                target._take_part(mod, weight, part, label)
        result.out_proj._take_part(mod, mod.out_proj.weight, mod.out_proj.bias, label)
        if mod.bias_k is not None and mod.bias_v is not None:
            result.bias_k = mod.bias_k.detach().to("cpu", torch.float32, copy=True)
            result.bias_v = mod.bias_v.detach().to("cpu", torch.float32, copy=True)
        return result
