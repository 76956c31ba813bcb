"""Embedding tables of quantization-aware training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from octavo.nn import quantized as nnq
from octavo.nn.qat.modules.base import QATModule

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(QATModule):
    """What both kinds share: the qconfig that they need."""

    def _set_qconfig(self, qconfig: Any) -> None:
        super()._set_qconfig(qconfig)
        unfit = self._unfit_qconfig(qconfig)
        if unfit:
            raise ValueError(
                f"{type(self).__name__}: {unfit}, in training with default_embedding_qat_qconfig "
                "or default_embedding_qat_qconfig_4bit"
            )

    @classmethod
    def _unfit_qconfig(cls, qconfig: Any) -> str:
        return nnq.Embedding._unfit_qconfig(qconfig)


class Embedding(_Table, nn.Embedding):
    """:class:`torch.nn.Embedding` with a fake-quantized table.

    Args: those of ``torch.nn.Embedding``, and
        qconfig: such as ``octavo.quantization.default_embedding_qat_qconfig``.

    Shape: indices of any shape, output float ``[*, embedding_dim]``.

    Raises:
        ValueError: a qconfig that is none, or whose weight scheme is not
            per_channel_affine_float_qparams; ``sparse``.

    Source: ``torch.ao.nn.qat.Embedding``. Differences: ``max_norm`` rescales the float table, as
    ``torch.nn.Embedding`` does, not its rounded copy; ``sparse`` gradients, which cannot pass
    through the rounding, are refused.
    """

    _FLOAT_MODULE = nn.Embedding
    _LAYER = nn.Embedding

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        device: Any = None,
        dtype: Any = None,
        qconfig: Any = None,
    ) -> None:
        _refuse_sparse(type(self).__name__, sparse)
        nn.Embedding.__init__(
            self,
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            device=device,
            dtype=dtype,
        )
        self._set_qconfig(qconfig)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        names = (
            "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse"
        )
        return {name: getattr(layer, name) for name in names.split()}

    def forward(self, input: Tensor) -> Tensor:
        if self.max_norm is not None:  # rescales the rows in question, in place
            F.embedding(input, self.weight.detach(), None, self.max_norm, self.norm_type)
        table = self.weight_fake_quant(self.weight)
        return F.embedding(
            input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )


class EmbeddingBag(_Table, nn.EmbeddingBag):
    """:class:`torch.nn.EmbeddingBag` with a fake-quantized table.

    Args: those of ``torch.nn.EmbeddingBag``, and
        qconfig: such as ``octavo.quantization.default_embedding_qat_qconfig``.

    Shape, errors and differences: as ``torch.nn.EmbeddingBag`` and :class:`Embedding`.

    Source: ``torch.ao.nn.qat.EmbeddingBag``.
    """

    _FLOAT_MODULE = nn.EmbeddingBag
    _LAYER = nn.EmbeddingBag

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        qconfig: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _refuse_sparse(type(self).__name__, sparse)
        nn.EmbeddingBag.__init__(
            self,
            num_embeddings,
            embedding_dim,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            _weight,
            include_last_offset,
            padding_idx,
            device,
            dtype,
        )
        self._set_qconfig(qconfig)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        names = (
            "num_embeddings embedding_dim max_norm norm_type scale_grad_by_freq mode sparse "
            "include_last_offset padding_idx"
        )
        return {name: getattr(layer, name) for name in names.split()}

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        if self.max_norm is not None:  # rescales the rows in question, in place
            F.embedding(input, self.weight.detach(), None, self.max_norm, self.norm_type)
        return F.embedding_bag(
            input,
            self.weight_fake_quant(self.weight),
            offsets,
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )


def _refuse_sparse(name: str, sparse: bool) -> None:
    if sparse:
        raise ValueError(
            f"{name}: sparse must be False: sparse gradients cannot pass through the rounding of "
            "the table"
        )
