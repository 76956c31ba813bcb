"""The base of quantized modules with float parameters (normalizations, PReLU)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.nn.quantized.modules.base import QuantizedOutput, expect
from octavo.nn.quantized.modules.utils import describe, output_qparams, source_label

__all__ = ["FloatParameters"]


class FloatParameters(QuantizedOutput):
    """A quantized module with float32 parameters, which are plain tensors or None.

    Subclasses name them in ``_PARAMETERS``; each is an attribute and, unless None, an entry of the
    state dict. ``half()`` and the like leave them as they are.
    """

    _PARAMETERS: ClassVar[tuple[str, ...]] = ("weight", "bias")
    _FLOAT_MODULE: ClassVar[type[nn.Module]]

    def _set_parameter(self, name: str, value: Any, shape: tuple[int, ...]) -> None:
        """Keeps a float32 copy. TypeError, ValueError: no finite float tensor of that shape."""
        setattr(self, name, _checked(self._label(), name, value, shape))

    def _present(self) -> dict[str, Tensor]:
        values = {name: getattr(self, name) for name in self._PARAMETERS}
        return {name: value for name, value in values.items() if value is not None}

    def _state_tensors(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self._present().items()} | super()._state_tensors()

    def _state_keys(self) -> tuple[str, ...]:
        return (*self._present(), *super()._state_keys())

    def _load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        loaded: dict[str, Tensor] = {}
        for name, old in self._present().items():
            expect(name, tensors[name], (old.dtype,), tuple(old.shape))
            value = tensors[name].detach().to("cpu", copy=True)
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"'{name}' holds NaN or Inf")
            loaded[name] = value
        output = self._output_from_state(tensors)
        for name, value in loaded.items():
            setattr(self, name, value)
        self._set_output(*output)

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    @classmethod
    def _checked_float(cls, mod: Any) -> Any:
        """The float module that holds the parameters; TypeError where it is of another kind."""
        if not isinstance(mod, cls._FLOAT_MODULE):
            name = cls._FLOAT_MODULE.__name__
            raise TypeError(f"{source_label(cls, mod)}: expected a torch.nn.{name}")
        return mod

    def _take_output(self, mod: nn.Module) -> None:
        """Output qparams of an observed module. Raises as :func:`output_qparams` does."""
        self._set_output(*output_qparams(mod, source_label(type(self), mod)))


def _checked(label: str, name: str, value: Any, shape: tuple[int, ...]) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{label}: {name} must be a float tensor or None, got {describe(value)}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{label}: {name} must have shape {list(shape)}, got {list(value.shape)}")
    plain = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise ValueError(f"{label}: {name} holds NaN or Inf")
    return plain
