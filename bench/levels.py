"""Instruction set levels: which to measure, and the environment that keeps peers to one."""

from __future__ import annotations

import os

from octavo import backend

# Variables that peers read when they load. Where a peer has no such level, it gets the next one
# below; FBGEMM has none below AVX2.
CAPS: dict[str, dict[str, str]] = {
    "scalar": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OV_CPU_MAX_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OV_CPU_MAX_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx_vnni": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI",
        "OV_CPU_MAX_ISA": "AVX2_VNNI",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "OV_CPU_MAX_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx512_vnni": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512_VNNI",
        # The same integer kernels as with AVX512_CORE_VNNI, and bf16 where the CPU has that.
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "OV_CPU_MAX_ISA": "AVX512_CORE_VNNI",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512_E1",
    },
    "amx_int8": {
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512_VNNI",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX",
        "OV_CPU_MAX_ISA": "AVX512_CORE_AMX",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
}
CAP_VARIABLES = sorted({variable for caps in CAPS.values() for variable in caps})


def known() -> list[str]:
    """Every level that can be named: those of this build, best first, then those of others."""
    built = backend.built()
    return built + [isa for isa in CAPS if isa not in built]


def absence(isa: str) -> str | None:
    """Why a level cannot be measured here; None where it can."""
    if isa not in backend.built():
        return "this build of Octavo has no such level"
    missing = backend.missing_features(isa)
    return f"this CPU lacks {', '.join(missing)}" if missing else None


def chosen(names: list[str] | None, kernel: str | None = None) -> list[str]:
    """The levels that were asked for, absent ones included.

    Args:
        names: values of ``--isa``, each one name, several separated by commas, or ``all``. None or
            empty: the level of ``kernel``, or of ``OCTAVO_ISA``, or every level that can run here
            except ``scalar``.

    Raises:
        ValueError: a name that no build has.
    """
    asked = [part for name in names or [] for part in name.split(",") if part]
    if not asked:
        if kernel is not None:
            return [kernel.rpartition("__")[2]]
        if os.environ.get("OCTAVO_ISA"):
            return [os.environ["OCTAVO_ISA"]]
        return [isa for isa in backend.supported() if isa != "scalar"] or backend.supported()
    levels: list[str] = []
    for name in asked:
        if name != "all" and name not in known():
            raise ValueError(f"--isa {name}: no such level; there are {', '.join(known())}, all")
        levels += known() if name == "all" else [name]
    return list(dict.fromkeys(levels))


def environment(isa: str) -> dict[str, str]:
    """The environment of the process that measures ``isa``: this one's, with the caps."""
    inherited = {name: value for name, value in os.environ.items() if name not in CAP_VARIABLES}
    return {**inherited, **CAPS.get(isa, {}), "OCTAVO_ISA": isa}
