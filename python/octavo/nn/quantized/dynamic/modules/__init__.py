"""Dynamically quantized modules."""

from octavo.nn.quantized.dynamic.modules.conv import Conv1d, Conv2d, Conv3d
from octavo.nn.quantized.dynamic.modules.conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from octavo.nn.quantized.dynamic.modules.linear import Linear
from octavo.nn.quantized.dynamic.modules.linear_float16 import LinearFloat16
from octavo.nn.quantized.dynamic.modules.multihead_attention import MultiheadAttention
from octavo.nn.quantized.dynamic.modules.rnn import GRU, LSTM
from octavo.nn.quantized.dynamic.modules.rnn_cell import GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "LinearFloat16",
    "MultiheadAttention",
    "RNNCell",
]
