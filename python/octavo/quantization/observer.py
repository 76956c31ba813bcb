"""Observers: they watch tensors during calibration and find the scale and zero point to quantize
them with.

Names, arguments, defaults and results are those of ``torch.ao.quantization.observer``. Differences,
which apply to all observers here:

* NaN and ±Inf are left out and counted (``nonfinite_count``) instead of spoiling the scale.
  ``convert`` raises, with the module's name, where an observer saw nothing finite or nothing at
  all.
* Wrong arguments raise TypeError or ValueError where torch raises AssertionError.
* ``reduce_range`` gives no deprecation warning.
* A custom range that the dtype cannot store is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from octavo.dtypes import (
    per_channel_symmetric,
    per_tensor_affine,
    per_tensor_symmetric,
    qint8,
    quint4x2,
    quint8,
)
from octavo.quantization.granularity import (
    AffineQuantizedObserverBase,
    Granularity,
    MappingType,
    PerAxis,
    PerBlock,
    PerGroup,
    PerRow,
    PerTensor,
    PerToken,
    TorchAODType,
    ZeroPointDomain,
    get_block_size,
)
from octavo.quantization.histogram_observer import HistogramObserver
from octavo.quantization.minmax_observer import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from octavo.quantization.observer_base import (
    ObserverBase,
    UniformQuantizationObserverBase,
)

# Private names of torch's module that other code gives its own classes with_args with.
from octavo.quantization.observer_base import _PartialWrapper as _PartialWrapper
from octavo.quantization.observer_base import _with_args as _with_args
from octavo.quantization.observer_base import _with_callable_args as _with_callable_args
from octavo.quantization.reduction import all_reduce_observers
from octavo.quantization.search_observers import MSEObserver, PercentileObserver
from octavo.quantization.utils import DEFAULT_EPS, per_channel_affine_float_qparams

__all__ = [
    "AffineQuantizedObserverBase",
    "FixedQParamsObserver",
    "Granularity",
    "HistogramObserver",
    "MSEObserver",
    "MappingType",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "ObserverBase",
    "PerAxis",
    "PerBlock",
    "PerChannelMinMaxObserver",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PerToken",
    "PercentileObserver",
    "PlaceholderObserver",
    "RecordingObserver",
    "ReuseInputObserver",
    "TorchAODType",
    "UniformQuantizationObserverBase",
    "ZeroPointDomain",
    "all_reduce_observers",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_dynamic_quant_observer",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_reuse_input_observer",
    "default_symmetric_fixed_qparams_observer",
    "default_weight_observer",
    "get_block_size",
    "get_observer_state_dict",
    "load_observer_state_dict",
    "per_channel_weight_observer_range_neg_127_to_127",
    "weight_observer_range_neg_127_to_127",
]


class FixedQParamsObserver(ObserverBase):
    """Always answers with the scale and zero point that it was made with.

    Args:
        scale: float > 0.
        zero_point: int within quant_min..quant_max.
        dtype, qscheme, quant_min, quant_max: what a quantized module reads from an observer.
        is_dynamic: must be False.

    Source: ``torch.ao.quantization.observer.FixedQParamsObserver``.
    """

    scale: Tensor
    zero_point: Tensor
    _keeps_statistics = False

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: Any = quint8,
        qscheme: Any = per_tensor_affine,
        quant_min: int = 0,
        quant_max: int = 255,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        if is_dynamic:
            raise NotImplementedError("FixedQParamsObserver: is_dynamic is not supported")
        if not 0 < scale < float("inf"):
            raise ValueError(f"FixedQParamsObserver: scale must be finite and > 0, got {scale}")
        if not quant_min <= zero_point <= quant_max:
            raise ValueError(
                f"FixedQParamsObserver: zero_point must be within [{quant_min}, {quant_max}], got "
                f"{zero_point}"
            )
        super().__init__(dtype=dtype, is_dynamic=is_dynamic, **kwargs)
        self.qscheme = qscheme
        self.quant_min, self.quant_max = quant_min, quant_max
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor([zero_point], dtype=torch.int32))

    def forward(self, X: Any) -> Any:
        """Returns its argument."""
        return X

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The fixed scale (float32 [1]) and zero point (int32 [1])."""
        return self.scale, self.zero_point


class _SilentObserver(ObserverBase):
    """An observer that carries settings and no statistics."""

    _keeps_statistics = False

    def forward(self, x: Any) -> Any:
        """Returns its argument."""
        return x

    def calculate_qparams(self, **kwargs: Any) -> Any:
        """Raises RuntimeError: there are no statistics."""
        raise RuntimeError(
            f"{type(self).__name__} has no scale and zero point; use an observer with statistics "
            "(MinMaxObserver, HistogramObserver) where a module is to be quantized statically"
        )


class PlaceholderObserver(_SilentObserver):
    """Observes nothing; tells a quantized module which dtype its input or weight has.

    Args:
        dtype: any dtype, default float32.
        custom_op_name: free text, kept as ``custom_op``.
        compute_dtype: torch's older way to say ``is_dynamic=True``.
        quant_min, quant_max, qscheme, eps, is_dynamic: carried along.
        per_tensor, reduce_range: for dynamically quantized modules: one scale for the whole input
            instead of one per row, and 7 bits instead of 8. Both are how torch's dynamic modules
            work, whatever their observer says.

    Source: ``torch.ao.quantization.observer.PlaceholderObserver``.
    """

    def __init__(
        self,
        dtype: Any = torch.float32,
        custom_op_name: str = "",
        compute_dtype: Any = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: Any = None,
        eps: float | None = None,
        is_dynamic: bool = False,
        *,
        per_tensor: bool = False,
        reduce_range: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic or compute_dtype is not None)
        self.per_tensor, self.reduce_range = per_tensor, reduce_range
        self.qscheme = per_tensor_affine if qscheme is None else qscheme
        self.quant_min, self.quant_max = quant_min, quant_max
        self.eps = DEFAULT_EPS if eps is None else eps
        self.custom_op = custom_op_name

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}, is_dynamic={self.is_dynamic}"


class NoopObserver(_SilentObserver):
    """Observes nothing; carries a dtype, float16 by default.

    Source: ``torch.ao.quantization.observer.NoopObserver``.
    """

    def __init__(self, dtype: Any = torch.float16, custom_op_name: str = "") -> None:
        super().__init__(dtype=dtype, is_dynamic=False)
        self.custom_op = custom_op_name


class ReuseInputObserver(_SilentObserver):
    """A mark for graph passes: the output is quantized like the input.

    Source: ``torch.ao.quantization.observer.ReuseInputObserver``.
    """

    def __init__(self) -> None:
        super().__init__(dtype=quint8, is_dynamic=False)


class RecordingObserver(_SilentObserver):
    """Keeps a copy of every tensor that it is called with, for debugging.

    Source: ``torch.ao.quantization.observer.RecordingObserver``.
    """

    def __init__(self, dtype: Any = quint8) -> None:
        super().__init__(dtype=dtype, is_dynamic=False)
        self.tensor_val: list[Tensor] = []

    def forward(self, x: Any) -> Any:
        """Keeps a copy of ``x`` and returns it."""
        self.tensor_val.append(x.detach().clone())
        return x

    def get_tensor_value(self) -> list[Tensor]:
        """The copies, oldest first."""
        return self.tensor_val


_ObserverBase = UniformQuantizationObserverBase  # its name in old code


def _is_activation_post_process(module: object) -> bool:
    """Whether a module watches activations: an observer of Octavo, or one that looks the same."""
    return isinstance(module, (ObserverBase, AffineQuantizedObserverBase)) or (
        isinstance(module, nn.Module) and callable(getattr(module, "calculate_qparams", None))
    )


def get_observer_state_dict(mod: nn.Module) -> OrderedDict[str, Any]:
    """The part of a prepared model's state dict that holds what activation observers found.

    Source: ``torch.ao.quantization.observer.get_observer_state_dict``.
    """
    state = mod.state_dict()
    result = OrderedDict(
        (key, value) for key, value in state.items() if "activation_post_process" in key
    )
    result._metadata = state._metadata  # type: ignore[attr-defined]
    return result


def load_observer_state_dict(mod: nn.Module, obs_dict: Mapping[str, Any]) -> None:
    """Loads what :func:`get_observer_state_dict` returned into a prepared model of the same form.

    Raises:
        RuntimeError: observers or entries without counterpart, or of other shapes; nothing else is
            touched.

    Source: ``torch.ao.quantization.observer.load_observer_state_dict``.
    """
    expected = get_observer_state_dict(mod).keys()
    given = {key for key in obs_dict if "activation_post_process" in key}
    if missing := sorted(set(expected) - given):
        raise RuntimeError(
            f"load_observer_state_dict: missing keys {missing}; is this the same prepared model?"
        )
    if unexpected := sorted(given - set(expected)):
        raise RuntimeError(
            f"load_observer_state_dict: unexpected keys {unexpected}; is this the same prepared "
            "model?"
        )
    state = mod.state_dict()
    state.update({key: obs_dict[key] for key in given})
    mod.load_state_dict(state)


default_observer = MinMaxObserver.with_args(quant_min=0, quant_max=127)
"""Activations, for debugging: minimum and maximum, quint8, 0..127."""

default_histogram_observer = HistogramObserver.with_args(quant_min=0, quant_max=127)
"""Activations: histogram, quint8, 0..127."""

default_weight_observer = MinMaxObserver.with_args(dtype=qint8, qscheme=per_tensor_symmetric)
"""Weights: qint8, symmetric, one scale."""

default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype=qint8, qscheme=per_channel_symmetric
)
"""Weights: qint8, symmetric, one scale per output channel."""

weight_observer_range_neg_127_to_127 = MinMaxObserver.with_args(
    dtype=qint8, qscheme=per_tensor_symmetric, quant_min=-127, quant_max=127, eps=2**-12
)
"""Weights: qint8, symmetric, one scale, -127..127."""

per_channel_weight_observer_range_neg_127_to_127 = PerChannelMinMaxObserver.with_args(
    dtype=qint8, qscheme=per_channel_symmetric, quant_min=-127, quant_max=127, eps=2**-12
)
"""Weights: qint8, symmetric, one scale per output channel, -127..127."""

default_dynamic_quant_observer = PlaceholderObserver.with_args(
    dtype=quint8, quant_min=0, quant_max=255, is_dynamic=True
)
"""Activations that are quantized when the model runs: quint8, a scale for each row."""

default_float_qparams_observer = PerChannelMinMaxObserver.with_args(
    dtype=quint8, qscheme=per_channel_affine_float_qparams, ch_axis=0
)
"""Embedding tables: quint8, float scale and zero point per row."""

default_float_qparams_observer_4bit = PerChannelMinMaxObserver.with_args(
    dtype=quint4x2, qscheme=per_channel_affine_float_qparams, ch_axis=0
)
"""Embedding tables of 4 bits: float scale and zero point per row."""

default_fixed_qparams_range_neg1to1_observer = FixedQParamsObserver.with_args(
    scale=2.0 / 256.0, zero_point=128, dtype=quint8, quant_min=0, quant_max=255
)
"""Activations known to lie in [-1, 1), such as tanh."""

default_fixed_qparams_range_0to1_observer = FixedQParamsObserver.with_args(
    scale=1.0 / 256.0, zero_point=0, dtype=quint8, quant_min=0, quant_max=255
)
"""Activations known to lie in [0, 1), such as sigmoid."""

default_symmetric_fixed_qparams_observer = default_fixed_qparams_range_neg1to1_observer
"""An older name of ``default_fixed_qparams_range_neg1to1_observer``."""

default_affine_fixed_qparams_observer = default_fixed_qparams_range_0to1_observer
"""An older name of ``default_fixed_qparams_range_0to1_observer``."""

default_placeholder_observer = PlaceholderObserver
default_debug_observer = RecordingObserver
default_reuse_input_observer = ReuseInputObserver
