"""How the structure of a model is found, so that observers stand where kernels will need scales.

A :class:`Capture` is one way; :func:`octavo.quantize` tries several and reports why one did not do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from octavo.workflow.calibrate import Batch, CaptureError
from octavo.workflow.config import QuantConfig

__all__ = ["Capture", "CaptureError", "Captured"]

Configs = Mapping[str, QuantConfig | None]


@dataclass
class Captured:
    """A model whose structure is known.

    Attributes:
        prepared: with observers; calibration data goes through it.
        reference: the same without observers, to compare the int8 model with: its layers have the
            names of that one's.
        recipe: what to do to the float model again when an int8 checkpoint is loaded: plain values,
            lists and dicts.
        paths: path in the int8 model to path in the user's model, where they differ; None for
            modules that the user's model does not have.
        reasons: path in the user's model to why a module stays float, or what became of it.
        notes: what users should know.
    """

    prepared: nn.Module
    reference: nn.Module
    recipe: dict[str, Any]
    paths: dict[str, str | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Capture(ABC):
    """One way to find a model's structure.

    Attributes:
        name: for reports and files.
        restores_int8: whether :meth:`restore` gives an int8 model that takes the checkpoint as it
            is, or a float one whose modules are replaced by those of the checkpoint.
        quantizes_dynamically: whether it does what a DynamicQuantConfig says itself.
    """

    name = ""
    restores_int8 = False
    quantizes_dynamically = False

    @abstractmethod
    def capture(
        self, model: nn.Module, configs: Configs, example: Batch, others: Sequence[Batch] = ()
    ) -> Captured:
        """A prepared copy of a float model in eval mode.

        Args:
            model: not changed.
            configs: the config of each module by its path; None leaves it float, and a
                DynamicQuantConfig is for others to apply after ``convert``, unless
                :attr:`quantizes_dynamically`.
            example: the arguments of one call.
            others: more calls, which say what may vary in these.

        Raises:
            CaptureError: this way does not do for the model.
        """

    @abstractmethod
    def convert(self, captured: Captured) -> nn.Module:
        """The int8 model of a calibrated one. It may put another reference, paths, reasons and
        recipe into ``captured``, where these are not known before.
        """

    @abstractmethod
    def restore(self, model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
        """A copy of a float model whose modules have the names that they have in a checkpoint with
        this recipe.
        """
