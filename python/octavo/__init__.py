"""int8 inference for PyTorch models on CPUs.

Hand-written SIMD kernels under the names of PyTorch's quantization API: `octavo.quantization` plays
the part of `torch.ao.quantization`, `octavo.nn.quantized` that of `torch.ao.nn.quantized`, and
`QTensor` that of torch's quantized tensors.
"""

from importlib.metadata import version

# torch comes before the rest: it loads the OpenMP runtime whose thread pool the kernels share.
import torch  # noqa: F401  # isort: split

from octavo import backend, ops
from octavo._tensor import (  # noqa: F401  (fill the dispatch table)
    assign,
    compute,
    interpolate,
    metadata,
    pooling,
    unary,
    views,
)
from octavo.dtypes import (
    per_channel_affine,
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    qint32,
    quint4x2,
    quint8,
)
from octavo.tensor import QTensor, dequantize, quantize_per_channel, quantize_per_tensor

from octavo import library, nn, quantization  # isort: skip  (they use the names above)
from octavo.lowering import lower  # isort: skip
from octavo.workflow import (  # isort: skip
    DynamicQuantConfig,
    StaticQuantConfig,
    autotune,
    convert,
    export,
    load,
    prepare,
    quantize,
    save,
)

__version__ = version("octavo")

__all__ = [
    "DynamicQuantConfig",
    "QTensor",
    "StaticQuantConfig",
    "__version__",
    "autotune",
    "backend",
    "convert",
    "dequantize",
    "export",
    "library",
    "load",
    "lower",
    "nn",
    "ops",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_tensor_affine",
    "per_tensor_symmetric",
    "prepare",
    "qint8",
    "qint32",
    "quantization",
    "quantize",
    "quantize_per_channel",
    "quantize_per_tensor",
    "quint4x2",
    "quint8",
    "save",
]
