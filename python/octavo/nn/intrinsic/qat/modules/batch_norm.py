"""What the layers with a batch norm share in quantization-aware training.

With running statistics, layer and batch norm are one layer with the weight ``W * s``, ``s = gamma /
sqrt(running_var + eps)``. That weight is rounded, since ``convert`` rounds it:

* in eval mode or frozen: ``layer(x, round(W * s)) + (bias - running_mean) * s + beta``, which is
  the layer that ``convert`` quantizes;
* in training: ``bn(layer(x, round(W * s)) / s + bias)``, with the statistics of the batch.

Where ``s`` is 0 (or so small that its square is), the rounded weight is 0 and there is nothing to
divide. Such a channel takes ``W`` as it is instead of ``round(W * s) / s``: its output is ``beta``,
and the gradient of ``gamma`` that of the float layer, so that a channel can come back to life.

Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018,
section 3.2.2, and ``torch.ao.nn.intrinsic.qat``, which gives NaN there.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.nn.qat.modules.base import QATModule
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["WithBatchNorm", "freeze_bn_stats", "update_bn_stats"]


def on_host(x: Tensor) -> bool:
    """Whether to read numbers of ``x``: it is on the CPU, and no graph is being traced."""
    return x.is_cpu and not torch.compiler.is_compiling()


class WithBatchNorm(QATModule):
    """A layer, then a batch norm.

    Attributes:
        bn: the batch norm.
        freeze_bn: its running statistics are used and stay as they are, in training too.
    """

    _BN: ClassVar[Any]
    _version = 2

    def _set_batch_norm(
        self, outputs: int, eps: float, momentum: float | None, freeze_bn: bool, device: Any
    ) -> None:
        self.freeze_bn = freeze_bn
        self.bn: Any = self._BN(outputs, eps, momentum, True, True, device=device)
        if self.bn.weight.device.type != "meta":
            self.reset_bn_parameters()
        self.bn.train(not freeze_bn)

    def reset_running_stats(self) -> None:
        """Running mean 0 and variance 1."""
        self.bn.reset_running_stats()

    def reset_bn_parameters(self) -> None:
        """Fresh statistics, gamma uniform in [0, 1), beta 0."""
        self.bn.reset_running_stats()
        nn.init.uniform_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)

    def update_bn_stats(self) -> Any:
        """Ends :meth:`freeze_bn_stats`. Returns the module."""
        self.freeze_bn = False
        self.bn.train(self.training)
        return self

    def freeze_bn_stats(self) -> Any:
        """Uses the running statistics as they are from now on, after ``train()`` too. Returns the
        module.
        """
        self.freeze_bn = True
        self.bn.eval()
        return self

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self.freeze_bn:
            self.bn.eval()
        return self

    @abstractmethod
    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes with a weight and a bias."""

    def _factor(self) -> Tensor:
        factor: Tensor = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        return factor

    def _folded_weight(self, factor: Tensor) -> Tensor:
        return self.weight * factor.reshape(-1, *[1] * (self.weight.dim() - 1))  # type: ignore[no-any-return]

    def _folded_bias(self, factor: Tensor) -> Tensor:
        centre = -self.bn.running_mean if self.bias is None else self.bias - self.bn.running_mean
        return centre * factor + self.bn.bias  # type: ignore[no-any-return]

    def _normalized(self, x: Tensor) -> Tensor:
        """Layer and batch norm of an input."""
        if x.dim() != self.weight.dim():
            raise ValueError(
                f"{type(self).__name__}: expected a batch with {self.weight.dim()} dimensions, "
                f"got shape {tuple(x.shape)}"
            )
        factor = self._factor()
        rounded = self.weight_fake_quant(self._folded_weight(factor))
        if not self.bn.training:
            return self._transform(x, rounded, self._folded_bias(factor))
        dead = factor.detach().abs() < torch.finfo(factor.dtype).tiny ** 0.5
        # On other devices, looking would wait for them.
        if not on_host(factor) or bool(dead.any()):
            columns = dead.reshape(-1, *[1] * (self.weight.dim() - 1))
            rounded = torch.where(columns, self.weight, rounded)
            factor = torch.where(dead, torch.ones_like(factor), factor)
        row = (1, -1, *[1] * (self.weight.dim() - 2))
        y = self._transform(x, rounded, None) / factor.reshape(row)
        if self.bias is not None:
            y = y + self.bias.reshape(row)
        return self.bn(y)  # type: ignore[no-any-return]

    @classmethod
    def _options_of(cls, mod: Any) -> dict[str, Any]:
        bn = mod[1]
        if bn.running_mean is None or bn.running_var is None or bn.weight is None:
            raise ValueError(
                f"{source_label(cls, mod)}: the batch norm must have affine=True and "
                "track_running_stats=True"
            )
        return {"eps": bn.eps, "momentum": bn.momentum}

    def _take_rest(self, mod: Any) -> None:
        self.bn = mod[1]

    def _float_layer(self) -> Any:
        """A float layer with the batch norm folded into it, in the arithmetic of ``forward``."""
        layer = self._LAYER(**{**self._arguments_of(self), "bias": True}, device="meta")
        factor = self._factor()
        self._give_parameters(layer, self._folded_weight(factor), self._folded_bias(factor))
        return layer.train(self.training)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        # Files of torch before 1.7 have the batch norm's tensors beside the weight.
        if (local_metadata.get("version") or 1) == 1:
            older = {"gamma": "weight", "beta": "bias"}
            for name in ("gamma", "beta", "running_mean", "running_var", "num_batches_tracked"):
                if prefix + name in state_dict:
                    value = state_dict.pop(prefix + name)
                    state_dict[f"{prefix}bn.{older.get(name, name)}"] = value
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def update_bn_stats(mod: nn.Module) -> None:
    """``mod.update_bn_stats()`` where ``mod`` has a batch norm; for ``model.apply``.

    Source: ``torch.ao.nn.intrinsic.qat.update_bn_stats``, which lets batch statistics in although
    the module is in eval mode.
    """
    if isinstance(mod, WithBatchNorm):
        mod.update_bn_stats()


def freeze_bn_stats(mod: nn.Module) -> None:
    """``mod.freeze_bn_stats()`` where ``mod`` has a batch norm; for ``model.apply``.

    Source: ``torch.ao.nn.intrinsic.qat.freeze_bn_stats``.
    """
    if isinstance(mod, WithBatchNorm):
        mod.freeze_bn_stats()
