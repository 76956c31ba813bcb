"""Modules that compute on quantized tensors; ``octavo.quantization.convert`` puts them in the place
of float ones.
"""

from octavo.nn.quantized.modules.attention import ScaledDotProductAttention
from octavo.nn.quantized.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d
from octavo.nn.quantized.modules.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from octavo.nn.quantized.modules.dropout import Dropout
from octavo.nn.quantized.modules.embedding_ops import Embedding, EmbeddingBag
from octavo.nn.quantized.modules.functional_modules import (
    FloatFunctional,
    FXFloatFunctional,
    QFunctional,
)
from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.multihead_attention import MultiheadAttention
from octavo.nn.quantized.modules.normalization import (
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from octavo.nn.quantized.modules.pooling import MaxPool2d
from octavo.nn.quantized.modules.prelu import PReLU
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize
from octavo.nn.quantized.modules.relu6 import ReLU6
from octavo.nn.quantized.modules.rnn import LSTM
from octavo.nn.quantized.modules.unary import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)

__all__ = [
    "ELU",
    "GELU",
    "LSTM",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DeQuantize",
    "Dropout",
    "Embedding",
    "EmbeddingBag",
    "FXFloatFunctional",
    "FloatFunctional",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "MultiheadAttention",
    "PReLU",
    "QFunctional",
    "Quantize",
    "ReLU6",
    "ScaledDotProductAttention",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
