"""What is quantized how, in the words of the API that Octavo and torch.ao share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from octavo.bench.models import Parts

DEFAULTS = "defaults"
STATIC = {DEFAULTS: None, "7 bits": "fbgemm", "8 bits": "onednn"}
"""Bits of activations -> whose settings these are in ``get_default_qconfig``."""


@dataclass(frozen=True)
class Dynamic:
    """One scale for all activations of a call, of ``bits`` bits."""

    bits: int
    per_channel: bool  # weights


DYNAMIC: dict[str, Dynamic | None] = {
    DEFAULTS: None,
    "7 bits, weights per tensor": Dynamic(7, False),  # torch's defaults
    "7 bits, weights per channel": Dynamic(7, True),
    "8 bits, weights per channel": Dynamic(8, True),
}


@dataclass(frozen=True)
class Library:
    """Attributes:
    quantization: ``octavo.quantization`` or ``torch.ao.quantization``.
    functional: its ``FloatFunctional``.
    """

    quantization: Any
    functional: type[nn.Module]

    @property
    def parts(self) -> Parts:
        return Parts(self.quantization.QuantStub, self.quantization.DeQuantStub, self.functional)

    def static_qconfig(self, settings: str) -> Any:
        backend = STATIC[settings]
        make = self.quantization.get_default_qconfig
        return make() if backend is None else make(backend)

    def static_name(self, settings: str) -> str:
        """The name of settings by their bits, where ``settings`` are defaults that equal them."""
        equal, wanted = self.quantization.qconfig_equals, self.static_qconfig(settings)
        named = [name for name in STATIC if name != DEFAULTS]
        return next((n for n in named if equal(self.static_qconfig(n), wanted)), settings)

    def weight_observer(self, per_channel: bool) -> Any:
        tq = self.quantization
        return tq.default_per_channel_weight_observer if per_channel else tq.default_weight_observer
