"""Operators on plain integer tensors: the only package that calls the extension.

Everything here takes and returns ordinary ``torch.Tensor`` objects of dtype ``uint8``, ``int8`` or
``int32`` together with scales and zero points as Python numbers; :class:`octavo.QTensor` and the
modules of :mod:`octavo.nn` are built on it. The exceptions are :mod:`octavo.ops.direct` and
``direct`` of the weights, which take a QTensor as it is. Arithmetic is normative, the same bits on
every CPU: see *Numerics* in the README.
"""

from octavo.ops.attention import attention
from octavo.ops.concatenate import cat
from octavo.ops.conv_weights import Conv1dWeight, Conv2dWeight, Conv3dWeight, ConvWeight
from octavo.ops.elementwise import (
    add,
    clamp,
    dequantize,
    dequantize_per_channel,
    mul,
    quantize,
    quantize_per_channel,
    requantize,
)
from octavo.ops.embedding import EmbeddingWeight, embedding, embedding_bag
from octavo.ops.normalize import (
    batch_norm_constants,
    channel_affine,
    group_norm,
    layer_norm,
    prelu,
    softmax,
    softmax_table,
)
from octavo.ops.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from octavo.ops.recurrent import recurrent
from octavo.ops.transposed import ConvTransposeWeight
from octavo.ops.unary import unary, unary_, unary_table
from octavo.ops.upsample import upsample_linear, upsample_nearest
from octavo.ops.weights import LinearWeight

__all__ = [
    "Conv1dWeight",
    "Conv2dWeight",
    "Conv3dWeight",
    "ConvTransposeWeight",
    "ConvWeight",
    "EmbeddingWeight",
    "LinearWeight",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "add",
    "attention",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm_constants",
    "cat",
    "channel_affine",
    "clamp",
    "dequantize",
    "dequantize_per_channel",
    "embedding",
    "embedding_bag",
    "group_norm",
    "layer_norm",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mul",
    "prelu",
    "quantize",
    "quantize_per_channel",
    "recurrent",
    "requantize",
    "softmax",
    "softmax_table",
    "unary",
    "unary_",
    "unary_table",
    "upsample_linear",
    "upsample_nearest",
]
