"""The base of quantized modules with weights (Linear, convolutions).

Memory: a module holds its weight once, packed for the CPU (:class:`octavo.ops.LinearWeight`,
:class:`octavo.ops.ConvWeight`). The plain int8 weight is unpacked when somebody asks for it:
``module.weight``, ``state_dict()``, pickling. Modules whose weights are equal, bias and geometry
included, share one packed weight: tied layers and copies of a model, loaded ones too.

State dict, plain tensors only:

===================== ================== ======================================================
``weight``            int8               shape of the float weight
``weight_scale``      float32            [1], or [out]: one per output channel; transposed
                                         convolutions: [out / groups], dimension 1 of the weight
``weight_zero_point`` int32              as ``weight_scale``
``bias``              float32            [out]; no such key where the module has no bias
``scale``             float32 []         of the output
``zero_point``        uint8 [], int8 []  of the output, in the dtype of the output's storage
===================== ================== ======================================================

The dtype of ``zero_point`` thus records whether the output is quint8 or qint8. An int32 or int64
zero point loads too, and leaves the output dtype as it is.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.dtypes import QDType, qint8
from octavo.nn.quantized.modules.base import QuantizedModule, QuantizedOutput, expect
from octavo.nn.quantized.modules.utils import describe, output_qparams, quantize_weight, relabel
from octavo.tensor import QTensor

__all__ = ["CallableBias", "CallableWeight", "PackedWeightModule", "WeightedQuantizedModule"]


class CallableWeight(QTensor):
    """The weight of a quantized module: a QTensor that returns itself when called.

    Float modules have ``module.weight`` and torch's quantized ones ``module.weight()``; so both
    work here.
    """

    __slots__ = ()

    @staticmethod
    def of(plain: Tensor, scales: Tensor, zero_points: Tensor, axis: int) -> CallableWeight:
        if scales.numel() == 1:
            q = QTensor.from_int_repr(plain, scales, zero_points)
        else:
            q = QTensor.from_int_repr(plain, scales, zero_points, axis=axis)
        weight = torch.Tensor._make_subclass(CallableWeight, plain)
        for slot in QTensor.__slots__:
            if hasattr(q, slot):
                setattr(weight, slot, getattr(q, slot))
        return weight

    def __call__(self) -> QTensor:
        return self


class CallableBias(Tensor):
    """The bias of a quantized module: a float32 tensor that can also be called.

    ``module.bias()`` is the bias or None, as in torch's quantized modules. ``module.bias`` is a
    tensor even where there is none (None could not be called): a module without bias reads as one
    whose bias is zero, which gives the same numbers. Results of operations on it, copies and
    pickles are ordinary tensors.
    """

    _absent: bool
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(bias: Tensor | None, size: int) -> CallableBias:
        plain = torch.zeros(size) if bias is None else bias.clone()
        result: CallableBias = torch.Tensor._make_subclass(CallableBias, plain)
        result._absent = bias is None
        return result

    def __call__(self) -> Tensor | None:
        return None if self._absent else self.detach()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.detach())

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


class PackedWeightModule(QuantizedModule, ABC):
    """A module with a packed int8 weight, whatever its output.

    Attributes:
        weight (QTensor): qint8, per tensor or per channel on axis 0 (transposed convolutions: 1,
            as their float weights have the output channels there); ``module.weight`` and
            ``module.weight()`` are the same. Every read unpacks it. To change it, call
            :meth:`set_weight_bias`.
        bias (Tensor): float32 [out]; ``module.bias()`` is None where there is none, see
            :class:`CallableBias`.
    """

    _packed: Any
    _relu: bool = False
    _weight_axis: ClassVar[int] = 0  # of the output channels

    @abstractmethod
    def _weight_shape(self) -> tuple[int, ...]:
        """Of the float weight."""

    def _outputs(self) -> int:
        return self._weight_shape()[0]

    @abstractmethod
    def _pack(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Any:
        """The packed weight: called with an input, it gives the output."""

    def _reset_weight(self, bias: bool) -> None:
        """Zero weights of scale 1, and a zero bias: what a module that was constructed directly
        starts with.
        """
        shape = self._weight_shape()
        self._packed = self._pack(
            torch.zeros(shape, dtype=torch.int8),
            torch.ones(1),
            torch.zeros(1, dtype=torch.int32),
            torch.zeros(self._outputs()) if bias else None,
        )

    def _run(self, x: Tensor, *args: Any) -> Tensor:
        """Runs the packed weight; its errors get the module's name."""
        try:
            out: Tensor = self._packed(x, *args)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return out

    @property
    def weight(self) -> CallableWeight:
        packed = self._packed
        return CallableWeight.of(
            packed.unpack(), packed.scales, packed.zero_points, self._weight_axis
        )

    @property
    def bias(self) -> CallableBias:
        return CallableBias.of(self._packed.bias, self._outputs())

    def _weight_bias(self) -> tuple[QTensor, Tensor | None]:
        return self.weight, self.bias()

    def set_weight_bias(self, w: QTensor, b: Tensor | None) -> None:
        """Replaces weight and bias, and packs them.

        Args:
            w: qint8 QTensor of the module's weight shape, per tensor or per channel on the axis of
                the output channels.
            b: float tensor [out], or None.

        Raises:
            TypeError: ``w`` is not a qint8 QTensor, or ``b`` not a float tensor.
            ValueError: wrong shape or axis; NaN or Inf in ``b``.
        """
        label = self._label()
        if not isinstance(w, QTensor) or w._qdtype is not qint8:
            raise TypeError(
                f"{label}: w must be a quantized tensor of dtype octavo.qint8, got {describe(w)}"
            )
        if tuple(w._int.shape) != self._weight_shape():
            raise ValueError(
                f"{label}: w must have shape {self._weight_shape()}, got {tuple(w._int.shape)}"
            )
        if w._axis is None:
            scales, zero_points = torch.tensor([w._scale]), torch.tensor([w._zero_point])
        elif w._axis == self._weight_axis:
            scales, zero_points = w._scales, w._zero_points
        else:
            raise ValueError(
                f"{label}: w must be quantized per tensor or per channel on axis "
                f"{self._weight_axis}, got axis {w._axis}"
            )
        try:
            bias = self._checked_bias(b)
            self._packed = self._pack(w._int, scales.float(), zero_points.to(torch.int32), bias)
        except (TypeError, ValueError) as error:
            raise relabel(error, label) from error

    def _checked_bias(self, bias: Any) -> Tensor | None:
        if bias is None:
            return None
        if (
            not isinstance(bias, Tensor)
            or isinstance(bias, QTensor)
            or not bias.is_floating_point()
        ):
            raise TypeError(f"bias must be a float tensor or None, got {describe(bias)}")
        size = self._outputs()
        if tuple(bias.shape) != (size,):
            raise ValueError(f"bias must have shape [{size}], got {list(bias.shape)}")
        plain = bias.detach().to("cpu", torch.float32, copy=True)
        if not bool(torch.isfinite(plain).all()):
            raise ValueError("bias holds NaN or Inf")
        return plain

    def _take_weight(
        self, mod: nn.Module, observer: Any, label: str, precomputed: bool = False
    ) -> None:
        """Takes weight and bias of the float module ``mod``, quantized with the qparams that
        ``observer`` has after seeing the weight (``precomputed``: has already).
        """
        weight: Tensor = mod.weight  # type: ignore[assignment]
        try:
            if weight.numel() == 0:  # nothing to observe
                quantized = torch.empty(weight.shape, dtype=torch.int8)
                scales, zero_points = torch.ones(1), torch.zeros(1, dtype=torch.int32)
            else:
                if not precomputed:
                    observer(weight.detach().float())
                quantized, scales, zero_points = quantize_weight(
                    weight, observer, self._weight_axis
                )
            self._packed = self._pack(quantized, scales, zero_points, self._checked_bias(mod.bias))
        except (TypeError, ValueError, RuntimeError) as error:
            raise relabel(error, label) from error

    def _observe_channels(self, observer: Any) -> None:
        """Points a new per-channel observer, which observes axis 0 unless told otherwise, to the
        axis of the output channels.
        """
        parts: tuple[Any, ...] = (observer, getattr(observer, "activation_post_process", None))
        for part in parts:
            if getattr(part, "ch_axis", None) == 0:
                part.ch_axis = self._weight_axis

    # State dict.

    def _state_tensors(self) -> dict[str, Tensor]:
        packed = self._packed
        state = {
            # Not "weight": load_state_dict(strict=False) of a float model would take the integers.
            "weight_int8": packed.unpack(),
            "weight_scale": packed.scales.clone(),
            "weight_zero_point": packed.zero_points.to(torch.int32, copy=True),
        }
        if packed.bias is not None:
            state["bias"] = packed.bias.clone()
        return state | super()._state_tensors()

    def _state_keys(self) -> tuple[str, ...]:
        bias = () if self._packed.bias is None else ("bias",)
        return ("weight_int8", "weight_scale", "weight_zero_point", *bias, *super()._state_keys())

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        weight = state_dict.get(prefix + "weight")
        is_float = isinstance(weight, Tensor) and weight.is_floating_point()
        if is_float and prefix + "weight_int8" not in state_dict:
            label = f"{type(self).__name__} '{prefix[:-1]}'" if prefix else self._label()
            lists[-1].append(
                f"{label}: the checkpoint is a float one ('weight' is {weight.dtype}) and this "
                "module is quantized; load it into the float model, then prepare, calibrate and "
                "convert that"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        shape = self._weight_shape()
        weight, scales, zero_points = (
            tensors[key] for key in ("weight_int8", "weight_scale", "weight_zero_point")
        )
        expect("weight_int8", weight, (torch.int8,), shape)
        expect("weight_scale", scales, (torch.float32,), (1,), (shape[self._weight_axis],))
        expect(
            "weight_zero_point",
            zero_points,
            (torch.int8, torch.int32, torch.int64),
            tuple(scales.shape),
        )
        if not bool((torch.isfinite(scales) & (scales > 0)).all()):
            raise ValueError(
                f"'weight_scale' must be finite and > 0, got values from {scales.min()} to "
                f"{scales.max()}"
            )
        if not bool(((zero_points >= -128) & (zero_points <= 127)).all()):
            raise ValueError(
                f"'weight_zero_point' must be in [-128, 127], got values from {zero_points.min()} "
                f"to {zero_points.max()}"
            )
        bias = tensors.get("bias")
        if bias is not None:
            expect("bias", bias, (torch.float32,), (self._outputs(),))
            bias = self._checked_bias(bias)
        self._packed = self._pack(
            weight.cpu(), scales.cpu(), zero_points.to("cpu", torch.int32), bias
        )

    # Copies and pickles. A packed weight belongs to its process and CPU, so pickles carry plain
    # tensors; it never changes, so deep copies share it.

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        packed = state.pop("_packed")
        state["_plain_weight"] = (packed.unpack(), packed.scales, packed.zero_points, packed.bias)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        plain = state.pop("_plain_weight")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._packed = self._pack(*plain)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeightModule:
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        rest = {key: value for key, value in self.__dict__.items() if key != "_packed"}
        result.__dict__.update(copy.deepcopy(rest, memo))
        result.__dict__["_packed"] = self._packed
        return result


class WeightedQuantizedModule(PackedWeightModule, QuantizedOutput):
    """A quantized module with a packed int8 weight and a quantized output.

    Attributes:
        weight, bias: as :class:`PackedWeightModule` has them.
        scale (float), zero_point (int): of the output.
    """

    _out_qdtype: QDType

    def _take_float(
        self, mod: nn.Module, observed: nn.Module, label: str, precomputed: bool = False
    ) -> None:
        """Takes weight and bias of the float module ``mod``, and output qparams and qconfig of
        ``observed``.

        A ``weight_fake_quant`` on ``mod`` serves as the weight observer (``precomputed``: without
        seeing the weight again), otherwise ``qconfig.weight()`` does.
        """
        self._set_output(*output_qparams(observed, label))
        observer: Any = getattr(mod, "weight_fake_quant", None)
        if observer is None:
            qconfig = getattr(observed, "qconfig", None) or getattr(mod, "qconfig", None)
            if qconfig is None:
                raise ValueError(
                    f"{label}: the float module has no qconfig; set one and run prepare() first"
                )
            weight: Tensor = mod.weight  # type: ignore[assignment]
            observer = qconfig.weight().to(weight.device)
            self._observe_channels(observer)
            precomputed = False
        self._take_weight(mod, observer, label, precomputed)

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        output = self._output_from_state(tensors)
        super()._load_state_tensors(tensors)
        self._set_output(*output)
