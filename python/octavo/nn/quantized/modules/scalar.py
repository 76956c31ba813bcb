"""The qparams of sums and products of a quantized tensor and a number, which follow from the
tensor's: torch's rules for ``add_scalar`` and ``mul_scalar``.
"""

from __future__ import annotations

import math

from octavo.dtypes import QDType

__all__ = ["product_qparams", "rounded", "sum_qparams"]


def rounded(scale: float) -> float:
    """A scale, positive and finite, as float32 has it."""
    fraction, exponent = math.frexp(scale)
    return math.ldexp(round(math.ldexp(fraction, 24)), exponent - 24)


def sum_qparams(
    scale: float, zero_point: int, qdtype: QDType, number: float
) -> tuple[float, int, int]:
    """Scale and zero point of ``x + number``, and the zero point that the values of ``x`` would
    have in its own scale, which the dtype may not hold.

    The zero point moves by ``round(number / scale)``. Where that leaves the dtype's range, all
    values lie on one side of zero, and the range reaches from zero to the farthest one.

    Raises:
        OverflowError: more steps than a float has.
    """
    lo, hi = qdtype.qmin, qdtype.qmax
    moved = zero_point - round(number / scale)
    if lo <= moved <= hi:
        return scale, moved, moved
    out_zero, reach = (lo, hi - moved) if moved < lo else (hi, moved - lo)
    return reach / (hi - lo) * scale, out_zero, moved


def product_qparams(
    scale: float, zero_point: int, qdtype: QDType, number: float
) -> tuple[float, int]:
    """Scale and zero point of ``x * number``: a negative number mirrors the values in the dtype's
    range, zero gives 1 and 0.
    """
    if number == 0.0:
        return 1.0, 0
    if number < 0.0:
        zero_point = qdtype.qmin + qdtype.qmax - zero_point
    return scale * abs(number), zero_point
