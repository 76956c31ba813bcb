"""What a peer is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from octavo.bench.cases import AccuracyCase, CalibrationCase, Case, FakeQuantizeCase

# Kinds that libraries without a method for them have nothing to do with.
_OF_FEW = (AccuracyCase.kind, CalibrationCase.kind, FakeQuantizeCase.kind)


@dataclass(frozen=True)
class Unavailable:
    """A peer, or one case on it, that cannot be measured, and why."""

    reason: str


def _nothing() -> None:
    pass


def _as_it_is(output: Any) -> Tensor:
    return output  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Prepared:
    """A case, packed and ready.

    Attributes:
        call: does the work once; this is what is timed.
        result: what ``call`` returned as a tensor that ``Case.check`` takes: uint8 storage or
            float32 values.
        select: sets what is global in the library (an engine); runs, untimed, before each turn.
        kernel: what ran last, where the library tells.
        layers: times each part of the work, where there are parts to tell.
    """

    call: Callable[[], Any]
    result: Callable[[Any], Tensor] = _as_it_is
    select: Callable[[], None] = _nothing
    kernel: Callable[[], str | None] = lambda: None
    layers: Callable[[], list[dict[str, Any]]] = list


class Peer:
    """A library.

    A subclass has a method ``prepare_<kind>(case)`` for each kind of case that it can compute.

    Attributes:
        name: as ``--peers`` takes it.
        order: of the columns in reports.
        is_ours: a way of Octavo's; reports tell where its time in networks goes.
        most_copies: of the weights, for ``--cold``; a library that compiles each is slow to prepare
            many.
    """

    name: str
    order: int = 0
    is_ours: ClassVar[bool] = False
    most_copies: ClassVar[int] = 4096

    def missing(self) -> str | None:
        """Why the peer cannot be used at all here; None where it can."""
        return None

    def cap_note(self, isa: str) -> str | None:
        """How the peer fails to keep to a level although it was told to; None where it keeps to
        it."""
        return None

    def applies_to(self, kind: str) -> bool:
        """Whether it means anything to compare cases of this kind with the peer."""
        return kind not in _OF_FEW or hasattr(self, f"prepare_{kind}")

    def keeps_to(self, isa: str) -> bool:
        """Whether the peer can be told to keep to a level. Reports mark those that cannot."""
        return True

    def prepare(self, case: Case) -> Prepared | Unavailable:
        """The case on this peer, with weights of its own."""
        reason = self.missing()
        if reason is not None:
            return Unavailable(reason)
        method = getattr(self, f"prepare_{case.kind}", None)
        if method is None:
            return Unavailable(f"not compared on {case.kind} cases")
        prepared: Prepared | Unavailable = method(case)
        return prepared


def not_installed(*packages: str) -> str | None:
    """Names the packages that are not installed, and the extra that has them."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f'not installed: {", ".join(absent)} (pip install "octavo[peers]")'
