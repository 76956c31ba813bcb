"""What dynamically quantized recurrent layers and cells share: their weights.

State dict, plain tensors only; for each weight ``weight_ih_l0`` of the float module:

============================ ======= ======================================================
``weight_ih_l0_int8``        int8    shape of the float weight
``weight_ih_l0_scale``       float32 [1], or [rows]: one for each row (unit of a gate)
``weight_ih_l0_zero_point``  int32   as the scale
``bias_ih_l0``               float32 [rows]; no such key for a module without biases
============================ ======= ======================================================
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.dtypes import as_qdtype, qint8
from octavo.nn.quantized.modules.base import QuantizedModule, expect
from octavo.nn.quantized.modules.upstream import upstream_of
from octavo.nn.quantized.modules.utils import describe, quantize_weight, relabel
from octavo.ops.shared import shared_weight
from octavo.tensor import QTensor

__all__ = ["FLOATS", "Part", "RecurrentWeights", "check_weight_dtype"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_SUFFIXES = ("_int8", "_scale", "_zero_point")


class Part(NamedTuple):
    """A weight of the float module: its shape, and the name of the bias that goes with it."""

    rows: int
    columns: int
    bias: str | None


def check_weight_dtype(label: str, dtype: Any) -> None:
    try:
        weight_dtype = as_qdtype(dtype)
    except TypeError:
        weight_dtype = None
    if weight_dtype is not qint8:
        raise ValueError(f"{label}: the weights' dtype must be octavo.qint8, got {dtype}")


class RecurrentWeights(QuantizedModule, ABC):
    """A module with several packed int8 weights, under the names of the float module."""

    _packed: dict[str, ops.LinearWeight]

    @abstractmethod
    def _parts(self) -> dict[str, Part]:
        """All weights, by their names in the float module."""

    def _reset_weights(self) -> None:
        """Zero weights of scale 1, and zero biases."""
        self._packed = {
            name: ops.LinearWeight(
                torch.zeros(part.rows, part.columns, dtype=torch.int8),
                torch.ones(1),
                torch.zeros(1, dtype=torch.int32),
                None if part.bias is None else torch.zeros(part.rows),
            )
            for name, part in self._parts().items()
        }

    def _take_float(self, mod: nn.Module, label: str) -> None:
        """Takes the float module's weights, each quantized by an observer of its own: that of the
        module's qconfig, or one symmetric scale of 8 bits for each row."""
        # octavo.quantization needs the modules of octavo.nn first.
        from octavo.quantization.observer import default_per_channel_weight_observer

        qconfig: Any = getattr(mod, "qconfig", None)
        factory = default_per_channel_weight_observer if qconfig is None else qconfig.weight
        taken = {}
        for name, part in self._parts().items():
            weight: Tensor = getattr(mod, name)
            bias = None if part.bias is None else getattr(mod, part.bias)
            try:
                observer: Any = factory().to(weight.device)
                observer(weight.detach().float())
                taken[name] = shared_weight(
                    ops.LinearWeight,
                    *quantize_weight(weight, observer),
                    self._checked_bias(part, bias),
                )
            except (TypeError, ValueError, RuntimeError) as error:
                raise relabel(error, f"{label}: {name}") from error
        self._packed = taken

    def _checked_bias(self, part: Part, bias: Any) -> Tensor | None:
        if part.bias is None and bias is None:
            return None
        if (
            not isinstance(bias, Tensor)
            or isinstance(bias, QTensor)
            or not bias.is_floating_point()
            or part.bias is None
        ):
            wanted = "None, as this module has no biases" if part.bias is None else "a float tensor"
            raise TypeError(f"{part.bias or 'bias'} must be {wanted}, got {describe(bias)}")
        if tuple(bias.shape) != (part.rows,):
            raise ValueError(f"{part.bias} must have shape [{part.rows}], got {list(bias.shape)}")
        plain = bias.detach().to("cpu", torch.float32, copy=True)
        if not bool(torch.isfinite(plain).all()):
            raise ValueError(f"{part.bias} holds NaN or Inf")
        return plain

    def get_weight(self) -> dict[str, QTensor]:
        """The weights as qint8 tensors, per tensor or per channel on axis 0, by the names of the
        float module."""
        result = {}
        for name, packed in self._packed.items():
            axis = {} if packed.scales.numel() == 1 else {"axis": 0}
            result[name] = QTensor.from_int_repr(
                packed.unpack(), packed.scales, packed.zero_points, **axis
            )
        return result

    def get_bias(self) -> dict[str, Tensor]:
        """The float32 biases by the names of the float module; empty where there are none."""
        return {
            part.bias: packed.bias.clone()
            for (part, packed) in zip(self._parts().values(), self._packed.values(), strict=True)
            if part.bias is not None and packed.bias is not None
        }

    def set_weight_bias(self, weight_bias_dict: Mapping[str, Any]) -> None:
        """Replaces all weights and biases.

        Args:
            weight_bias_dict: by the names of the float module; weights are qint8 QTensors, per
                tensor or per channel on axis 0, and biases float tensors.

        Raises:
            TypeError: a weight that is no qint8 QTensor, a bias that is no float tensor.
            ValueError: names that are missing or unknown; wrong shapes; NaN or Inf in a bias.
        """
        label, parts = self._label(), self._parts()
        names = {*parts, *(part.bias for part in parts.values() if part.bias)}
        given = weight_bias_dict
        if set(given) != names:
            raise ValueError(
                f"{label}: expected exactly the entries {sorted(names)}, got {sorted(given)}"
            )
        taken = {}
        for name, part in parts.items():
            w = given[name]
            if not isinstance(w, QTensor) or w._qdtype is not qint8:
                raise TypeError(
                    f"{label}: {name} must be a quantized tensor of dtype octavo.qint8, got "
                    f"{describe(w)}"
                )
            if tuple(w._int.shape) != (part.rows, part.columns) or w._axis not in (None, 0):
                raise ValueError(
                    f"{label}: {name} must have shape {(part.rows, part.columns)} and be quantized "
                    f"per tensor or on axis 0, got {describe(w)}"
                )
            scales = torch.tensor([w._scale]) if w._axis is None else w._scales
            zeros = torch.tensor([w._zero_point]) if w._axis is None else w._zero_points
            try:
                bias = self._checked_bias(part, given[part.bias] if part.bias else None)
                taken[name] = shared_weight(ops.LinearWeight, w._int, scales.float(), zeros, bias)
            except (TypeError, ValueError) as error:
                raise relabel(error, label) from error
        self._packed = taken

    # State dict.

    def _state_tensors(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for (name, part), packed in zip(self._parts().items(), self._packed.values(), strict=True):
            zeros = packed.zero_points.to(torch.int32, copy=True)
            plain = (packed.unpack(), packed.scales.clone(), zeros)
            state.update(zip((name + suffix for suffix in _SUFFIXES), plain, strict=True))
            if part.bias is not None and packed.bias is not None:
                state[part.bias] = packed.bias.clone()
        return state

    def _state_keys(self) -> tuple[str, ...]:
        keys: list[str] = []
        for name, part in self._parts().items():
            keys.extend(name + suffix for suffix in _SUFFIXES)
            if part.bias is not None:
                keys.append(part.bias)
        return tuple(keys)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        for name in self._parts():
            weight = state_dict.get(prefix + name)
            if isinstance(weight, Tensor) and prefix + name + "_int8" not in state_dict:
                label = f"{type(self).__name__} '{prefix[:-1]}'" if prefix else self._label()
                lists[-1].append(
                    f"{label}: the checkpoint is a float one ('{name}' is {weight.dtype}) and this "
                    "module is quantized; load it into the float model, then quantize that"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        taken = {}
        for name, part in self._parts().items():
            keys = [name + suffix for suffix in _SUFFIXES]
            weight, scales, zero_points = (tensors[key] for key in keys)
            expect(keys[0], weight, (torch.int8,), (part.rows, part.columns))
            expect(keys[1], scales, (torch.float32,), (1,), (part.rows,))
            integers = (torch.int8, torch.int32, torch.int64)
            expect(keys[2], zero_points, integers, tuple(scales.shape))
            bias = None
            if part.bias is not None:
                expect(part.bias, tensors[part.bias], (torch.float32,), (part.rows,))
                bias = self._checked_bias(part, tensors[part.bias])
            try:
                zeros = zero_points.to("cpu", torch.int64)
                taken[name] = shared_weight(
                    ops.LinearWeight, weight.cpu(), scales.cpu(), zeros, bias
                )
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from error
        self._packed = taken

    # Copies and pickles. A packed weight belongs to its process and CPU, so pickles carry plain
    # tensors; it never changes, so deep copies share it.

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        packed = state.pop("_packed")
        state["_plain_weights"] = {
            name: (w.unpack(), w.scales, w.zero_points, w.bias) for name, w in packed.items()
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        plain = state.pop("_plain_weights")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._packed = {
            name: shared_weight(ops.LinearWeight, *parts) for name, parts in plain.items()
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentWeights:
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        rest = {key: value for key, value in self.__dict__.items() if key != "_packed"}
        result.__dict__.update(copy.deepcopy(rest, memo))
        result.__dict__["_packed"] = dict(self._packed)
        return result

    # Inputs.

    def _floats(self, x: Any, what: str = "input") -> Tensor:
        """``x``; TypeError unless it is a float tensor of a dtype that the module takes."""
        if isinstance(x, QTensor) or not isinstance(x, Tensor) or x.dtype not in FLOATS:
            cure = (
                "Dequantize it first: this module takes floats and quantizes them itself."
                if isinstance(x, QTensor)
                else "Convert it with .float()."
            )
            raise TypeError(
                f"{self._label()}: {what} must be a float32, bfloat16 or float16 tensor, got "
                f"{describe(x)}{upstream_of(self)}. {cure}"
            )
        return x.detach()
