"""Quantized embedding tables.

State dict, plain tensors only:

===================== ======== ====================================================================
``weight_uint8``      uint8    ``[rows, columns]``; of a quint8 table
``weight_uint4x2``    uint8    ``[rows, (columns + 1) // 2]``, column ``2 j`` in the lower half of
                               byte ``j``; of a quint4x2 table
``weight_scale``      float32  ``[rows]``
``weight_zero_point`` float32  ``[rows]``
===================== ======== ====================================================================

A module holds its table once, as the state dict has it, and the state dict shares its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import quint4x2, quint8
from octavo.nn.quantized.modules.base import QuantizedModule, expect
from octavo.nn.quantized.modules.utils import describe, relabel, source_label
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.ops.embedding import (
    EmbeddingWeight,
    checked_embedding,
    checked_embedding_bag,
    embedding_dtype,
    pack_nibbles,
    padding_index,
)

__all__ = ["Embedding", "EmbeddingBag"]

_FLOAT_QPARAMS: Any = getattr(
    torch, "per_channel_affine_float_qparams", "per_channel_affine_float_qparams"
)


class Embedding(QuantizedModule):
    """Look-ups in a table of 8-bit or 4-bit rows, each with a float scale and zero point.

    Args:
        num_embeddings: rows.
        embedding_dim: columns.
        padding_idx: kept as an attribute. As in ``nn.Embedding`` it does not change look-ups.
        max_norm: must be None: rows are not rescaled at look-up. :meth:`from_float` rescales those
            of a float module that has one.
        norm_type, scale_grad_by_freq, sparse: without effect; there are no gradients.
        _weight: the table, as :meth:`set_weight` takes it; default: zeros.
        dtype: ``octavo.quint8`` or ``octavo.quint4x2``, or torch's.

    Shape: input int32 or int64, any shape; output float32 ``[*, embedding_dim]``. A value is ``q *
    scale - zero_point * scale``.

    Raises:
        TypeError: in ``forward``, for anything but an int32 or int64 tensor.
        IndexError: in ``forward``, for an index that is not in the table.
        ValueError: sizes < 0; a ``padding_idx`` that is not in the table; ``max_norm``.

    Source: ``torch.ao.nn.quantized.Embedding``. Differences: quint4x2 works without ``_weight``
    and through ``from_float``; ``padding_idx`` is kept; ``weight`` can be read as an attribute too;
    the state dict holds tensors only.
    """

    _FLOAT_MODULE: ClassVar[type[nn.Module]] = nn.Embedding
    _table: EmbeddingWeight

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        dtype: Any = quint8,
    ) -> None:
        super().__init__()
        if num_embeddings < 0 or embedding_dim < 0:
            raise ValueError(
                f"{self._label()}: sizes must be >= 0, got {num_embeddings} and {embedding_dim}"
            )
        if max_norm is not None:
            raise ValueError(
                f"{self._label()}: max_norm must be None, got {max_norm}: quantized rows are not "
                "rescaled at look-up; from_float() applies the max_norm of a float module once"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        try:
            self.padding_idx = padding_index(padding_idx, num_embeddings)
            table_dtype = embedding_dtype(dtype)
        except (TypeError, ValueError) as error:
            raise self._named(error) from error
        self.max_norm = None
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        width = (embedding_dim + 1) // 2 if table_dtype is quint4x2 else embedding_dim
        self._table = EmbeddingWeight(
            torch.zeros((num_embeddings, width), dtype=torch.uint8),
            torch.ones(num_embeddings),
            torch.zeros(num_embeddings),
            embedding_dim,
            table_dtype,
        )
        if _weight is not None:
            self.set_weight(_weight)

    @property
    def dtype(self) -> Any:
        return self._table.dtype

    @property
    def weight(self) -> EmbeddingWeight:
        """The table; ``module.weight`` and ``module.weight()`` are the same."""
        return self._table

    def set_weight(self, w: Any) -> None:
        """Replaces the table, and the dtype with it.

        Args:
            w: an :class:`octavo.ops.EmbeddingWeight`, or a tensor quantized by torch with a float
                scale and zero point for each row.

        Raises:
            TypeError: something else.
            ValueError: another shape than the module's.
        """
        try:
            table = w if isinstance(w, EmbeddingWeight) else _table_of(w)
            if tuple(table.shape) != (self.num_embeddings, self.embedding_dim):
                raise ValueError(
                    f"weight must have shape [{self.num_embeddings}, {self.embedding_dim}], got "
                    f"{list(table.shape)}"
                )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        self._table = table

    def _get_name(self) -> str:
        return "QuantizedEmbedding"

    def extra_repr(self) -> str:
        return (
            f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, "
            f"dtype={self.dtype}, qscheme={self._table.qscheme()}"
        )

    def forward(self, indices: Tensor) -> Tensor:
        result: Tensor | None = (
            None if is_dynamo_compiling() else direct.embedding(self._table._direct, indices)
        )
        return self._forward(indices) if result is None else result

    def _forward(self, indices: Tensor) -> Tensor:
        """`forward` for what it does not take directly."""
        try:
            return checked_embedding(self._table, indices)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise self._named(error) from error

    # Conversion.

    @classmethod
    def _unfit_qconfig(cls, qconfig: Any) -> str:
        """Why a qconfig does not quantize embedding tables, or ""."""
        scheme = getattr(_weight_observer(qconfig), "qscheme", None)
        if scheme == _FLOAT_QPARAMS:
            return ""
        return (
            f"its qconfig gives weights the scheme {scheme}; embedding tables are quantized with "
            "octavo.quantization.float_qparams_weight_only_qconfig or "
            "float_qparams_weight_only_qconfig_4bit"
        )

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Embedding:
        """A quantized module with the rows of a float one.

        Args:
            mod: a float module of the same kind. Its ``weight_fake_quant`` or ``qconfig.weight()``
                gives the qparams; without them ``float_qparams_weight_only_qconfig`` does. Rows
                beyond its ``max_norm`` are rescaled as its look-ups would.
            use_precomputed_fake_quant: take a weight fake-quantize's qparams as they are, without
                showing it the weight again.

        Raises:
            TypeError: another kind of module; an observer of another dtype than quint8 and
                quint4x2.
            ValueError: an observer of another scheme than per_channel_affine_float_qparams on axis
                0; NaN or Inf in the weight.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, cls._FLOAT_MODULE):
            raise TypeError(f"{label}: expected a torch.nn.{cls._FLOAT_MODULE.__name__}")
        try:
            table = _quantized_table(mod, use_precomputed_fake_quant)
        except (TypeError, ValueError, RuntimeError) as error:
            raise relabel(error, label) from error
        result = cls(**cls._arguments(mod), dtype=table.dtype)
        result.set_weight(table)
        return result

    @classmethod
    def _arguments(cls, mod: Any) -> dict[str, Any]:
        names = "num_embeddings embedding_dim padding_idx norm_type scale_grad_by_freq sparse"
        return {name: getattr(mod, name) for name in names.split()}

    # State dict.

    def _weight_key(self) -> str:
        return "weight_uint8" if self.dtype is quint8 else "weight_uint4x2"

    def _state_tensors(self) -> dict[str, Tensor]:
        table = self._table
        return {
            self._weight_key(): table.storage,
            "weight_scale": table.scales,
            "weight_zero_point": table.zero_points,
        }

    def _state_keys(self) -> tuple[str, ...]:
        return (self._weight_key(), "weight_scale", "weight_zero_point")

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        own = self._weight_key()
        if prefix + own not in state_dict:
            reason = self._foreign_checkpoint(state_dict, prefix)
            if reason:
                label = f"{type(self).__name__} '{prefix[:-1]}'" if prefix else self._label()
                lists[-1].append(f"{label}: {reason}")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def _foreign_checkpoint(self, state_dict: Any, prefix: str) -> str:
        """What is wrong with a checkpoint whose table is of another kind; "" if it has none."""
        weight = state_dict.get(prefix + "weight")
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return (
                f"the checkpoint is a float one ('weight' is {weight.dtype}) and this module is "
                "quantized; load it into the float model and convert that"
            )
        for key, dtype in (("weight_uint8", quint8), ("weight_uint4x2", quint4x2)):
            if key != self._weight_key() and prefix + key in state_dict:
                return (
                    f"the checkpoint's table is {dtype} and this module's is {self.dtype}; make "
                    f"the module with dtype={dtype}"
                )
        return ""

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        key = self._weight_key()
        storage, scales, zero_points = (
            tensors[name] for name in (key, "weight_scale", "weight_zero_point")
        )
        expect(key, storage, (torch.uint8,), tuple(self._table.storage.shape))
        expect("weight_scale", scales, (torch.float32,), (self.num_embeddings,))
        expect("weight_zero_point", zero_points, (torch.float32,), (self.num_embeddings,))
        self._table = EmbeddingWeight(
            storage.to("cpu", copy=True),
            scales.cpu(),
            zero_points.to("cpu", copy=True),
            self.embedding_dim,
            self.dtype,
        )


class EmbeddingBag(Embedding):
    """Sums, means or maxima of bags of rows of a table of 8-bit or 4-bit rows.

    Args:
        num_embeddings: rows.
        embedding_dim: columns.
        max_norm, norm_type, scale_grad_by_freq, sparse, _weight, dtype: as :class:`Embedding`.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        include_last_offset: ``offsets`` has one more element, the end of the last bag.
        padding_idx: rows of this index are left out; they do not count in a mean.

    Shape: see :meth:`forward`; arithmetic: see :func:`octavo.ops.embedding_bag`.

    Source: ``torch.ao.nn.quantized.EmbeddingBag``. Differences: ``mode`` is obeyed, where torch
    always sums; ``padding_idx`` exists and ``from_float`` keeps it; and as :class:`Embedding`.
    """

    _FLOAT_MODULE = nn.EmbeddingBag

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "sum",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        dtype: Any = quint8,
        *,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            dtype,
        )
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"{self._label()}: mode must be 'sum', 'mean' or 'max', got {mode!r}")
        self.mode = mode
        self.include_last_offset = bool(include_last_offset)

    def _get_name(self) -> str:
        return "QuantizedEmbeddingBag"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode}"

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        compressed_indices_mapping: Tensor | None = None,
    ) -> Tensor:
        """The reduced bags, float32 ``[bags, embedding_dim]``.

        Args:
            indices: int32 or int64. 2-D: a bag in each row; 1-D: with ``offsets``.
            offsets: int32 or int64 ``[bags]``: where each bag begins.
            per_sample_weights: float, of the shape of ``indices``; ``mode="sum"`` only.
            compressed_indices_mapping: must be None; tables are not pruned.

        Raises: as :func:`octavo.ops.embedding_bag`, with the module's name.
        """
        result: Tensor | None = (
            None
            if is_dynamo_compiling()
            else direct.embedding_bag(
                self._table._direct,
                indices,
                offsets,
                self.mode,
                per_sample_weights,
                self.include_last_offset,
                self.padding_idx,
            )
        )
        if result is None or compressed_indices_mapping is not None:
            return self._forward(indices, offsets, per_sample_weights, compressed_indices_mapping)
        return result

    def _forward(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        compressed_indices_mapping: Tensor | None = None,
    ) -> Tensor:
        """`forward` for what it does not take directly."""
        try:
            if compressed_indices_mapping is not None:
                raise ValueError("compressed_indices_mapping must be None: tables are not pruned")
            return checked_embedding_bag(
                self._table,
                indices,
                offsets,
                self.mode,
                per_sample_weights,
                self.include_last_offset,
                self.padding_idx,
            )
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise self._named(error) from error

    @classmethod
    def _arguments(cls, mod: Any) -> dict[str, Any]:
        return super()._arguments(mod) | {
            "mode": mod.mode,
            "include_last_offset": mod.include_last_offset,
        }


def _weight_observer(qconfig: Any) -> Any:
    # octavo.quantization needs the modules of octavo.nn first.
    from octavo.quantization.qconfig import float_qparams_weight_only_qconfig

    factory = getattr(qconfig, "weight", None) or float_qparams_weight_only_qconfig.weight
    return factory()


def _quantized_table(mod: Any, use_precomputed_fake_quant: bool) -> EmbeddingWeight:
    observer: Any = getattr(mod, "weight_fake_quant", None)
    precomputed = use_precomputed_fake_quant and observer is not None
    if observer is None:
        observer = _weight_observer(getattr(mod, "qconfig", None))
    inner = getattr(observer, "activation_post_process", observer)
    scheme, axis = getattr(inner, "qscheme", None), getattr(inner, "ch_axis", None)
    if scheme != _FLOAT_QPARAMS or axis != 0:
        raise ValueError(
            "the weight observer must have the scheme per_channel_affine_float_qparams on axis 0, "
            f"got {scheme} on axis {axis}; set the module's qconfig to "
            "octavo.quantization.float_qparams_weight_only_qconfig or "
            "float_qparams_weight_only_qconfig_4bit"
        )
    dtype = embedding_dtype(inner.dtype)
    weight: Tensor = mod.weight.detach()
    if weight.device.type == "meta":
        raise ValueError(
            "the weight is on the meta device and holds no numbers; load a checkpoint first"
        )
    weight = weight.to("cpu", torch.float32)
    if not bool(torch.isfinite(weight).all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(f"the float weight holds {bad} NaN or Inf among {weight.numel()} values")
    if mod.max_norm is not None:
        rows = torch.arange(len(weight))
        weight = torch.embedding_renorm_(weight.clone(), rows, mod.max_norm, mod.norm_type)
    if weight.numel() == 0:
        width = (weight.shape[1] + 1) // 2 if dtype is quint4x2 else weight.shape[1]
        ones = torch.ones(len(weight))
        storage = torch.empty((len(weight), width), dtype=torch.uint8)
        return EmbeddingWeight(storage, ones, ones - 1, weight.shape[1], dtype)
    if not precomputed:
        observer(weight)
    scales, zero_points = observer.calculate_qparams()
    return EmbeddingWeight.from_float(
        weight,
        scales.detach().to("cpu", torch.float32).reshape(-1),
        zero_points.detach().to("cpu", torch.float32).reshape(-1),
        dtype,
        getattr(inner, "quant_min", None),
        getattr(inner, "quant_max", None),
    )


def _table_of(w: Any) -> EmbeddingWeight:
    """The table in a tensor that torch has quantized."""
    if not isinstance(w, Tensor) or not getattr(w, "is_quantized", False):
        raise TypeError(
            "weight must be an octavo.ops.EmbeddingWeight, or a tensor quantized by torch with "
            f"float qparams, got {describe(w)}"
        )
    if w.qscheme() != _FLOAT_QPARAMS or w.q_per_channel_axis() != 0:
        raise ValueError(
            "weight must have the scheme per_channel_affine_float_qparams on axis 0, got "
            f"{w.qscheme()}"
        )
    dtype = embedding_dtype(w.dtype)
    storage = w.int_repr()
    columns = w.shape[1]
    if dtype is quint4x2:
        halves = torch.stack((storage.flatten() & 15, storage.flatten() >> 4), dim=1).flatten()
        storage = pack_nibbles(halves[: w.numel()].reshape(w.shape))
    return EmbeddingWeight(
        storage.contiguous(),
        w.q_per_channel_scales().float(),
        w.q_per_channel_zero_points().float(),
        columns,
        dtype,
    )
