"""The libraries that Octavo is measured against, called as their users call them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

# Environment that keeps peers to the instructions of one of our levels; it must be set before they
# load. Both peers know nothing between AVX2 and AVX-512 that we have, and neither has a level below
# AVX2.
CAPS = {
    "scalar": {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512_vnni": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512_VNNI",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
    },
    "amx_int8": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512_VNNI",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX",
    },
}

TORCH_ENGINES = ("fbgemm", "onednn")


def missing() -> list[str]:
    """Peers of this module that the installed torch does not have."""
    if not hasattr(torch, "quint8"):
        return list(TORCH_ENGINES)
    found = torch.backends.quantized.supported_engines
    return [engine for engine in TORCH_ENGINES if engine not in found]


def torch_linear(
    engine: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    x_scale: float,
    x_zero: int,
    out_scale: float,
    out_zero: int,
) -> Callable[[], object]:
    """torch's own static quantized linear on one of its engines, packed and ready to be called."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of its quantized dtypes
        qx = torch._make_per_tensor_quantized_tensor(x, x_scale, x_zero)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        qw = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
    torch.backends.quantized.engine = engine
    packed = torch.ops.quantized.linear_prepack(qw, torch.zeros(len(scales)))
    run = torch.ops.quantized.linear

    def call() -> object:
        torch.backends.quantized.engine = engine
        return run(qx, packed, out_scale, out_zero)

    return call
