"""What every observer is built on: factories with arguments, the two base classes, the handling of
NaN and Inf.

Users import these names from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import per_tensor_affine, quint8
from octavo.quantization.statistics import all_reduce_extremes, finite_extremes
from octavo.quantization.utils import (
    DEFAULT_EPS,
    PER_CHANNEL_SCHEMES,
    PER_TENSOR_SCHEMES,
    SYMMETRIC_SCHEMES,
    calculate_qmin_qmax,
    check_min_max_valid,
    interval_to_qparams,
    observed_dtype,
    storage_dtype,
    validate_qmin_qmax,
)
from octavo.tensor import QTensor

__all__ = ["ObserverBase", "UniformQuantizationObserverBase"]


class _PartialWrapper:
    """A constructor with some of its arguments filled in; what ``with_args`` and
    ``with_callable_args`` return.

    Attributes:
        p: a ``functools.partial`` of the class, with the fixed arguments.
        callable_args: argument name to function; each function is called anew for every
            construction.

    It pickles and deep-copies wherever the class and its arguments do. Source:
    ``torch.ao.quantization.observer._PartialWrapper``.
    """

    def __init__(self, p: functools.partial[Any]) -> None:
        self.p = p
        self.callable_args: dict[str, Callable[[], Any]] = {}

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        made = {name: make() for name, make in self.callable_args.items() if name not in keywords}
        return self.p(*args, **keywords, **made)

    def __repr__(self) -> str:
        return f"{self.p!r}{self.callable_args!r}"

    def with_args(self, **kwargs: Any) -> _PartialWrapper:
        """A new factory with more fixed arguments; a later one wins over an earlier one."""
        result = _PartialWrapper(functools.partial(self.p, **kwargs))
        result.callable_args = {
            name: make for name, make in self.callable_args.items() if name not in kwargs
        }
        return result

    def with_callable_args(self, **kwargs: Callable[[], Any]) -> _PartialWrapper:
        """A new factory whose given arguments come from calling the given functions at
        construction.
        """
        result = _PartialWrapper(self.p)
        result.callable_args = {**self.callable_args, **kwargs}
        return result


def _with_args(cls: Any, /, **kwargs: Any) -> _PartialWrapper:
    """A factory of ``cls`` with arguments filled in:
    ``MinMaxObserver.with_args(dtype=octavo.qint8)``.
    """
    return _PartialWrapper(functools.partial(cls, **kwargs))


def _with_callable_args(cls: Any, /, **kwargs: Callable[[], Any]) -> _PartialWrapper:
    """A factory of ``cls`` whose given arguments are made at each construction by the given
    functions.
    """
    return _PartialWrapper(functools.partial(cls)).with_callable_args(**kwargs)


class ObserverBase(ABC, nn.Module):
    """Base of all observers, also of those that users write.

    A subclass implements ``forward(x)``, which takes notice of ``x`` and returns it unchanged, and
    ``calculate_qparams()``, which returns scale and zero point tensors.

    Args:
        dtype: what the observed tensor will be quantized to. ``octavo.quint8``, ``torch.quint8``
            and ``torch.uint8`` (and so on) are the same; the attribute ``dtype`` holds Octavo's.
            Other torch dtypes are kept as they are.
        is_dynamic: the scale is found anew for each tensor when the model runs, not by calibration.

    An observer of your own takes part in :func:`octavo.quantization.all_reduce_observers` if it has
    a method ``all_reduce(process_group)``, which makes its statistics those of all ranks.

    Source: ``torch.ao.quantization.observer.ObserverBase``.
    """

    _keeps_statistics: ClassVar[bool] = True

    def __init__(self, dtype: Any, is_dynamic: bool = False) -> None:
        super().__init__()
        try:
            self.dtype = observed_dtype(dtype)
        except TypeError:
            self.dtype = dtype
        self.is_dynamic = is_dynamic

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Observes ``x`` and returns it."""

    @abstractmethod
    def calculate_qparams(self, **kwargs: Any) -> Any:
        """Scale and zero point for what was observed."""

    @property
    def is_calibrated(self) -> bool:
        """Whether ``calculate_qparams`` can answer from what was observed. Observers without
        statistics say True.
        """
        return True

    def _label(self) -> str:
        """How messages name this observer: with the module that it observes, if known."""
        name = getattr(self, "_observed_module", None)
        return type(self).__name__ if name is None else f"{type(self).__name__} of '{name}'"

    with_args = classmethod(_with_args)
    with_callable_args = classmethod(_with_callable_args)


class UniformQuantizationObserverBase(ObserverBase):
    """Base of the observers that keep an interval and turn it into one scale and zero point, or one
    per channel.

    Args:
        dtype: quint8, qint8 or qint32 in any spelling (see :class:`ObserverBase`).
        qscheme: per_tensor_affine, per_tensor_symmetric, per_channel_affine, per_channel_symmetric,
            or torch's per_channel_affine_float_qparams.
        reduce_range: use one bit less of the range. Octavo's arithmetic never needs it.
        quant_min, quant_max: the integer range to use, both or neither; default: all of ``dtype``.
        factory_kwargs: ``device`` and ``dtype`` (float) of the buffers.
        eps: smallest scale.
        is_dynamic: see :class:`ObserverBase`.

    NaN and ±Inf are left out of the statistics and counted in ``nonfinite_count``, where torch's
    observers end up with a NaN or infinite scale. State dicts have torch's keys (``eps``,
    ``min_val``, ``max_val``, ...) and each loads the other's; the count is not part of them.

    Raises:
        TypeError: ``dtype`` is none of the above.
        ValueError: unknown ``qscheme``; a range that does not contain 0, is empty, or does not fit
            ``dtype``; only one of quant_min and quant_max.
        NotImplementedError: a symmetric scheme with ``reduce_range`` for unsigned values, whose
            zero point would lie outside of the range.

    Source: ``torch.ao.quantization.observer.UniformQuantizationObserverBase``.
    """

    _version = 3
    _renamed_keys: ClassVar[Mapping[str, str]] = {}

    eps: Tensor

    def __init__(
        self,
        dtype: Any = quint8,
        qscheme: Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=observed_dtype(dtype), is_dynamic=is_dynamic, **kwargs)
        name = type(self).__name__
        if qscheme not in (*PER_TENSOR_SCHEMES, *PER_CHANNEL_SCHEMES):
            raise ValueError(
                f"{name}: unknown qscheme {qscheme!r}; use octavo.per_tensor_affine or another "
                "scheme"
            )
        if (quant_min is None) != (quant_max is None):
            raise ValueError(
                f"{name}: give both quant_min and quant_max, got {quant_min} and {quant_max}"
            )
        unsigned = storage_dtype(self.dtype) is torch.uint8
        if reduce_range and unsigned and qscheme in SYMMETRIC_SCHEMES:
            raise NotImplementedError(
                f"{name}: reduce_range with a symmetric scheme needs a signed dtype, got "
                f"{self.dtype}; use qint8"
            )
        self.qscheme = qscheme
        self.reduce_range = reduce_range
        self.register_buffer("eps", torch.tensor([eps], **_tensor_options(factory_kwargs)))
        self.has_customized_qrange = quant_min is not None and quant_max is not None
        if quant_min is not None and quant_max is not None:
            validate_qmin_qmax(quant_min, quant_max)
        self.quant_min, self.quant_max = calculate_qmin_qmax(
            quant_min, quant_max, self.has_customized_qrange, self.dtype, reduce_range
        )
        self._nonfinite: int | Tensor = 0
        # Where compiled graphs count: a number would be compiled into them.
        self._nonfinite_in_graphs = torch.zeros(1, dtype=torch.int64, device="cpu")

    @property
    def nonfinite_count(self) -> int:
        """How many NaN and ±Inf values were met and left out."""
        return int(self._nonfinite) + int(self._nonfinite_in_graphs)

    def _set_nonfinite_count(self, count: int) -> None:
        self._nonfinite = count
        self._nonfinite_in_graphs.zero_()

    def _calculate_qparams(self, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, 1-D, of the interval(s); ([1.0], [0]) and a warning where nothing
        was observed.

        Raises:
            ValueError: values were observed but none of them (or of one channel) was finite.
        """
        if self.nonfinite_count and not self.is_calibrated:
            raise ValueError(
                f"{self._label()}: nothing finite was observed in all or some channels, only "
                f"{self.nonfinite_count} NaN or Inf values; check the data that the model was "
                "calibrated with"
            )
        if not check_min_max_valid(min_val, max_val):
            device = min_val.device
            return torch.tensor([1.0], device=device), torch.tensor([0], device=device)
        return interval_to_qparams(min_val, max_val, eps=self.eps, **self._range())

    def _range(self) -> dict[str, Any]:
        """What turns an interval into qparams, besides ``eps``."""
        return {
            "quant_min": self.quant_min,
            "quant_max": self.quant_max,
            "dtype": self.dtype,
            "qscheme": self.qscheme,
            "has_customized_qrange": self.has_customized_qrange,
        }

    def step_qparams(self) -> tuple[Tensor, Tensor]:
        """``calculate_qparams`` of an observer with extremes, without a look at their values: no
        warning, no error, and scale 1 and zero point 0 for what saw nothing.
        """
        low, high = self.get_buffer("min_val"), self.get_buffer("max_val")
        valid = low <= high
        low, high = torch.where(valid, low, 0), torch.where(valid, high, 0)
        scale, zero_point = interval_to_qparams(low, high, eps=self.eps, **self._range())
        valid = valid.reshape(-1)
        return torch.where(valid, scale, 1), torch.where(valid, zero_point, 0)

    def _plain(self, x: Any, like: Tensor) -> Tensor:
        """``x`` as the plain detached tensor to take statistics of, in the dtype of the buffer
        ``like``.
        """
        if not isinstance(x, Tensor) or isinstance(x, QTensor):
            hint = (
                "; where a DataLoader gives pairs of input and label, call the prepared model with "
                "the input alone"
            )
            raise TypeError(
                f"{self._label()}: observes one float tensor, got {type(x).__name__}; set "
                "qconfig = None on the module whose output this is to leave it float"
                f"{hint if isinstance(x, (tuple, list)) else ''}"
            )
        return x.detach().to(like.dtype)

    def _extremes(self, x: Tensor, group: Any, dim: int | None = None) -> tuple[Tensor, Tensor]:
        """Minimum and maximum (over ``dim``) of the finite values of a step, of all ranks of a
        process group if there is one. Counts the others.
        """
        low, high, bad = finite_extremes(x, dim)
        self._nonfinite = self._nonfinite + bad
        return (low, high) if group is None else all_reduce_extremes(low, high, group)

    def reset_min_max_vals(self) -> None:
        """Forgets everything that was observed."""
        raise NotImplementedError(f"{type(self).__name__} has no minimum and maximum to reset")

    def extra_repr(self) -> str:
        text = f"min_val={getattr(self, 'min_val', None)}, max_val={getattr(self, 'max_val', None)}"
        return f"{text}, nonfinite_count={self.nonfinite_count}" if self.nonfinite_count else text

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Files of torch's versions 1 and 2: eps was no buffer, per-channel extremes had other
        # names.
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "eps", torch.tensor([DEFAULT_EPS]))
        for old, new in self._renamed_keys.items():
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        self._adapt_buffers(state_dict, prefix)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._set_nonfinite_count(0)

    def _adapt_buffers(self, state_dict: Any, prefix: str) -> None:
        """Makes buffers and state dict entries agree in shape where a file may differ."""


def _tensor_options(factory_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    options = dict(factory_kwargs or {})
    unknown = set(options) - {"device", "dtype"}
    if unknown:
        raise TypeError(f"factory_kwargs: unknown {sorted(unknown)}; it may hold device and dtype")
    return options
