"""The shapes of inputs that an exported graph was made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

__all__ = ["InputShapes"]

Size = int | str | None


class InputShapes(nn.Module):
    """Refuses inputs of shapes that a graph was not exported for: with them its constant sizes
    would give wrong results, or errors that name none of the inputs.

    Args:
        names: of the inputs.
        shapes: of each a list of sizes: a number, a name that has one value wherever it occurs, or
            None for any; None for inputs that are not checked.

    Raises:
        ValueError: in ``forward``, for an input of another shape.
    """

    _is_impure = True  # nothing uses its result, and torch.fx keeps it all the same

    def __init__(self, names: Sequence[str], shapes: Sequence[Sequence[Size] | None]) -> None:
        super().__init__()
        self.names = list(names)
        self.shapes = [None if shape is None else list(shape) for shape in shapes]

    @classmethod
    def of(cls, inputs: Sequence[Node]) -> InputShapes | None:
        """What the inputs of a graph say; None where they say nothing."""
        shapes = [_sizes(node.meta.get("val")) for node in inputs]
        if all(shape is None for shape in shapes):
            return None
        return cls([node.name for node in inputs], shapes)

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}: {'any' if shape is None else shape}"
            for name, shape in zip(self.names, self.shapes, strict=True)
        )

    def forward(self, *inputs: Any) -> None:
        known: dict[str, int] = {}
        for name, shape, value in zip(self.names, self.shapes, inputs, strict=True):
            if shape is None or not isinstance(value, Tensor):
                continue
            found = value.shape
            fits = len(found) == len(shape) and all(
                wanted is None
                or (wanted if isinstance(wanted, int) else known.setdefault(wanted, size)) == size
                for wanted, size in zip(shape, found, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"input '{name}' must have shape [{', '.join(map(_text, shape))}], got "
                    f"{list(found)}; the graph was exported for that (torch.export's "
                    "dynamic_shapes says which sizes may vary)"
                )


def _sizes(value: Any) -> list[Size] | None:
    if not isinstance(value, Tensor):
        return None
    found: list[Size] = []
    for size in value.shape:
        name = str(size)
        # A symbol with one value reads as a number too.
        found.append(int(name) if name.isdecimal() else name if name.isidentifier() else None)
    return found


def _text(size: Size) -> str:
    return "any" if size is None else str(size)
