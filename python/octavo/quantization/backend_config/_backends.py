"""The configs of torch's engines, and of Octavo."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from octavo.dtypes import qint8, quint4x2, quint8
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.quantization.backend_config import _operators as ops
from octavo.quantization.backend_config.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    DTypeConfig,
    DTypeWithConstraints,
)

_FLOAT = torch.float32
_WEIGHTED = DTypeConfig(quint8, quint8, qint8, _FLOAT)
_PLAIN = DTypeConfig(quint8, quint8)
_NORMALIZED = DTypeConfig(quint8, quint8, _FLOAT, _FLOAT)
_DYNAMIC = DTypeConfig(quint8, _FLOAT, qint8, _FLOAT, is_dynamic=True)
_HALVES = DTypeConfig(torch.float16, _FLOAT, torch.float16, _FLOAT, is_dynamic=True)
_TABLES = [
    DTypeConfig(_FLOAT, _FLOAT, quint8),
    DTypeConfig(_FLOAT, _FLOAT, quint4x2),
]

_EPS = 2**-12
_SIGNED = DTypeWithConstraints(qint8, scale_min_lower_bound=_EPS)
_SIGNED_WEIGHT = DTypeWithConstraints(
    qint8, quant_min_lower_bound=-127, quant_max_upper_bound=127, scale_min_lower_bound=_EPS
)


def _configs(
    weighted: list[DTypeConfig], plain: list[DTypeConfig], halves: bool = True
) -> list[BackendPatternConfig]:
    """What all of torch's engines have; ``halves``: weights in float16 too."""
    linear = [*weighted, _DYNAMIC, *([_HALVES] if halves else [])]
    return [
        *ops.conv_configs(weighted),
        *ops.linear_configs(linear),
        *ops.binary_configs(plain),
        *ops.shared_configs(plain),
        *ops.default_configs(plain),
        *ops.fixed_configs(plain),
        *ops.bn_configs(plain),
        *ops.recurrent_configs([_DYNAMIC, *([_HALVES] if halves else [])]),
        *ops.embedding_configs(_TABLES),
    ]


def get_native_backend_config() -> BackendConfig:
    """What torch's native engines quantize, as ``torch.ao``'s config of that name says.

    Source: ``torch.ao.quantization.backend_config.get_native_backend_config``.
    """
    return (
        BackendConfig("native")
        .set_backend_pattern_configs(_configs([_WEIGHTED], [_PLAIN]))
        .set_backend_pattern_configs(ops.unobserved_configs([_PLAIN]))
        .set_backend_pattern_configs(ops.layer_norm_configs([_NORMALIZED]))
    )


def get_native_backend_config_dict() -> dict[str, Any]:
    """``get_native_backend_config().to_dict()``."""
    return get_native_backend_config().to_dict()


def get_fbgemm_backend_config() -> BackendConfig:
    """What torch's FBGEMM engine quantizes: as native, without layer norm.

    Source: ``torch.ao.quantization.backend_config.get_fbgemm_backend_config``.
    """
    return (
        BackendConfig("fbgemm")
        .set_backend_pattern_configs(_configs([_WEIGHTED], [_PLAIN]))
        .set_backend_pattern_configs(ops.unobserved_configs([_PLAIN]))
    )


def get_qnnpack_backend_config() -> BackendConfig:
    """What torch's QNNPACK engine quantizes: signed activations with weights in -127..127 and
    scales of at least 2^-12 too.

    Source: ``torch.ao.quantization.backend_config.get_qnnpack_backend_config``.
    """
    signed = DTypeConfig(_SIGNED, _SIGNED, _SIGNED_WEIGHT, _FLOAT)
    return BackendConfig("qnnpack").set_backend_pattern_configs(
        _configs([signed, _WEIGHTED], [DTypeConfig(_SIGNED, _SIGNED), _PLAIN])
    )


def get_onednn_backend_config() -> BackendConfig:
    """What torch's oneDNN engine quantizes: as native, and convolutions that add another tensor,
    and Linear with LeakyReLU or Tanh.

    Source: ``torch.ao.quantization.backend_config.get_onednn_backend_config``.
    """
    return (
        BackendConfig("onednn")
        .set_backend_pattern_configs(_configs([_WEIGHTED], [_PLAIN], halves=False))
        .set_backend_pattern_configs(ops.layer_norm_configs([_NORMALIZED]))
        .set_backend_pattern_configs(ops.conv_add_configs([_WEIGHTED]))
        .set_backend_pattern_configs(ops.linear_function_configs([_WEIGHTED, _DYNAMIC]))
    )


# What Octavo's kernels have beyond torch's.
_MORE_OWN: tuple[Any, ...] = (
    nn.BatchNorm1d,
    nn.GroupNorm,
    nn.GELU,
    nn.SiLU,
    F.gelu,
    F.scaled_dot_product_attention,
    F.silu,
    operator.iadd,
    operator.imul,
    operator.matmul,
    operator.sub,
    operator.truediv,
    torch.bmm,
    torch.div,
    torch.sub,
    torch.true_divide,
    "add",
    "add_",
    "mul",
    "mul_",
    "matmul",
    "bmm",
    "sub",
    "div",
    "__radd__",
    "__rmul__",
)
_MORE_SHARED: tuple[Any, ...] = (
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.ChannelShuffle,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Upsample,
    nn.UpsamplingBilinear2d,
    nn.UpsamplingNearest2d,
    nn.ZeroPad2d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_avg_pool1d,
    F.channel_shuffle,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.pad,
    F.pixel_shuffle,
    F.pixel_unshuffle,
    F.upsample,
    operator.getitem,
    torch.chunk,
    torch.concat,
    torch.permute,
    torch.relu,
    torch.relu_,
    torch.reshape,
    torch.split,
    torch.unbind,
    "chunk",
    "expand",
    "expand_as",
    "flatten",
    "hardtanh_",
    "narrow",
    "reshape_as",
    "select",
    "split",
    "t",
    "unbind",
    "unflatten",
    "view_as",
)
_MORE_FIXED: tuple[Any, ...] = (F.sigmoid, F.tanh, F.softmax, torch.softmax, "softmax")
_CONV_HARDTANH = tuple(
    (rank, part) for rank in (1, 2, 3) for part in (nn.ReLU6, nn.Hardtanh, F.relu6)
)


def get_octavo_backend_config() -> BackendConfig:
    """What Octavo's kernels run: the default of :mod:`octavo.quantization.quantize_fx`.

    All of ``get_native_backend_config`` and ``get_onednn_backend_config``, activations in qint8,
    ReLU6 and Hardtanh fused into convolutions, BatchNorm1d, GroupNorm, GELU and SiLU, dynamic
    convolutions and ``nn.MultiheadAttention``, and more operations that keep their input's scale.
    """
    weighted = [_WEIGHTED, DTypeConfig(qint8, qint8, qint8, _FLOAT)]
    plain = [_PLAIN, DTypeConfig(qint8, qint8)]
    normalized = [_NORMALIZED, DTypeConfig(qint8, qint8, _FLOAT, _FLOAT)]
    config = BackendConfig("octavo").set_backend_pattern_configs(_configs(weighted, plain))
    config.set_backend_pattern_configs(
        [
            *ops.unobserved_configs(plain),
            *ops.layer_norm_configs(normalized),
            *ops.conv_configs([*weighted, _DYNAMIC]),
            *ops.conv_add_configs(weighted),
            *ops.linear_function_configs(weighted),
            *ops.patterns(_MORE_OWN, plain),
            *ops.patterns(_MORE_SHARED, plain, ops.SHARED),
            *ops.patterns((*ops.FROM_ZERO, *ops.AROUND_ZERO, *_MORE_FIXED), plain),
            ops.pattern(nn.MultiheadAttention, [_DYNAMIC]),
            ops.pattern(nnq.FloatFunctional, plain),
        ]
    )
    for rank, part in _CONV_HARDTANH:
        conv, bn = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
        whole = getattr(nni, f"ConvHardtanh{rank}d")
        trained = getattr(nni, f"ConvBnHardtanh{rank}d")
        config.set_backend_pattern_configs(
            [
                ops.fused((conv, part), weighted, whole),
                ops.fused((conv, bn, part), weighted, trained),
                ops.pattern(whole, weighted, qat_module=getattr(nniqat, whole.__name__)),
                ops.pattern(trained, weighted, qat_module=getattr(nniqat, trained.__name__)),
                ops.pattern(getattr(nniqat, whole.__name__), weighted, root_module=conv),
                ops.pattern(getattr(nniqat, trained.__name__), weighted, root_module=conv),
            ]
        )
    for name in ("LinearLeakyReLU", "LinearTanh"):
        whole = getattr(nni, name)
        config.set_backend_pattern_config(
            ops.pattern(whole, weighted, root_module=nn.Linear, qat_module=getattr(nniqat, name))
        )
    return config
