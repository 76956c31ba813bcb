"""Layers of ``torch.nn`` with fake-quantized weights."""

from octavo.nn.qat.modules.conv import Conv1d, Conv2d, Conv3d
from octavo.nn.qat.modules.embedding_ops import Embedding, EmbeddingBag
from octavo.nn.qat.modules.linear import Linear

__all__ = ["Conv1d", "Conv2d", "Conv3d", "Embedding", "EmbeddingBag", "Linear"]
