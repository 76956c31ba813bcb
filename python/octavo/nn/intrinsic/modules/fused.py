"""Sequences of float modules that quantization treats as one unit.

Each is an ``nn.Sequential`` of its parts and computes what they compute in a row. ``prepare``
observes only the end of the sequence, and ``convert`` replaces the whole by one int8 module. The
forms with a batch norm are those of quantization-aware training; after training, ``fuse_modules``
folds the batch norm into the weights instead.

Source: ``torch.ao.nn.intrinsic``. As there, except that subclasses of the parts are accepted and a
wrong part raises TypeError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

_OBSERVER_NAME = "activation_post_process"


class _FusedModule(nn.Sequential):
    """Base of the fused modules. ``_parts`` names the constructor's arguments and their types.

    An observer that ``prepare`` adds is a child like the parts, so that its state has the name it
    has in other modules, but it is not one of the sequence.
    """

    _parts: ClassVar[tuple[tuple[str, type[nn.Module]], ...]] = ()

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        for (part, expected), module in zip(self._parts, modules, strict=False):
            if not isinstance(module, expected):
                raise TypeError(
                    f"{type(self).__name__}: {part} must be an nn.{expected.__name__}, got "
                    f"{type(module).__name__}"
                )

    def __iter__(self) -> Iterator[nn.Module]:
        return (part for name, part in self._modules.items() if name != _OBSERVER_NAME)

    def __len__(self) -> int:
        return sum(name != _OBSERVER_NAME for name in self._modules)


class ConvReLU1d(_FusedModule):
    """Conv1d, then ReLU."""

    _parts = (("conv", nn.Conv1d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv1d, relu: nn.ReLU) -> None:
        super().__init__(conv, relu)


class ConvReLU2d(_FusedModule):
    """Conv2d, then ReLU."""

    _parts = (("conv", nn.Conv2d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv2d, relu: nn.ReLU) -> None:
        super().__init__(conv, relu)


class ConvReLU3d(_FusedModule):
    """Conv3d, then ReLU."""

    _parts = (("conv", nn.Conv3d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv3d, relu: nn.ReLU) -> None:
        super().__init__(conv, relu)


class ConvHardtanh1d(_FusedModule):
    """Conv1d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv1d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv1d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, hardtanh)


class ConvHardtanh2d(_FusedModule):
    """Conv2d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv2d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv2d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, hardtanh)


class ConvHardtanh3d(_FusedModule):
    """Conv3d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv3d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv3d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, hardtanh)


class ConvBnHardtanh1d(_FusedModule):
    """Conv1d, BatchNorm1d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv1d), ("bn", nn.BatchNorm1d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv1d, bn: nn.BatchNorm1d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, bn, hardtanh)


class ConvBnHardtanh2d(_FusedModule):
    """Conv2d, BatchNorm2d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv2d), ("bn", nn.BatchNorm2d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, bn, hardtanh)


class ConvBnHardtanh3d(_FusedModule):
    """Conv3d, BatchNorm3d, then Hardtanh or ReLU6. Octavo's own."""

    _parts = (("conv", nn.Conv3d), ("bn", nn.BatchNorm3d), ("hardtanh", nn.Hardtanh))

    def __init__(self, conv: nn.Conv3d, bn: nn.BatchNorm3d, hardtanh: nn.Hardtanh) -> None:
        super().__init__(conv, bn, hardtanh)


class LinearReLU(_FusedModule):
    """Linear, then ReLU."""

    _parts = (("linear", nn.Linear), ("relu", nn.ReLU))

    def __init__(self, linear: nn.Linear, relu: nn.ReLU) -> None:
        super().__init__(linear, relu)


class LinearLeakyReLU(_FusedModule):
    """Linear, then LeakyReLU."""

    _parts = (("linear", nn.Linear), ("leaky_relu", nn.LeakyReLU))

    def __init__(self, linear: nn.Linear, leaky_relu: nn.LeakyReLU) -> None:
        super().__init__(linear, leaky_relu)


class LinearTanh(_FusedModule):
    """Linear, then Tanh."""

    _parts = (("linear", nn.Linear), ("tanh", nn.Tanh))

    def __init__(self, linear: nn.Linear, tanh: nn.Tanh) -> None:
        super().__init__(linear, tanh)


class ConvBn1d(_FusedModule):
    """Conv1d, then BatchNorm1d."""

    _parts = (("conv", nn.Conv1d), ("bn", nn.BatchNorm1d))

    def __init__(self, conv: nn.Conv1d, bn: nn.BatchNorm1d) -> None:
        super().__init__(conv, bn)


class ConvBn2d(_FusedModule):
    """Conv2d, then BatchNorm2d."""

    _parts = (("conv", nn.Conv2d), ("bn", nn.BatchNorm2d))

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
        super().__init__(conv, bn)


class ConvBn3d(_FusedModule):
    """Conv3d, then BatchNorm3d."""

    _parts = (("conv", nn.Conv3d), ("bn", nn.BatchNorm3d))

    def __init__(self, conv: nn.Conv3d, bn: nn.BatchNorm3d) -> None:
        super().__init__(conv, bn)


class ConvBnReLU1d(_FusedModule):
    """Conv1d, BatchNorm1d, then ReLU."""

    _parts = (("conv", nn.Conv1d), ("bn", nn.BatchNorm1d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv1d, bn: nn.BatchNorm1d, relu: nn.ReLU) -> None:
        super().__init__(conv, bn, relu)


class ConvBnReLU2d(_FusedModule):
    """Conv2d, BatchNorm2d, then ReLU."""

    _parts = (("conv", nn.Conv2d), ("bn", nn.BatchNorm2d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d, relu: nn.ReLU) -> None:
        super().__init__(conv, bn, relu)


class ConvBnReLU3d(_FusedModule):
    """Conv3d, BatchNorm3d, then ReLU."""

    _parts = (("conv", nn.Conv3d), ("bn", nn.BatchNorm3d), ("relu", nn.ReLU))

    def __init__(self, conv: nn.Conv3d, bn: nn.BatchNorm3d, relu: nn.ReLU) -> None:
        super().__init__(conv, bn, relu)


class LinearBn1d(_FusedModule):
    """Linear, then BatchNorm1d."""

    _parts = (("linear", nn.Linear), ("bn", nn.BatchNorm1d))

    def __init__(self, linear: nn.Linear, bn: nn.BatchNorm1d) -> None:
        super().__init__(linear, bn)


class BNReLU2d(_FusedModule):
    """BatchNorm2d, then ReLU."""

    _parts = (("batch_norm", nn.BatchNorm2d), ("relu", nn.ReLU))

    def __init__(self, batch_norm: nn.BatchNorm2d, relu: nn.ReLU) -> None:
        super().__init__(batch_norm, relu)


class BNReLU3d(_FusedModule):
    """BatchNorm3d, then ReLU."""

    _parts = (("batch_norm", nn.BatchNorm3d), ("relu", nn.ReLU))

    def __init__(self, batch_norm: nn.BatchNorm3d, relu: nn.ReLU) -> None:
        super().__init__(batch_norm, relu)


class ConvAdd2d(_FusedModule):
    """Conv2d of the first argument, then ``add`` of the result and the second argument."""

    _parts = (("conv", nn.Conv2d),)

    def __init__(self, conv: nn.Conv2d, add: Any) -> None:
        super().__init__(conv)
        self.add = add

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:  # type: ignore[override]
        """``add(conv(x1), x2)``."""
        return self.add(self[0](x1), x2)  # type: ignore[no-any-return]


class ConvAddReLU2d(_FusedModule):
    """Conv2d of the first argument, ``add`` of the result and the second one, then ``relu``."""

    _parts = (("conv", nn.Conv2d),)

    def __init__(self, conv: nn.Conv2d, add: Any, relu: Any) -> None:
        super().__init__(conv)
        self.add = add
        self.relu = relu

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:  # type: ignore[override]
        """``relu(add(conv(x1), x2))``."""
        return self.relu(self.add(self[0](x1), x2))  # type: ignore[no-any-return]
