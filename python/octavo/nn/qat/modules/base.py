"""The base of the modules of quantization-aware training.

Such a module is the float module whose name it has, with a child ``weight_fake_quant`` that rounds
the weight in ``forward`` as ``convert`` will. What it returns is rounded by the fake-quantize that
``prepare_qat`` puts on its output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from octavo.nn.quantized.modules.utils import source_label

__all__ = ["QATModule"]


# nn.Module comes first, which keeps the memory layout of torch's classes: objects of torch.ao's get
# these classes, see octavo.quantization.torch_ao.
class QATModule(nn.Module, ABC):
    """Base of the modules of quantization-aware training.

    Subclasses inherit from a layer of ``torch.nn`` too. They say what that layer's arguments are
    (``_arguments_of``), and the form that they stand for (``_FLOAT_MODULE``).

    Attributes:
        weight_fake_quant: what ``qconfig.weight()`` gave; on the device of the weight.
        qconfig: of the module.
    """

    _FLOAT_MODULE: ClassVar[Any]
    _LAYER: ClassVar[Any]  # the class that holds the weight
    qconfig: Any
    weight: Any
    bias: Any

    def _set_qconfig(self, qconfig: Any) -> None:
        factory = getattr(qconfig, "weight", None)
        if not callable(factory):
            raise ValueError(
                f"{type(self).__name__}: qconfig must be a QConfig with a weight, got "
                f"{qconfig!r}; for example octavo.quantization.get_default_qat_qconfig()"
            )
        self.qconfig = qconfig
        self.weight_fake_quant: nn.Module = factory()
        if self.weight.device.type != "meta":
            self.weight_fake_quant.to(self.weight.device)

    @classmethod
    @abstractmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        """The arguments with which the class of a layer makes one like it."""

    @classmethod
    def _options_of(cls, mod: Any) -> dict[str, Any]:
        """Further arguments of the constructor for a float module."""
        return {}

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Any:
        """A module for training, with the parameters of a float one (the same objects).

        Args:
            mod: the float module, with a ``qconfig``.
            use_precomputed_fake_quant: without effect.

        Raises:
            TypeError: another kind of module.
            ValueError: no qconfig; a weight that is no parameter.
        """
        label = source_label(cls, mod)
        if not isinstance(mod, cls._FLOAT_MODULE):
            home = cls._FLOAT_MODULE.__module__.removesuffix(".modules.fused")
            home = "torch.nn" if home.startswith("torch.nn.") else home
            raise TypeError(f"{label}: expected a {home}.{cls._FLOAT_MODULE.__name__}")
        layer: Any = mod[0] if isinstance(mod, nn.Sequential) else mod
        qconfig = getattr(mod, "qconfig", None) or getattr(layer, "qconfig", None)
        if not qconfig:
            raise ValueError(
                f"{label}: the float module has no qconfig; set one, for example "
                "octavo.quantization.get_default_qat_qconfig()"
            )
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"{label}: the weight is computed from other tensors; prepare_qat() folds these "
                "into a plain parameter"
            )
        arguments = {**cls._arguments_of(layer), **cls._options_of(mod)}
        result = cls(**arguments, qconfig=qconfig, device="meta")
        result.weight = layer.weight
        if "bias" in layer._parameters:
            result.bias = layer.bias
        result._take_rest(mod)
        if layer.weight.device.type != "meta":
            result.weight_fake_quant.to(layer.weight.device)
        return result.train(mod.training)

    def _take_rest(self, mod: Any) -> None:
        """Takes what a float module has besides weight and bias."""

    def _float_layer(self) -> Any:
        """A float layer with the weight and bias of the module."""
        layer = self._LAYER(**self._arguments_of(self), device="meta")
        self._give_parameters(layer, self.weight, self.bias if "bias" in self._parameters else None)
        return layer.train(self.training)

    @staticmethod
    def _give_parameters(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
        layer.weight = nn.Parameter(weight.detach())
        if "bias" in layer._parameters:
            layer.bias = None if bias is None else nn.Parameter(bias.detach())

    def to_float(self) -> Any:
        """The float module that computes the same without rounding. It shares the memory of weights
        that it takes as they are.
        """
        return self._float_layer()

    def _observed_float(self) -> nn.Module:
        """:meth:`to_float` with the qconfig and the fake-quantize modules of this one: what
        ``convert`` quantizes.
        """
        result = self.to_float()
        layer = result[0] if isinstance(result, nn.Sequential) else result
        layer.weight_fake_quant = self.weight_fake_quant
        result.qconfig = self.qconfig
        if hasattr(self, "activation_post_process"):
            result.activation_post_process = self.activation_post_process
        return result  # type: ignore[no-any-return]
