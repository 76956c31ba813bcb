"""QTensor attributes and conversions: what describes the storage, scalars, and the parameters as
functions."""

from __future__ import annotations

from typing import Any

import torch

from octavo._tensor.dispatch import Handler, refuse, register, register_getters, register_wrapped
from octavo._tensor.views import moves
from octavo.tensor import QTensor


def _on_int(function: Handler) -> Handler:
    """`function` describes the storage and does not read elements."""

    def handler(q: QTensor, *args: Any, **kwargs: Any) -> Any:
        return function(q._int, *args, **kwargs)

    return handler


_ATTRIBUTES = """
    shape ndim device layout requires_grad grad grad_fn is_leaf output_nr names retains_grad
    _version itemsize nbytes is_cpu is_cuda is_xpu is_xla is_mps is_ipu is_hpu is_vulkan is_maia
    is_mtia is_meta is_mkldnn is_sparse is_sparse_csr is_nested _backward_hooks
"""
_METHODS = """
    size dim ndimension numel nelement stride storage_offset element_size data_ptr untyped_storage
    is_contiguous is_shared is_pinned is_floating_point is_complex is_conj is_neg is_inference
    get_device dim_order has_names _is_view __dir__
"""
_PARAMETERS = """
    int_repr dequantize qscheme q_scale q_zero_point q_per_channel_scales
    q_per_channel_zero_points q_per_channel_axis
"""

register_getters(_on_int, *_ATTRIBUTES.split())
register_getters(lambda get: lambda q: moves("T", get, q, (), {}), "T", "mT", "H", "mH")
register_getters(lambda get: lambda q: q._with_int(get(q._int)), "data")
register_getters(lambda get: lambda q: q._qdtype, "dtype")
register_getters(lambda get: lambda q: True, "is_quantized")
register_wrapped(lambda name, function: _on_int(function), *_METHODS.split())
for _name in _PARAMETERS.split():
    register(_name)(getattr(QTensor, _name))


@register("is_signed")
def is_signed(q: QTensor) -> bool:
    return q._qdtype.signed


@register("is_same_size")
def is_same_size(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape


@register("requires_grad_")
def requires_grad_(q: QTensor, requires_grad: bool = True) -> QTensor:
    if requires_grad:
        refuse(
            "requires_grad_",
            [q],
            "Quantized values have no gradient; train with fake quantization.",
        )
    return q


@register("type")
def type_name(q: QTensor, dtype: Any = None, *args: Any, **kwargs: Any) -> str:
    if dtype is not None:
        refuse("type", [q, dtype])
    return str(q._qdtype)


# Scalars


@register("item", "__float__")
def item(q: QTensor) -> float:
    """The value of the only element. Raises RuntimeError (from torch) where there are more or
    fewer."""
    return float(q.dequantize().item())


@register("__int__")
def to_int(q: QTensor) -> int:
    return int(item(q))


@register("__bool__", "is_nonzero")
def to_bool(q: QTensor) -> bool:
    return bool(q.dequantize())


@register("tolist")
def tolist(q: QTensor) -> Any:
    """The values as nested lists of Python floats."""
    return q.dequantize().tolist()


@register("__format__")
def format_spec(q: QTensor, spec: str) -> str:
    return format(item(q), spec) if q._int.dim() == 0 else format(repr(q), spec)


@register("__reversed__")
def reverse(q: QTensor) -> Any:
    return q if q._int.dim() == 0 else q.flip(0)
