"""Modules that compute on quantized tensors; ``octavo.quantization.convert`` puts them in the place
of float ones.
"""

from octavo.nn.quantized.modules.activation import ReLU6
from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d
from octavo.nn.quantized.modules.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from octavo.nn.quantized.modules.embedding_ops import Embedding, EmbeddingBag
from octavo.nn.quantized.modules.functional_modules import (
    FloatFunctional,
    FXFloatFunctional,
    QFunctional,
)
from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.pooling import MaxPool2d
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DeQuantize",
    "Embedding",
    "EmbeddingBag",
    "FXFloatFunctional",
    "FloatFunctional",
    "Linear",
    "MaxPool2d",
    "QFunctional",
    "Quantize",
    "ReLU6",
]
