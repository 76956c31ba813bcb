"""Main loops of other libraries' int8 GEMM kernels, counted in their published sources.

Cycles are those of the same model (LLVM 19), for the loop alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo.bench.throughput.mca import Timing


@dataclass(frozen=True)
class Published:
    """One loop.

    Attributes:
        library, file: where it is read.
        tile: rows x columns.
        level: Octavo's level whose instructions it uses.
        macs, counts: of one iteration, as of :class:`loops.Loop`.
        timings: by CPU.
    """

    library: str
    file: str
    tile: str
    level: str
    macs: int
    counts: Mapping[str, int]
    timings: Mapping[str, Timing]

    @property
    def commit(self) -> str:
        """Of the library's repository."""
        return _COMMITS[self.library]


def _counts(arithmetic: int, load: int, vector: int, scalar: int) -> dict[str, int]:
    return {
        "arithmetic": arithmetic,
        "load": load,
        "store": 0,
        "vector": vector,
        "scalar": scalar,
    }


_COMMITS = {
    "QNNPACK": "7d2a4e9931a8",
    "XNNPACK": "75db3c093b6d",
    "KleidiAI": "495f6524d981",
}
_XNNPACK_FILES = "src/qs8-qc8w-gemm/gen/qs8-qc8w-gemm-"
_KLEIDIAI_FILES = "kai/ukernels/matmul/matmul_clamp_f32_qai8dxp_qsi8cxp/kai_matmul_clamp_f32_"
PUBLISHED = [
    Published(
        "QNNPACK",
        "src/q8gemm/8x8-aarch64-neon.S",
        "8x8",
        level="neon",
        macs=512,
        counts=_counts(arithmetic=128, load=16, vector=16, scalar=2),
        timings={"cortex-a72": Timing(128.0, 128.0)},
    ),
    Published(
        "XNNPACK",
        _XNNPACK_FILES + "2x8c8-minmax-fp32-asm-aarch64-neon-mlal.S",
        "2x8",
        level="neon",
        macs=256,
        counts=_counts(arithmetic=48, load=10, vector=0, scalar=3),
        timings={"cortex-a72": Timing(32.0, 32.0)},
    ),
    Published(
        "XNNPACK",
        _XNNPACK_FILES + "4x16-minmax-fp32-asm-aarch64-neon-mlal-lane-ld64.S",
        "4x16",
        level="neon",
        macs=512,
        counts=_counts(arithmetic=128, load=12, vector=20, scalar=2),
        timings={"cortex-a72": Timing(128.0, 128.0)},
    ),
    Published(
        "XNNPACK",
        _XNNPACK_FILES + "4x16c4-minmax-fp32-asm-aarch64-neondot-ld128.S",
        "4x16",
        level="neon_dotprod",
        macs=1024,
        counts=_counts(arithmetic=64, load=13, vector=0, scalar=2),
        timings={
            "cortex-a76": Timing(38.0, 32.0),
            "neoverse-n1": Timing(32.0, 32.0),
            "apple-m1": Timing(21.335, 21.335),
        },
    ),
    Published(
        "KleidiAI",
        _KLEIDIAI_FILES + "qai8dxp4x4_qsi8cxp4x4_16x4_neon_dotprod.c",
        "16x4",
        level="neon_dotprod",
        macs=2048,
        counts=_counts(arithmetic=128, load=40, vector=0, scalar=7),
        timings={
            "cortex-a76": Timing(64.0, 64.0),
            "neoverse-n1": Timing(64.0, 64.0),
            "apple-m1": Timing(42.665, 42.665),
        },
    ),
    Published(
        "KleidiAI",
        _KLEIDIAI_FILES + "qai8dxp4x8_qsi8cxp4x8_16x4_neon_i8mm_asm.S",
        "16x4",
        level="neon_i8mm",
        macs=2048,
        counts=_counts(arithmetic=64, load=40, vector=0, scalar=7),
        timings={"neoverse-n2": Timing(32.0, 32.0), "neoverse-v1": Timing(16.0, 16.0)},
    ),
]
