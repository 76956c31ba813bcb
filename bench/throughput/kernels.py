"""Whose inner loops the model looks at, and on which CPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass

CPUS = {
    "neon": ("cortex-a72",),
    "neon_dotprod": ("cortex-a76", "neoverse-n1", "apple-m1"),
    "neon_i8mm": ("neoverse-n2", "neoverse-v1"),
    "avx512_vnni": ("znver4", "sapphirerapids"),  # the model beside what is measured
}
"""Level -> CPUs, as LLVM calls them."""

MAIN_TILE = "GEMM, main tile"
_ROW = "GEMM, one row"


@dataclass(frozen=True)
class Kernel:
    """One inner loop.

    Attributes:
        what: in words.
        functions: a regular expression for functions; of several, the loop that multiplies most.
    """

    level: str
    what: str
    functions: str

    def matches(self, function: str) -> bool:
        return re.search(self.functions, function) is not None


_DEPTHWISE = r"\bdepthwise_block<\w+, \d, 3, 1, false, false>"
_QUANTIZE, _ADD = r"\bquantize_neon<false>", r"\badd_vectors<\w+, false>"
KERNELS = [
    Kernel("neon", MAIN_TILE, r"\bPairwiseTile<2, false>::rows<2>"),
    Kernel("neon", _ROW, r"\bPairwiseTile<2, false>::rows<1>"),
    Kernel("neon_dotprod", MAIN_TILE, r"\bDotTile<4, false>::rows<4>"),
    Kernel("neon_dotprod", _ROW, r"\bDotTile<4, false>::rows<1>"),
    Kernel("neon_i8mm", MAIN_TILE, r"\bMatrixTile<4, false>::rows<6>"),
    Kernel("neon_i8mm", _ROW, r"\bMatrixTile<4, false>::rows<1>"),
    *(
        Kernel(level, what, functions)
        for level in ("neon", "neon_dotprod", "neon_i8mm")
        for what, functions in (
            ("depthwise 3x3, stride 1", _DEPTHWISE),
            ("quantize", _QUANTIZE),
            ("add", _ADD),
        )
    ),
    Kernel("avx512_vnni", MAIN_TILE, r"\bgemm_rows<6, 4, true>"),
]
"""uint8 activations where kernels come for both types."""
