"""QTensor operations that move or select elements and leave their values alone.

With per-tensor parameters the operation runs on the integers. With per-channel parameters it also
runs on a probe, a tensor that holds each element's channel index, and the probe tells which axis of
the result the channels vary along: exactly one (the result is per channel), none (one channel is
left, the result is per tensor), or several, which has no per-channel form and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo._tensor.dispatch import refuse, register, register_wrapped
from octavo.dtypes import as_qdtype, is_symmetric, per_tensor_affine, per_tensor_symmetric
from octavo.tensor import QTensor

Mover = Callable[..., Any]


def moves(name: str, function: Mover, q: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply `function`, which only moves elements, to the integers (and the channels) of `q`."""
    out = function(q._int, *args, **kwargs)
    if q._axis is None:
        return _each(q._with_int, out)
    if out is q._int:
        return q
    probe = _channel_probe(q)
    channels = function(probe, *args, **kwargs)
    if isinstance(out, torch.Tensor):
        return _rechannel(name, q, out, channels, probe)
    return type(out)(_rechannel(name, q, o, c, probe) for o, c in zip(out, channels, strict=True))


def _each(function: Callable[[torch.Tensor], QTensor], out: Any) -> Any:
    if isinstance(out, torch.Tensor):
        return function(out)
    return type(out)(function(o) for o in out)


def _channel_probe(q: QTensor) -> torch.Tensor:
    """Channel index of every element: stride 1 along the channel axis and 0 along the others."""
    assert q._axis is not None
    strides = [0] * q._int.dim()
    strides[q._axis] = 1
    return torch.arange(q._int.shape[q._axis]).as_strided(q._int.shape, strides)


def _rechannel(
    name: str, q: QTensor, out: torch.Tensor, channels: torch.Tensor, probe: torch.Tensor
) -> QTensor:
    """`out` with the parameters of the channels in `channels`: what became of `probe`."""
    if channels.untyped_storage().data_ptr() == probe.untyped_storage().data_ptr():
        axes = [d for d, stride in enumerate(channels.stride()) if stride != 0]
        axes = [d for d in axes if channels.shape[d] > 1] or axes[-1:]
    else:
        axes = [d for d in range(channels.dim()) if _varies(channels, d)]
        if channels.numel() == 0:
            refuse(name, [q], "It leaves no element to tell the channels by.")
    if len(axes) > 1:
        refuse(name, [q], f"It would mix the channels of axis {q._axis}; dequantize() first.")
    if axes:
        size, stride = channels.shape[axes[0]], channels.stride(axes[0])
        at = channels.as_strided((size,), (stride,))
        return QTensor._wrap_channels(
            out, q._scales[at], q._zero_points[at], axes[0], q._qdtype, q._qscheme
        )
    only = int(channels.as_strided((), ()))
    scheme = per_tensor_symmetric if is_symmetric(q._qscheme) else per_tensor_affine
    scale, zero_point = float(q._scales[only]), int(q._zero_points[only])
    return QTensor._wrap(out, scale, zero_point, q._qdtype, scheme)


def _varies(channels: torch.Tensor, dim: int) -> bool:
    first = channels.narrow(dim, 0, 1) if channels.shape[dim] > 1 else channels
    return bool((channels != first).any())


def _mover(name: str, function: Mover) -> Mover:
    def handler(q: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(q, QTensor) or any(
            isinstance(a, QTensor) for a in (*args, *kwargs.values())
        ):
            refuse(name, [q, *args, kwargs], "A quantized tensor is no index.")
        return moves(name, function, q, args, kwargs)

    return handler


_MOVERS = """
    transpose swapaxes swapdims permute movedim moveaxis t adjoint unsqueeze squeeze expand narrow
    select unfold chunk tensor_split split split_with_sizes unbind hsplit vsplit dsplit
    flip fliplr flipud roll rot90 repeat tile repeat_interleave index_select masked_select gather
    take_along_dim diagonal pixel_shuffle pixel_unshuffle channel_shuffle
"""
register_wrapped(_mover, *_MOVERS.split())


# Shapes


def _view(ints: torch.Tensor, *shape: Any) -> torch.Tensor:
    try:
        return ints.view(*shape)
    except RuntimeError:
        if not _is_channels_last(ints):
            raise
        return ints.reshape(*shape)


def _is_channels_last(ints: torch.Tensor) -> bool:
    if ints.dim() == 3:
        return ints.transpose(1, 2).is_contiguous()
    return (ints.dim() == 4 and ints.is_contiguous(memory_format=torch.channels_last)) or (
        ints.dim() == 5 and ints.is_contiguous(memory_format=torch.channels_last_3d)
    )


def _reshaped(name: str, q: QTensor, out: torch.Tensor) -> QTensor:
    if q._axis is None or out is q._int:
        return q._with_int(out)
    probe = _channel_probe(q)
    try:
        channels = probe.view(out.shape)
    except RuntimeError:
        refuse(name, [q], f"It would mix the channels of axis {q._axis}; dequantize() first.")
    return _rechannel(name, q, out, channels, probe)


@register("view")
def view(q: QTensor, *shape: Any, dtype: Any = None) -> QTensor:
    """torch.Tensor.view, except that it copies where the storage is channels last.

    Kernels choose channels last by themselves, so a model that views its activations must go on
    working.
    """
    if dtype is not None or isinstance(shape[0], torch.dtype):
        refuse("view", [q], f"Its dtype stays {q._qdtype}; int_repr() gives the stored integers.")
    return _reshaped("view", q, _view(q._int, *shape))


@register("reshape")
def reshape(q: QTensor, *shape: Any, **kwargs: Any) -> QTensor:
    return _reshaped("reshape", q, q._int.reshape(*shape, **kwargs))


@register("flatten", "ravel")
def flatten(q: QTensor, start_dim: int = 0, end_dim: int = -1) -> QTensor:
    return _reshaped("flatten", q, q._int.flatten(start_dim, end_dim))


@register("unflatten")
def unflatten(q: QTensor, dim: int, sizes: Any) -> QTensor:
    return _reshaped("unflatten", q, torch.unflatten(q._int, dim, sizes))


def _register_shape_of_other() -> None:
    for method in ("view", "reshape", "expand"):

        def handler(q: Any, other: Any, method: str = method) -> Any:
            return getattr(q, method)(other.shape)

        register(f"{method}_as")(handler)


_register_shape_of_other()


# Indexing


@register("__getitem__")
def getitem(q: Any, index: Any) -> Any:
    if not isinstance(q, QTensor) or _holds_qtensor(index):
        refuse("__getitem__", [q, index], "A quantized tensor is no index; compare it first.")
    return moves("__getitem__", torch.Tensor.__getitem__, q, (index,), {})


def _holds_qtensor(index: Any) -> bool:
    if isinstance(index, (tuple, list)):
        return any(_holds_qtensor(i) for i in index)
    return isinstance(index, QTensor)


# Copies, memory format, device


def _keep(function: Mover) -> Mover:
    """`function` changes neither shape nor elements."""

    def handler(q: QTensor, *args: Any, **kwargs: Any) -> QTensor:
        return q._with_int(function(q._int, *args, **kwargs))

    return handler


register("clone")(_keep(torch.clone))
register("contiguous")(_keep(torch.Tensor.contiguous))
register("detach")(_keep(torch.Tensor.detach))
register("cpu")(_keep(torch.Tensor.cpu))


@register("to")
def to(q: QTensor, *args: Any, **kwargs: Any) -> QTensor:
    """torch.Tensor.to for memory format and copy; the dtype and the device stay.

    Raises:
        TypeError: another dtype is asked for.
        ValueError: another device than the CPU is asked for.
    """
    copy = bool(kwargs.get("copy", False))
    flags = [a for a in args if isinstance(a, bool)]
    if len(flags) > 1:
        copy = flags[1]
    for wanted in (*args, *kwargs.values()):
        if isinstance(wanted, QTensor):
            wanted = wanted._qdtype
        elif isinstance(wanted, torch.Tensor):
            wanted = wanted.dtype
        if isinstance(wanted, (str, torch.device)):
            _check_cpu(wanted)
        elif not isinstance(wanted, (bool, torch.memory_format, type(None))):
            _check_same_dtype(q, wanted)
    formats = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.memory_format)]
    memory_format = formats[0] if formats else torch.preserve_format
    return q._with_int(q._int.to(memory_format=memory_format, copy=copy))


def _check_cpu(device: Any) -> None:
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"device: a QTensor lives on the CPU, got {device}; call dequantize() to move its "
            "values"
        )


def _check_same_dtype(q: QTensor, wanted: Any) -> None:
    try:
        same = as_qdtype(wanted) is q._qdtype and wanted not in (
            torch.uint8,
            torch.int8,
            torch.int32,
        )
    except TypeError:
        same = False
    if not same:
        refuse(
            "to",
            [q],
            f"It cannot become {wanted}. Use dequantize() for the values in float32, int_repr() "
            "for the stored integers, or quantize the values again for another quantized dtype.",
        )


@register("share_memory_")
def share_memory_(q: QTensor) -> QTensor:
    q._int.share_memory_()  # type: ignore[no-untyped-call]
    return q
