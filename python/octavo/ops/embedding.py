"""Quantized embedding tables, and look-ups in them."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from octavo import _C
from octavo.dtypes import QDType, quint4x2, quint8
from octavo.ops import direct
from octavo.ops._common import Tensor, check_cpu
from octavo.ops._tracing import PlainForm, record, tracing

__all__ = ["EmbeddingWeight", "embedding", "embedding_bag"]

_MODES = {"sum": 0, "mean": 1, "max": 2}
_INDEX_DTYPES = (torch.int32, torch.int64)
_CHUNK = 1 << 22  # elements that are quantized at once, which bounds the temporary memory


class EmbeddingWeight(PlainForm):
    """A table of quantized rows, each with a float scale and zero point of its own.

    Row ``i`` has the values ``q * scales[i] + offset``, ``offset = -zero_points[i] * scales[i]``,
    in float32, each operation rounded. The table never changes, so copies of it share its memory;
    :attr:`storage` is what kernels read, not a copy.

    Args:
        storage: uint8; quint8: ``[rows, columns]``; quint4x2: ``[rows, (columns + 1) // 2]``,
            column ``2 j`` in the lower half of byte ``j``.
        scales: float32 ``[rows]``, finite and > 0.
        zero_points: float32 ``[rows]``, finite.
        columns: default: those of quint8 storage, or twice the bytes of quint4x2.
        dtype: ``octavo.quint8`` or ``octavo.quint4x2``, or torch's.

    Raises:
        TypeError: other dtypes.
        ValueError: shapes that do not belong together; scales or zero points as above; a half byte
            behind the last column that is not 0.
        RuntimeError: tensors that are not on the CPU.
    """

    def __init__(
        self,
        storage: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        columns: int | None = None,
        dtype: Any = quint8,
    ) -> None:
        super().__init__()
        self.dtype = embedding_dtype(dtype)
        four_bits = self.dtype is quint4x2
        for name, tensor, wanted, dim in (
            ("storage", storage, torch.uint8, 2),
            ("scales", scales, torch.float32, 1),
            ("zero_points", zero_points, torch.float32, 1),
        ):
            if tensor.dtype != wanted:
                raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")
            check_cpu(name, tensor)
            if tensor.dim() != dim or len(tensor) != len(storage):
                raise ValueError(
                    f"{name} must have shape {'[rows, bytes]' if dim == 2 else f'[{len(storage)}]'}"
                    f", got {list(tensor.shape)}"
                )
        if columns is None:
            columns = storage.shape[1] * (2 if four_bits else 1)
        self.columns = operator.index(columns)
        width = (self.columns + 1) // 2 if four_bits else self.columns
        if storage.shape[1] != width:
            raise ValueError(
                f"storage of {self.columns} {self.dtype.name} columns has {width} bytes a row, got "
                f"{storage.shape[1]}"
            )
        offsets = -zero_points * scales
        if not bool((torch.isfinite(scales) & (scales > 0) & torch.isfinite(offsets)).all()):
            raise ValueError(
                "scales must be finite and > 0, and zero points and zero point * scale finite; got "
                f"scales from {scales.min()} to {scales.max()} and zero points from "
                f"{zero_points.min()} to {zero_points.max()}"
            )
        if four_bits and self.columns % 2 and bool((storage[:, -1] > 15).any()):
            raise ValueError(
                f"storage of {self.columns} quint4x2 columns must have 0 in the upper half of each "
                "row's last byte"
            )
        self.storage = storage.detach().contiguous()
        self.zero_points = zero_points.detach().contiguous()
        self._qparams = torch.stack((scales.detach(), offsets.detach()), dim=1)
        # As the direct entry points take it; tensors, since their memory may move.
        self._direct = (self.storage, self._qparams, self.columns, four_bits)

    @classmethod
    def from_float(
        cls,
        weight: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        dtype: Any = quint8,
        quant_min: int | None = None,
        quant_max: int | None = None,
    ) -> EmbeddingWeight:
        """Quantizes float rows: ``q = clamp(round_half_even(x * (1 / scale) + zero_point))``.

        Args:
            weight: float ``[rows, columns]`` without NaN and Inf.
            scales, zero_points: float32 ``[rows]``.
            dtype: as above.
            quant_min, quant_max: bounds of q, within those of the dtype.

        Source: ``torch.quantize_per_channel`` with float zero points.
        """
        qdtype = embedding_dtype(dtype)
        lo = qdtype.qmin if quant_min is None else quant_min
        hi = qdtype.qmax if quant_max is None else quant_max
        if not qdtype.qmin <= lo <= hi <= qdtype.qmax:
            raise ValueError(
                f"quant_min, quant_max: {lo}, {hi} is no range inside {qdtype.name}'s "
                f"{qdtype.qmin}..{qdtype.qmax}"
            )
        rows, columns = weight.shape
        width = (columns + 1) // 2 if qdtype is quint4x2 else columns
        storage = torch.empty((rows, width), dtype=torch.uint8)
        step = max(1, _CHUNK // max(columns, 1))
        for begin in range(0, rows, step):
            part = slice(begin, begin + step)
            plain = weight[part].detach().to("cpu", torch.float32)
            if not bool(torch.isfinite(plain).all()):
                bad = int((~torch.isfinite(plain)).sum())
                raise ValueError(f"the float weight holds {bad} NaN or Inf values")
            q = plain * (1.0 / scales[part, None])
            q = q.add_(zero_points[part, None]).round_().clamp_(lo, hi).to(torch.uint8)
            storage[part] = pack_nibbles(q) if qdtype is quint4x2 else q
        return cls(storage, scales, zero_points, columns, qdtype)

    @property
    def scales(self) -> Tensor:
        """float32 ``[rows]``."""
        return self._qparams[:, 0].contiguous()

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return torch.Size((len(self.storage), self.columns))

    def size(self) -> torch.Size:
        return self.shape

    def int_repr(self) -> Tensor:
        """The integers, uint8 ``[rows, columns]``; a copy for quint4x2."""
        if self.dtype is quint8:
            return self.storage
        halves = torch.stack((self.storage & 15, self.storage >> 4), dim=2)
        return halves.flatten(1)[:, : self.columns].contiguous()

    def dequantize(self) -> Tensor:
        """The values, float32 ``[rows, columns]``."""
        return embedding(self, torch.arange(len(self.storage)))

    def q_per_channel_scales(self) -> Tensor:
        return self.scales

    def q_per_channel_zero_points(self) -> Tensor:
        return self.zero_points.clone()

    def q_per_channel_axis(self) -> int:
        return 0

    def qscheme(self) -> Any:
        name = "per_channel_affine_float_qparams"
        return getattr(torch, name, name)

    def __call__(self) -> EmbeddingWeight:
        """Itself, so that ``module.weight`` and torch's ``module.weight()`` are the same."""
        return self

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"EmbeddingWeight({rows} x {columns}, {self.dtype})"

    def __copy__(self) -> EmbeddingWeight:
        return self

    def __deepcopy__(self, memo: Any) -> EmbeddingWeight:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.storage, self.scales, self.zero_points, self.columns, self.dtype)

    def _make_plain(self) -> Tensor:
        return self.scales

    def _arguments(self) -> tuple[Tensor, Tensor, Tensor, int, bool]:
        """As operators of a graph take it."""
        return (
            self.storage,
            self.plain(),
            self.zero_points,
            self.columns,
            self.dtype is quint4x2,
        )

    def _address(self) -> tuple[int, int, int, int, bool]:
        rows, columns = self.shape
        return (
            self.storage.data_ptr(),
            self._qparams.data_ptr(),
            rows,
            columns,
            self.dtype is quint4x2,
        )


def embedding_dtype(dtype: Any) -> QDType:
    """``octavo.quint8`` or ``octavo.quint4x2``; TypeError for anything else."""
    for known in (quint8, quint4x2):
        if known == dtype:
            return known
    raise TypeError(
        f"dtype of an embedding table must be octavo.quint8 or octavo.quint4x2, got {dtype}"
    )


def pack_nibbles(q: Tensor) -> Tensor:
    """``[rows, columns]`` of 0..15 as two to a byte, the first in the lower half."""
    even = q[:, 0::2].clone()
    even[:, : q.shape[1] // 2] |= q[:, 1::2] << 4
    return even


def _check_integers(name: str, x: Any) -> None:
    if not isinstance(x, torch.Tensor) or x.dtype not in _INDEX_DTYPES:
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"{name} must be an int32 or int64 tensor, got {got}")
    check_cpu(name, x)


def embedding(weight: EmbeddingWeight, indices: Tensor) -> Tensor:
    """The rows of ``indices``, int32 or int64 of any shape: float32 ``[*indices.shape, columns]``.

    Raises:
        TypeError: other dtypes.
        IndexError: an index that is not in the table; it names the first one.
    """
    result = direct.embedding(weight._direct, indices)
    return checked_embedding(weight, indices) if result is None else result


def checked_embedding(weight: EmbeddingWeight, indices: Tensor) -> Tensor:
    """`embedding` for what it does not take directly."""
    if tracing(indices):
        return record("embedding", indices, *weight._arguments())
    _check_integers("input", indices)
    flat = indices.contiguous()
    count = flat.numel()
    out = torch.empty((*indices.shape, weight.columns), dtype=torch.float32)
    wide = flat.dtype == torch.int64
    _C.embedding_bags(
        *weight._address(), flat.data_ptr(), count, wide, 0, 0, 1, count, 0, -1, 0, out.data_ptr()
    )
    return out


def embedding_bag(
    weight: EmbeddingWeight,
    indices: Tensor,
    offsets: Tensor | None = None,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Reduces bags of rows: float32 ``[bags, columns]``.

    Args:
        weight: the table.
        indices: int32 or int64. 2-D: one bag for each row. 1-D: bags of different sizes, see
            ``offsets``.
        offsets: int32 or int64 ``[bags]``, for 1-D ``indices`` only: where each bag begins; the
            first is 0, and they do not decrease. A bag may be empty, which gives zeros.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        per_sample_weights: float, of the shape of ``indices``, for sums only: factor of each row.
        include_last_offset: ``offsets`` has one more element, the end of the last bag.
        padding_idx: rows of this index are left out; they do not count in a mean.

    Arithmetic, float32, in order of the indices: 8 rows at a time, ``x = fma(q, w * scale, x)`` for
    each row, then ``x += `` the sum of their ``w * offset``; ``fma(a, b, c)`` is ``a * b + c``
    rounded once, and a mean has weights ``w = 1 / count``. The same bits on every CPU and for every
    number of threads.

    Raises:
        TypeError: other dtypes.
        ValueError: shapes or offsets that do not fit, an unknown mode, weights without
            ``mode="sum"``, a ``padding_idx`` that is not in the table.
        IndexError: an index that is not in the table; it names the first one.

    Source: ``torch.nn.functional.embedding_bag``.
    """
    rest = (offsets, mode, per_sample_weights, include_last_offset, padding_idx)
    result = direct.embedding_bag(weight._direct, indices, *rest)
    return checked_embedding_bag(weight, indices, *rest) if result is None else result


def checked_embedding_bag(
    weight: EmbeddingWeight,
    indices: Tensor,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
) -> Tensor:
    """`embedding_bag` for what it does not take directly."""
    if tracing(indices):
        table = (*weight._arguments(), mode)
        rest = (per_sample_weights, include_last_offset, padding_idx)
        return record("embedding_bag", indices, offsets, *table, *rest)
    _check_integers("input", indices)
    if mode not in _MODES:
        raise ValueError(f"mode must be 'sum', 'mean' or 'max', got {mode!r}")
    padding = padding_index(padding_idx, weight.shape[0])
    indices, offsets = _same_dtype(indices, offsets)
    bags, length = _bags(indices, offsets, include_last_offset)
    weights = _sample_weights(indices, per_sample_weights, mode)
    flat = indices.contiguous()
    out = torch.empty((bags, weight.columns), dtype=torch.float32)
    if bags == 0:
        return out
    _C.embedding_bags(
        *weight._address(),
        flat.data_ptr(),
        flat.numel(),
        flat.dtype == torch.int64,
        0 if offsets is None else offsets.data_ptr(),
        0 if offsets is None else offsets.numel(),
        length,
        bags,
        0 if weights is None else weights.data_ptr(),
        -1 if padding is None else padding,
        _MODES[mode],
        out.data_ptr(),
    )
    return out


def padding_index(padding_idx: int | None, rows: int) -> int | None:
    """``padding_idx`` counted from the front; ValueError where it is not in the table."""
    if padding_idx is None:
        return None
    index = operator.index(padding_idx)
    if not -rows <= index < rows:
        raise ValueError(f"padding_idx must be within the {rows} rows of the table, got {index}")
    return index % rows


def _same_dtype(indices: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if offsets is None:
        return indices, None
    _check_integers("offsets", offsets)
    if offsets.dtype != indices.dtype:
        return indices.long(), offsets.long().contiguous()
    return indices, offsets.contiguous()


def _bags(indices: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[int, int]:
    """Number of bags, and their length where it is the same for all."""
    if indices.dim() == 2:
        if offsets is not None:
            raise ValueError("offsets must be None where input is 2-D: each of its rows is a bag")
        return indices.shape[0], indices.shape[1]
    if indices.dim() != 1:
        raise ValueError(f"input must be 1-D or 2-D, got shape {list(indices.shape)}")
    if offsets is None:
        raise ValueError("offsets must say where each bag begins, as input is 1-D; got None")
    if offsets.dim() != 1:
        raise ValueError(f"offsets must be 1-D, got shape {list(offsets.shape)}")
    if include_last_offset and offsets.numel() == 0:
        raise ValueError("include_last_offset: offsets needs one element or more, got none")
    bags = offsets.numel() - bool(include_last_offset)
    if bags == 0 and offsets.numel() and int(offsets[0]) != 0:
        raise ValueError(f"offsets must begin with 0, got {int(offsets[0])}")
    return bags, 0


def _sample_weights(indices: Tensor, per_sample_weights: Tensor | None, mode: str) -> Tensor | None:
    if per_sample_weights is None:
        return None
    weights = per_sample_weights
    if not isinstance(weights, torch.Tensor) or not weights.dtype.is_floating_point:
        got = weights.dtype if isinstance(weights, torch.Tensor) else type(weights).__name__
        raise TypeError(f"per_sample_weights must be a float tensor, got {got}")
    check_cpu("per_sample_weights", weights)
    if mode != "sum":
        raise ValueError(f"per_sample_weights needs mode='sum', got {mode!r}")
    if weights.shape != indices.shape:
        raise ValueError(
            f"per_sample_weights must have the shape of input, {list(indices.shape)}, got "
            f"{list(weights.shape)}"
        )
    weights = weights.detach().float().contiguous()
    return weights if math.prod(weights.shape) else None
