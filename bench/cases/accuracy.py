"""Models that were trained, on real data: how good they are after quantization."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.bench.accuracy import digits, metrics, sentences
from octavo.bench.accuracy.settings import Library
from octavo.bench.cases.base import Case, Check, compare_floats
from octavo.bench.models import Parts

_LEAST_DB = 0.0  # how much is lost is what is to be found out; below, the result is wrong


@dataclass(frozen=True, kw_only=True)
class AccuracyCase(Case):
    """One model, quantized in one way. It is not timed.

    Attributes:
        model: ``digits`` or ``sentences``.
        mode: ``static`` or ``dynamic``.
        settings: a key of ``accuracy.settings.STATIC`` or ``DYNAMIC``.
        part: what is in int8, a key of ``accuracy.sentences.LAYERS``; of ``digits``, everything.
        epochs: that ``digits`` is trained.
        limit: test inputs; None: all there are.
    """

    kind: ClassVar[str] = "accuracy"
    model: str
    mode: str
    settings: str
    part: str = "everything"
    epochs: int = 6
    limit: int | None = None

    def network(self, parts: Parts) -> nn.Module:
        """A new float network, in eval mode."""
        if self.model == "digits":
            return digits.network(parts, self.epochs)
        return sentences.network(parts, None if self.mode == "dynamic" else self.part)

    def prepared(self, library: Library) -> Any:
        """A library's static form of the network, calibrated and ready for ``convert``."""
        tq = library.quantization
        network: Any = self.network(library.parts)
        if self.model == "digits":
            network = tq.fuse_modules(network, digits.fusable(network))
            network = network.to(memory_format=torch.channels_last)
        network.qconfig = library.static_qconfig(self.settings)
        if self.model == "sentences":
            for module in network.float_modules():
                module.qconfig = None
        observed = tq.prepare(network)
        for batch in (digits if self.model == "digits" else sentences).calibration():
            observed(batch)
        return observed

    def explicit(self, library: Library) -> AccuracyCase:
        """The same work under one name: defaults that equal other settings become those."""
        is_static = self.mode == "static"
        settings = library.static_name(self.settings) if is_static else self.settings
        return replace(self, name="", settings=settings)

    def outputs(self, network: nn.Module) -> Tensor:
        """Of all test inputs, one row each."""
        data = digits if self.model == "digits" else sentences
        return torch.cat([network(batch) for batch in data.inputs(self.limit)])

    def metrics(self, got: Tensor) -> dict[str, float]:
        """Keys of ``accuracy.metrics.HEADINGS``; the ratio only where there is noise."""
        wanted = reference(self)
        if self.model == "digits":
            found = {"top1": metrics.top1(got, digits.labels(self.limit))}
        else:
            found = {
                "mean_cosine": metrics.mean_cosine(got, wanted),
                "rank_correlation": metrics.rank_correlation(got, wanted),
            }
        ratio = metrics.sqnr_db(got, wanted)
        return found if math.isinf(ratio) else {**found, "sqnr_db": ratio}

    def check(self, got: Tensor) -> Check:
        return compare_floats(got, reference(self), _LEAST_DB)


def reference(case: AccuracyCase) -> Tensor:
    """What the float network gives."""
    return _reference(case.model, case.epochs, case.limit)


@lru_cache(maxsize=2)
def _reference(model: str, epochs: int, limit: int | None) -> Tensor:
    case = AccuracyCase(
        command="", name="", model=model, mode="dynamic", settings="", epochs=epochs, limit=limit
    )
    return case.outputs(case.network(Parts.plain()))


def missing_packages(model: str) -> list[str]:
    """Those that have a model's weights or data and are not installed."""
    packages = (digits if model == "digits" else sentences).PACKAGES
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
