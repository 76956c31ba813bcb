"""Inner loops of a function, and what is counted in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from octavo.bench.throughput import flow
from octavo.bench.throughput.assembly import Function, Instruction, Kind, kind, macs, stored_bytes


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, in the order of addresses."""

    function: str
    body: Sequence[Instruction]

    @property
    def macs(self) -> int:
        return sum(macs(one) for one in self.body)

    @property
    def stored_bytes(self) -> int:
        return sum(stored_bytes(one) for one in self.body)

    @property
    def counts(self) -> dict[str, int]:
        """Instructions of each kind."""
        found = Counter(kind(one) for one in self.body)
        return {one.value: found[one] for one in Kind}

    def of_kind(self, *wanted: Kind) -> list[Instruction]:
        return [one for one in self.body if kind(one) in wanted]


def innermost(function: Function) -> list[Loop]:
    """Loops that hold no other loop, in the order of addresses."""
    blocks = flow.blocks(function)
    bodies = list(flow.natural_loops(blocks).values())
    found = []
    for body in bodies:
        if not any(other < body for other in bodies):
            instructions = [one for index in sorted(body) for one in blocks[index].instructions]
            found.append(Loop(function.name, instructions))
    return sorted(found, key=lambda loop: loop.body[0].address)


def main_loop(function: Function) -> Loop | None:
    """The innermost loop that does most: by multiply-accumulates, then by bytes that it stores.
    None where a function has no loop that does either."""
    loops = [loop for loop in innermost(function) if loop.macs or loop.stored_bytes]
    return max(loops, key=lambda loop: (loop.macs, loop.stored_bytes), default=None)
