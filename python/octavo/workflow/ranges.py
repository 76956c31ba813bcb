"""The scales of a calibrated graph as plain values, and a graph that was never calibrated with
them: what becomes of a graph depends on which of them are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from octavo.quantization.pt2e.observers import ReusedObserver, is_observer
from octavo.quantization.utils import is_per_channel
from octavo.workflow.calibrate import CaptureError

__all__ = ["ranges_of", "set_ranges"]


class KnownRange(nn.Module):
    """An observer that knows scale and zero point.

    Args:
        observer: whose dtype and range it has.
    """

    def __init__(self, observer: Any, scale: float, zero_point: int) -> None:
        super().__init__()
        for name in ("dtype", "quant_min", "quant_max", "qscheme"):
            setattr(self, name, getattr(observer, name, None))
        self._pair = (scale, zero_point)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, of shape [1]."""
        scale, zero_point = self._pair
        return torch.tensor([scale]), torch.tensor([zero_point])

    def forward(self, x: Tensor) -> Tensor:
        return x


def _with_one_scale(prepared: GraphModule) -> Iterator[tuple[str, str, Any]]:
    """Name of the module, name of the node, and observer, of the static ones with one scale, which
    graphs have as numbers. Scales per channel are tensors, which checkpoints hold.
    """
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        observer: Any = prepared.get_submodule(str(node.target))
        own = is_observer(observer) and not isinstance(observer, ReusedObserver)
        static = not getattr(observer, "is_dynamic", False)
        if own and static and not is_per_channel(getattr(observer, "qscheme", None)):
            yield str(node.target), node.args[0].name, observer


def ranges_of(prepared: GraphModule) -> dict[str, list[Any]]:
    """By the name of each observer with one scale the node that it observes, scale, zero point.
    Those that saw nothing are left out; ``convert_pt2e`` names them.
    """
    result = {}
    for name, node, observer in _with_one_scale(prepared):
        if getattr(observer, "is_calibrated", True):
            scale, zero_point = observer.calculate_qparams()
            result[name] = [node, float(scale.item()), int(zero_point.item())]
    return result


def set_ranges(prepared: GraphModule, ranges: Mapping[str, Sequence[Any]]) -> None:
    """Gives a prepared graph what :func:`ranges_of` found in another one of the same model.

    Raises:
        CaptureError: the graphs differ.
    """
    known: dict[int, KnownRange] = {}
    wanted = {name: str(node) for name, (node, _, _) in ranges.items()}
    found = {name: (node, observer) for name, node, observer in _with_one_scale(prepared)}
    if wanted != {name: node for name, (node, _) in found.items()}:
        raise CaptureError(
            "torch.export gives another graph of it than the one that was quantized; the model's "
            f"code, its package or torch (here {torch.__version__}) are of another version"
        )
    for name, (_, scale, zero_point) in ranges.items():
        observer = found[name][1]
        own = known.setdefault(id(observer), KnownRange(observer, scale, zero_point))
        prepared._modules[name] = own
    for module in prepared._modules.values():
        if isinstance(module, ReusedObserver) and id(module.observer) in known:
            module._source = (known[id(module.observer)],)
