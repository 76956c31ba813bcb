"""Fused modules with fake-quantized weights."""

from octavo.nn.intrinsic.qat.modules.batch_norm import freeze_bn_stats, update_bn_stats
from octavo.nn.intrinsic.qat.modules.conv_fused import (
    ConvBn1d,
    ConvBn2d,
    ConvBn3d,
    ConvBnHardtanh1d,
    ConvBnHardtanh2d,
    ConvBnHardtanh3d,
    ConvBnReLU1d,
    ConvBnReLU2d,
    ConvBnReLU3d,
    ConvHardtanh1d,
    ConvHardtanh2d,
    ConvHardtanh3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
)
from octavo.nn.intrinsic.qat.modules.linear_function import LinearLeakyReLU, LinearTanh
from octavo.nn.intrinsic.qat.modules.linear_fused import LinearBn1d
from octavo.nn.intrinsic.qat.modules.linear_relu import LinearReLU

__all__ = [
    "ConvBn1d",
    "ConvBn2d",
    "ConvBn3d",
    "ConvBnHardtanh1d",
    "ConvBnHardtanh2d",
    "ConvBnHardtanh3d",
    "ConvBnReLU1d",
    "ConvBnReLU2d",
    "ConvBnReLU3d",
    "ConvHardtanh1d",
    "ConvHardtanh2d",
    "ConvHardtanh3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "LinearBn1d",
    "LinearLeakyReLU",
    "LinearReLU",
    "LinearTanh",
    "freeze_bn_stats",
    "update_bn_stats",
]
