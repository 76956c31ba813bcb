"""Quantized modules made of others, which ``octavo.nn.quantizable`` names."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from octavo.dtypes import quint8
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.functional_modules import FloatFunctional, QFunctional
from octavo.nn.quantized.modules.linear import Linear
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize

__all__ = ["MadeOfParts"]

_NO_CUSTOM: dict[str, Any] = {"observed_to_quantized_custom_module_class": {}}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class MadeOfParts(QuantizedModule):
    """Base of the quantized forms of modules that are observed part by part. The constructor gives
    parts of scale 1, for ``load_state_dict``.
    """

    _FLOAT_MODULE: ClassVar[Any]

    def _finish_parts(self) -> None:
        """Replaces the float parts that the constructor made by quantized ones."""
        # octavo.quantization needs the modules of octavo.nn first.
        from octavo.quantization.stubs import DeQuantStub, QuantStub

        for parent in list(self.modules()):
            for name, part in parent._modules.items():
                new: nn.Module | None = part
                if type(part) is nn.Linear:
                    new = Linear(part.in_features, part.out_features, part.bias is not None)
                elif type(part) is FloatFunctional:
                    new = QFunctional()
                elif type(part) is QuantStub:
                    new = Quantize(1.0, 0, quint8)
                elif type(part) is DeQuantStub:
                    new = DeQuantize()
                parent._modules[name] = new

    @classmethod
    def from_float(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError: a float module has to be observed first."""
        raise NotImplementedError(
            f"{cls.__name__}.from_float: there are no scales in a float module; run prepare(), "
            "calibrate and convert(), or use octavo.nn.quantizable."
            f"{cls._FLOAT_MODULE.__name__}.from_float, calibrate and give that to from_observed"
        )

    @classmethod
    def from_observed(cls, other: nn.Module) -> Any:
        """The quantized form of a calibrated module of ``octavo.nn.quantizable``, which stays as it
        is.

        Raises:
            TypeError: another kind of module.
            RuntimeError: parts that are not calibrated.
        """
        from octavo.quantization.quantize import convert

        if not isinstance(other, cls._FLOAT_MODULE):
            raise TypeError(
                f"{cls.__name__}.from_observed: expected a calibrated "
                f"octavo.nn.quantizable.{cls._FLOAT_MODULE.__name__}, got {type(other).__name__}"
            )
        result: Any = convert(other, convert_custom_config_dict=_NO_CUSTOM)
        result.__class__ = cls
        del result.quantization_report
        for hooks in _HOOKS:
            getattr(result, hooks).clear()
        if other_name := getattr(other, "_qualified_name", ""):
            for part in result.modules():
                if isinstance(part, QuantizedModule) and part is not result:
                    part._qualified_name = f"{other_name}.{part._qualified_name}"
        result._take_float_parameters()
        return result

    def _take_float_parameters(self) -> None:
        """Turns parameters that stay float into buffers."""
        for name, parameter in list(self._parameters.items()):
            del self._parameters[name]
            self.register_buffer(name, None if parameter is None else parameter.detach().clone())
