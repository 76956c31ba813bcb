"""What stands for a QTensor while a graph is being recorded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from octavo._tensor.dispatch import HANDLERS, HANDLERS_BY_NAME, refuse
from octavo.ops._tracing import is_dynamo_compiling

__all__ = ["GraphQTensor", "QTensorMeta", "adopt"]


class GraphQTensor:
    """A QTensor over integers of a graph: it has a QTensor's attributes and operations and counts
    as an instance of that class, but it is no ``torch.Tensor``, so that the graph sees nothing but
    the plain tensors in it.
    """

    _axis: int | None
    _int: torch.Tensor

    def __init__(
        self,
        int_tensor: torch.Tensor,
        scale: Any,
        zero_point: Any,
        qdtype: Any,
        qscheme: Any,
        axis: int | None = None,
    ) -> None:
        self._int = int_tensor
        self._axis = axis
        self._qdtype = qdtype
        self._qscheme = qscheme
        if axis is None:
            self._scale = scale
            self._zero_point = zero_point
        else:
            self._scales = scale
            self._zero_points = zero_point

    def _with_int(self, int_tensor: torch.Tensor) -> GraphQTensor:
        if self._axis is None:
            scale, zero_point = self._scale, self._zero_point
        else:
            scale, zero_point = self._scales, self._zero_points
        return GraphQTensor(int_tensor, scale, zero_point, self._qdtype, self._qscheme, self._axis)

    @property
    def dtype(self) -> Any:
        return self._qdtype

    @property
    def shape(self) -> torch.Size:
        return self._int.shape

    @property
    def ndim(self) -> int:
        return self._int.dim()

    @property
    def device(self) -> torch.device:
        return self._int.device

    @property
    def is_quantized(self) -> bool:
        return True

    @property
    def requires_grad(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._int)

    def __getitem__(self, index: Any) -> Any:
        return HANDLERS_BY_NAME["__getitem__"](self, index)

    def __getattr__(self, name: str) -> Any:
        handler = HANDLERS_BY_NAME.get(name)
        if handler is None:
            raise AttributeError(name)
        return functools.partial(handler, self)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_dynamo_compiling():  # which cannot look up functions
            handler = HANDLERS_BY_NAME.get(func.__name__)
        else:
            handler = HANDLERS.get(func)
        if handler is None:
            refuse(func, (args, kwargs))
        return handler(*args, **(kwargs or {}))


class QTensorMeta(torch._C._TensorMeta):
    """The class of the class QTensor."""

    def __instancecheck__(cls, x: object) -> bool:
        return cls in type(x).__mro__ or (type(x) is GraphQTensor and cls.__name__ == "QTensor")


_METHODS = """
    int_repr dequantize qscheme q_scale q_zero_point q_per_channel_scales
    q_per_channel_zero_points q_per_channel_axis _need size dim numel
"""


def adopt(qtensor: type) -> None:
    """Give the class the methods of QTensor that only read its slots."""
    for name in _METHODS.split():
        setattr(GraphQTensor, name, vars(qtensor)[name])
