"""Recurrent layers and attention of parts that can be observed, under the names of
``torch.ao.nn.quantizable``; ``octavo.quantization.prepare`` and ``prepare_qat`` make them."""

from octavo.nn.quantizable import modules
from octavo.nn.quantizable.modules import LSTM, LSTMCell, MultiheadAttention

__all__ = ["LSTM", "LSTMCell", "MultiheadAttention", "modules"]
