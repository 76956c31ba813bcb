"""The graph modules that prepare and convert make. They survive deep copies and pickles with what
they know about themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import fx, nn

from octavo.quantization.fuse_modules import POST_HOOKS, PRE_HOOKS
from octavo.quantization.report import QuantizationReport

__all__ = [
    "FusedGraphModule",
    "ObservedGraphModule",
    "ObservedStandaloneGraphModule",
    "QuantizedGraphModule",
]

_PRESERVED = "_user_preserved_attributes"  # key in meta that torch.fx knows
_OWN = "octavo"  # key in meta


class _KeepingGraphModule(fx.GraphModule):
    """A GraphModule whose ``meta`` is pickled too.

    Args:
        root: where modules and parameters come from.
        graph: what to compute.
        preserved_attr_names: attributes of ``root`` to keep though the graph does not use them.
    """

    def __init__(
        self,
        root: nn.Module | dict[str, Any],
        graph: fx.Graph,
        preserved_attr_names: Collection[str] = (),
    ) -> None:
        super().__init__(root, graph, type(self).__mro__[1].__name__)
        if isinstance(root, nn.Module):
            adopt_hooks(self, root)
        preserve(
            self,
            {name: getattr(root, name) for name in preserved_attr_names if hasattr(root, name)},
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What prepare and convert note about the model."""
        facts: dict[str, Any] = self.meta.setdefault(_OWN, {})
        return facts

    def __deepcopy__(self, memo: Any) -> Any:
        result = super().__deepcopy__(memo)
        adopt_hooks(result, self)
        return result

    def __reduce__(self) -> Any:
        rebuild, arguments = super().__reduce__()
        return _restored, (rebuild, arguments, _base(type(self)), self.meta)


def _base(cls: type) -> type:
    """The class in this module that a GraphModule, each of which has a class of its own, is of."""
    return next(base for base in cls.__mro__ if base.__module__ == __name__ and base in _CLASSES)


def _restored(rebuild: Any, arguments: Any, cls: Any, meta: dict[str, Any]) -> fx.GraphModule:
    """What a pickled graph module calls when it is read."""
    plain = rebuild(*arguments)
    result: fx.GraphModule = cls(plain, plain.graph)
    for name, value in vars(plain).items():
        if name not in vars(result):
            setattr(result, name, value)
    result.meta = meta
    result.training = plain.training
    preserve(result, meta.get(_PRESERVED, {}))
    return result


class FusedGraphModule(_KeepingGraphModule):
    """What ``fuse_fx`` returns."""


class ObservedGraphModule(_KeepingGraphModule):
    """What ``prepare_fx`` and ``prepare_qat_fx`` return."""


class ObservedStandaloneGraphModule(ObservedGraphModule):
    """A standalone module inside of what ``prepare_fx`` returns."""


class QuantizedGraphModule(_KeepingGraphModule):
    """What ``convert_fx`` returns.

    Attributes:
        quantization_report: what became of each module and operation, and why.
    """

    @property
    def quantization_report(self) -> QuantizationReport:
        report: QuantizationReport = self.facts.get("report", QuantizationReport())
        return report


_CLASSES = (
    FusedGraphModule,
    ObservedGraphModule,
    ObservedStandaloneGraphModule,
    QuantizedGraphModule,
)


def adopt_hooks(model: nn.Module, source: nn.Module) -> None:
    """Gives a model the forward hooks that are on another one as a whole. torch.fx drops them."""
    for table in (*PRE_HOOKS, *POST_HOOKS):
        getattr(model, table).update(getattr(source, table))


def preserve(model: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Gives a model attributes that deep copies of it have too."""
    for name, value in attributes.items():
        setattr(model, name, value)
    if isinstance(model, fx.GraphModule) and attributes:
        model.meta.setdefault(_PRESERVED, {}).update(attributes)
