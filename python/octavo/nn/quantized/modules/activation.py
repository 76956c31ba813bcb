"""The activation functions and attention, under the path that torch.ao has for them."""

from octavo.nn.quantized.modules.multihead_attention import MultiheadAttention
from octavo.nn.quantized.modules.prelu import PReLU
from octavo.nn.quantized.modules.relu6 import ReLU6
from octavo.nn.quantized.modules.unary import ELU, Hardswish, LeakyReLU, Sigmoid, Softmax

__all__ = [
    "ELU",
    "Hardswish",
    "LeakyReLU",
    "MultiheadAttention",
    "PReLU",
    "ReLU6",
    "Sigmoid",
    "Softmax",
]
