"""Entry points that take and return :class:`octavo.QTensor`, for calls that take microseconds.

Each does what its namesake in :mod:`octavo.ops` does, for plain CPU tensors without gaps in memory,
or returns None without an error: for other tensors, wrong arguments, and while ``torch.jit.trace``
records. The caller then goes the ordinary way, which converts what can be converted and has the
error messages. Look-ups take plain tensors, and ``EmbeddingWeight._direct`` for the table.
"""

from __future__ import annotations

from octavo import _C
from octavo._C import adaptive_avg_pool_direct as adaptive_avg_pool
from octavo._C import adaptive_max_pool_direct as adaptive_max_pool
from octavo._C import add_direct as add
from octavo._C import avg_pool_direct as avg_pool
from octavo._C import cat_direct as cat
from octavo._C import channel_affine_direct as channel_affine
from octavo._C import clamp_direct as clamp
from octavo._C import count_bins_direct as count_bins
from octavo._C import dequantize_direct as dequantize
from octavo._C import embedding_bag_direct as embedding_bag
from octavo._C import embedding_direct as embedding
from octavo._C import extremes_direct as extremes
from octavo._C import fake_quantize_direct as fake_quantize
from octavo._C import group_norm_direct as group_norm
from octavo._C import layer_norm_direct as layer_norm
from octavo._C import lookup_direct as lookup
from octavo._C import masked_gradient_direct as masked_gradient
from octavo._C import max_pool_direct as max_pool
from octavo._C import move_counts_direct as move_counts
from octavo._C import mul_direct as mul
from octavo._C import observe_direct as observe
from octavo._C import prelu_direct as prelu
from octavo._C import quantize_direct as quantize
from octavo._C import softmax_direct as softmax
from octavo._C import spatial_mean_direct as spatial_mean
from octavo._C import upsample_linear_direct as upsample_linear
from octavo._C import upsample_nearest_direct as upsample_nearest
from octavo.dtypes import per_tensor_affine, qint8, qint32, quint8

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "add",
    "avg_pool",
    "cat",
    "channel_affine",
    "clamp",
    "connect",
    "count_bins",
    "dequantize",
    "embedding",
    "embedding_bag",
    "extremes",
    "fake_quantize",
    "group_norm",
    "layer_norm",
    "lookup",
    "masked_gradient",
    "max_pool",
    "move_counts",
    "mul",
    "observe",
    "prelu",
    "quantize",
    "softmax",
    "spatial_mean",
    "upsample_linear",
    "upsample_nearest",
]


def connect(qtensor: type) -> None:
    """Tell the extension the class of quantized tensors, so that it can read and make them."""
    _C.connect(qtensor, quint8, qint8, qint32, per_tensor_affine)
