"""The same network and settings in ``torch.ao``, where torch still has it.

Its names are looked up when the example runs: a torch without them means a table without its rows.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from shared import best_engine, torch_engine
from torch import Tensor, nn

from qat_mobilenet_parts.model import ConvBn, MobileNet, Parts
from qat_mobilenet_parts.training import logits_of


class Weights(Protocol):
    """How weights are quantized, see the example."""

    @property
    def bits(self) -> int: ...

    @property
    def per_channel(self) -> bool: ...


class NotInTorchError(Exception):
    """This torch has no such thing."""


@dataclass(frozen=True)
class TorchAo:
    """What of torch.ao is of use here, and the engine that it computes on."""

    tq: Any
    functional: Any
    freeze_bn_stats: Any
    engine: str

    @staticmethod
    def find() -> TorchAo:
        """The parts of this torch.

        Raises:
            NotInTorchError: it lacks them, or has no engine for them.
        """
        try:
            tq = importlib.import_module("torch.ao.quantization")
            functional = importlib.import_module("torch.ao.nn.quantized").FloatFunctional
            freeze = importlib.import_module("torch.ao.nn.intrinsic.qat").freeze_bn_stats
        except (ImportError, AttributeError) as error:
            raise NotInTorchError(f"torch {torch.__version__} has no torch.ao: {error}") from error
        engine = best_engine()
        if engine is None:
            raise NotInTorchError(f"torch {torch.__version__} has no engine for torch.ao")
        return TorchAo(tq, functional, freeze, engine)

    def _twin(self, model: MobileNet, fuser: Any, training: bool) -> nn.Module:
        """The network made of torch.ao's stubs, with the same weights, fused.

        ReLU6 stays by itself: torch.ao fuses ReLU only.
        """
        parts = Parts(self.tq.QuantStub, self.tq.DeQuantStub, self.functional)
        twin = MobileNet(model.shape, parts).train(training)
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        groups = [[f"{n}.0", f"{n}.1"] for n, m in twin.named_modules() if isinstance(m, ConvBn)]
        fused: nn.Module = fuser(twin, groups)
        return fused.to(memory_format=torch.channels_last)

    def _weight_observer(self, weights: Weights) -> Any:
        top = 2 ** (weights.bits - 1) - 1
        levels = {"dtype": torch.qint8, "quant_min": -top, "quant_max": top}
        if weights.per_channel:
            observer = self.tq.MovingAveragePerChannelMinMaxObserver
            levels["qscheme"] = torch.per_channel_symmetric
        else:
            observer = self.tq.MovingAverageMinMaxObserver
            levels["qscheme"] = torch.per_tensor_symmetric
        return observer.with_args(averaging_constant=1.0, **levels)

    def quantize_after_training(
        self, model: MobileNet, weights: Weights, images: Tensor
    ) -> nn.Module:
        """As the example's function of that name."""
        float_model = self._twin(model, self.tq.fuse_modules, training=False)
        float_model.qconfig = self.tq.QConfig(
            activation=self.tq.HistogramObserver.with_args(dtype=torch.quint8),
            weight=self._weight_observer(weights),
        )
        prepared = self.tq.prepare(float_model)
        logits_of(prepared, images)
        return self.tq.convert(prepared)

    def prepare_for_training(
        self, model: MobileNet, weights: Weights, device: torch.device
    ) -> nn.Module:
        """As the example's function of that name."""
        trainable = self._twin(model, self.tq.fuse_modules_qat, training=True).to(device)
        activation = self.tq.FakeQuantize.with_args(
            observer=self.tq.MovingAverageMinMaxObserver, dtype=torch.quint8
        )
        weight = self.tq.FakeQuantize.with_args(observer=self._weight_observer(weights))
        trainable.qconfig = self.tq.QConfig(activation=activation, weight=weight)
        return self.tq.prepare_qat(trainable)

    def settle(self, prepared: nn.Module, epoch: int, count: int) -> None:
        """As the example's function of that name."""
        if epoch + 1 == count // 3:
            prepared.apply(self.freeze_bn_stats)
        if epoch + 1 == count // 2:
            prepared.apply(self.tq.disable_observer)

    def to_int8(self, prepared: nn.Module) -> nn.Module:
        """As the example's function of that name."""
        return self.tq.convert(copy.deepcopy(prepared).cpu().eval())


@contextmanager
def computing(torch_ao: TorchAo) -> Iterator[None]:
    """With its engine, and without torch's announcements that it removes what is compared here."""
    with warnings.catch_warnings(), torch_engine(torch_ao.engine):
        warnings.simplefilter("ignore")
        yield
