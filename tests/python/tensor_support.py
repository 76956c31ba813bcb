"""QTensors for the tensor tests."""

from __future__ import annotations

from typing import Any

import torch

import octavo
from octavo import QTensor

DTYPES = [octavo.quint8, octavo.qint8, octavo.qint32]


def per_tensor(dtype: Any = octavo.quint8, shape: tuple[int, ...] = (2, 3, 4)) -> QTensor:
    ints = torch.randint(-100 if dtype.signed else 0, 127, shape, dtype=dtype.storage)
    return QTensor.from_int_repr(ints, 0.1, 7)


def per_channel(dtype: Any = octavo.quint8, axis: int = 1) -> QTensor:
    ints = torch.randint(-100 if dtype.signed else 0, 127, (2, 3, 4), dtype=dtype.storage)
    count = ints.shape[axis]
    return QTensor.from_int_repr(ints, torch.arange(1.0, count + 1) / 8, range(count), axis)


EITHER = [per_tensor, per_channel]


def send_back(queue: Any, q: QTensor) -> None:
    """Runs in another process: what arrived there."""
    queue.put((type(q).__name__, q.q_scale(), q.tolist()))
