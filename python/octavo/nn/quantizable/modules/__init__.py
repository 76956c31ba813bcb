"""Float modules of Linear and FloatFunctional parts."""

from octavo.nn.quantizable.modules.activation import MultiheadAttention
from octavo.nn.quantizable.modules.rnn import LSTM, LSTMCell

__all__ = ["LSTM", "LSTMCell", "MultiheadAttention"]
