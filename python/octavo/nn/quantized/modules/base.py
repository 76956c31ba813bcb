"""Bases of the quantized modules: names in errors, input checks, state dicts, output qparams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from octavo._tensor.qparams import check_scale, check_zero_point
from octavo.dtypes import QDType, qint8, qint32, quint8
from octavo.nn.quantized.modules.upstream import upstream_of
from octavo.nn.quantized.modules.utils import describe, relabel
from octavo.tensor import QTensor

__all__ = ["QuantizedModule", "QuantizedOutput", "expect"]

# The range of zero points where the output has the dtype of the input, which is not known yet.
_ANY_8_BIT = QDType("quint8 and octavo.qint8", torch.uint8, -128, 255, True)
_QDTYPE_OF_STORAGE = {torch.uint8: quint8, torch.int8: qint8}


class QuantizedModule(nn.Module):
    """Base of all quantized modules.

    ``_qualified_name`` is the module's path in the model ("layer1.0.conv1"), for error messages;
    ``convert`` sets it.

    State: subclasses say which plain tensors make up their state (`_state_tensors`, `_state_keys`)
    and take them back all at once (`_load_state_tensors`), so that a load that fails leaves the
    module as it was.
    """

    _version = 1
    _qualified_name: str = ""

    def _label(self) -> str:
        name = type(self).__name__
        return f"{name} '{self._qualified_name}'" if self._qualified_name else name

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script calls first."""
        raise RuntimeError(
            f"{self._label()}: torch.jit.script cannot compile Octavo's kernels; use "
            "octavo.export, or save the state_dict and load it where it is used with "
            "octavo.quantization.load_quantized"
        )

    def _activation(self, x: Any, what: str = "input") -> Tensor:
        """The plain integers inside an activation; TypeError unless it is 8-bit with one scale."""
        if isinstance(x, QTensor) and x._axis is None and x._qdtype is not qint32:
            return x._int
        raise self._activation_error(x, what)

    def _activation_error(self, x: object, what: str) -> TypeError:
        if isinstance(x, QTensor):
            cure = "Dequantize it and quantize it again with octavo.quantize_per_tensor."
        elif isinstance(x, Tensor) and x.is_floating_point():
            cure = (
                "Put an octavo.quantization.QuantStub before this module and run prepare() and "
                "convert() again, or quantize the tensor with octavo.quantize_per_tensor."
            )
        else:
            cure = "Make one with octavo.quantize_per_tensor."
        return TypeError(
            f"{self._label()}: {what} must be a quantized tensor of dtype octavo.quint8 or "
            f"octavo.qint8 with one scale, got {describe(x)}{upstream_of(self)}. {cure}"
        )

    def _named(self, error: Exception) -> Exception:
        return relabel(error, self._label())

    def _state_tensors(self) -> dict[str, Tensor]:
        return {}

    def _state_keys(self) -> tuple[str, ...]:
        return ()

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes all of `_state_keys`. TypeError or ValueError, and no change, if one is wrong."""

    def _check_state(self, present: Mapping[str, object], missing: list[str]) -> None:
        """Raises TypeError or ValueError where the entries found in a state dict cannot be loaded
        together.
        """
        for key, value in present.items():
            if not isinstance(value, Tensor) or isinstance(value, QTensor):
                raise TypeError(f"'{key}' must be a plain tensor, got {describe(value)}")
            if value.device.type == "meta":
                raise ValueError(
                    f"'{key}' is on the meta device and holds no numbers; load a real checkpoint"
                )
        if missing:
            raise ValueError(
                f"found {sorted(present)} without {missing}; these belong together, so none of "
                "them was loaded"
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, tensor in self._state_tensors().items():
            destination[prefix + key] = tensor

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
        unexpected: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected, error_msgs
        )
        keys = self._state_keys()
        own = {prefix + key for key in keys}
        unexpected_keys.extend(key for key in unexpected if key not in own)
        missing = [key for key in keys if prefix + key not in state_dict]
        missing_keys.extend(prefix + key for key in missing)
        present = {key: state_dict[prefix + key] for key in keys if key not in missing}
        if not present:
            return
        try:
            self._check_state(present, missing)
            self._load_state_tensors(present)
        except (TypeError, ValueError) as error:
            label = f"{type(self).__name__} '{prefix[:-1]}'" if prefix else self._label()
            error_msgs.append(f"{label}: {error}")


class QuantizedOutput(QuantizedModule):
    """A quantized module whose output has a scale and zero point of its own.

    Attributes:
        scale (float): assignable, and rounded to float32 then, since that is what state dicts hold
            and kernels compute with; ValueError unless finite and > 0.
        zero_point (int): assignable; ValueError where the output dtype cannot hold it.
    """

    _scale: float
    _zero_point: int
    _out_qdtype: QDType | None  # None: the dtype of the input
    _scalar_shape: tuple[int, ...] = ()  # of scale and zero_point in the state dict

    def _set_output(self, scale: Any, zero_point: Any, qdtype: QDType | None) -> None:
        label = self._label()
        scale = check_scale(scale, f"{label}: scale")
        zero_point = check_zero_point(zero_point, qdtype or _ANY_8_BIT, f"{label}: zero_point")
        self._scale = torch.tensor(scale, dtype=torch.float32).item()
        self._zero_point, self._out_qdtype = zero_point, qdtype

    @property
    def scale(self) -> Any:
        return self._scale

    @scale.setter
    def scale(self, value: Any) -> None:
        self._set_output(value, self._zero_point, self._out_qdtype)

    @property
    def zero_point(self) -> Any:
        return self._zero_point

    @zero_point.setter
    def zero_point(self, value: Any) -> None:
        self._set_output(self._scale, value, self._out_qdtype)

    def _state_tensors(self) -> dict[str, Tensor]:
        storage = torch.int64 if self._out_qdtype is None else self._out_qdtype.storage
        return {
            "scale": torch.full(self._scalar_shape, self._scale, dtype=torch.float32),
            "zero_point": torch.full(self._scalar_shape, self._zero_point, dtype=storage),
        }

    def _state_keys(self) -> tuple[str, ...]:
        return ("scale", "zero_point")

    def _output_from_state(self, tensors: Mapping[str, Tensor]) -> tuple[float, int, QDType | None]:
        scale, zero_point = tensors["scale"], tensors["zero_point"]
        expect("scale", scale, (torch.float32,), (), (1,))
        expect(
            "zero_point", zero_point, (torch.uint8, torch.int8, torch.int32, torch.int64), (), (1,)
        )
        qdtype = _QDTYPE_OF_STORAGE.get(zero_point.dtype, self._out_qdtype)
        return (
            check_scale(scale, "'scale'"),
            check_zero_point(zero_point, qdtype or _ANY_8_BIT, "'zero_point'"),
            qdtype,
        )

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._set_output(*self._output_from_state(tensors))


def expect(
    key: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], *shapes: tuple[int, ...]
) -> None:
    """Raises TypeError or ValueError, naming the key, unless the tensor has one of the dtypes and
    shapes.
    """
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(
            f"'{key}' must be {wanted}, got {tensor.dtype} of shape {list(tensor.shape)}"
        )
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"'{key}' must have shape {wanted}, got {list(tensor.shape)}")
