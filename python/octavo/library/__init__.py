"""Octavo's operators for ``torch.export`` and ``torch.compile``: ``torch.ops.octavo.*``.

The operators take plain tensors and numbers: integers with their scale and zero point, weights as
int8 tensors, which are packed for the CPU at the first call. They compute what the functions of
:mod:`octavo.ops` compute, the same bits. Quantized modules call them while a graph is being
recorded, so that no :class:`octavo.QTensor` is in it. Those of :mod:`octavo.library.decomposed`
round tensors and undo it, around the float operations of a graph that
:mod:`octavo.quantization.quantize_pt2e` makes.

AOTInductor's runner gives the same bits, but may hand an operator a new tensor for the same weight
at each call; the weight is then packed at each call.

A graph that holds them needs ``import octavo`` where it is loaded and run: they are implemented in
Python, on top of the extension.
"""

from octavo.library import (
    attention,
    conv,
    decomposed,
    elementwise,
    embedding,
    fake_quantize,
    linear,
    normalize,
    pooling,
    recurrent,
)

__all__ = [
    "attention",
    "conv",
    "decomposed",
    "elementwise",
    "embedding",
    "fake_quantize",
    "linear",
    "normalize",
    "pooling",
    "recurrent",
]
