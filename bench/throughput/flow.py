"""Control flow of a function: its basic blocks and natural loops.

A jump back to lower addresses need not close a loop: compilers put rare paths behind everything
else, from where they jump back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from octavo.bench.throughput.assembly import Function, Instruction

_ALWAYS = re.compile(r"b|jmpq?")
_LEAVES = re.compile(r"ret[aq]?\w*|br\w*|udf?|ud2")


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    instructions: Sequence[Instruction]
    successors: Sequence[int]


def blocks(function: Function) -> list[Block]:
    """The basic blocks, in the order of addresses."""
    all_of_it = function.instructions
    starts = _starts(all_of_it)
    number = {all_of_it[start].address: index for index, start in enumerate(starts)}
    found = []
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else len(all_of_it)
        last = all_of_it[end - 1]
        following = []
        if not (_ALWAYS.fullmatch(last.mnemonic) or _LEAVES.fullmatch(last.mnemonic)):
            following += [index + 1] if index + 1 < len(starts) else []
        if last.branch_target in number:
            following.append(number[last.branch_target])
        found.append(Block(all_of_it[start:end], following))
    return found


def _starts(instructions: Sequence[Instruction]) -> list[int]:
    place = {one.address: index for index, one in enumerate(instructions)}
    starts = {0} if instructions else set()
    for index, one in enumerate(instructions):
        target = one.branch_target
        if target is not None and target in place:
            starts.add(place[target])
        if target is not None or _LEAVES.fullmatch(one.mnemonic):
            starts.add(index + 1)
    return sorted(start for start in starts if start < len(instructions))


def natural_loops(graph: Sequence[Block]) -> dict[int, frozenset[int]]:
    """Head -> blocks of each loop: those from which a jump back to the head is reached without
    passing it, where the head is passed on every way to that jump."""
    dominators = _dominators(graph)
    before: dict[int, list[int]] = {}
    for index, block in enumerate(graph):
        for following in block.successors:
            before.setdefault(following, []).append(index)
    loops: dict[int, frozenset[int]] = {}
    for index, block in enumerate(graph):
        for head in block.successors:
            if head in dominators.get(index, ()):
                body = {head}
                waiting = [index]
                while waiting:
                    one = waiting.pop()
                    if one not in body:
                        body.add(one)
                        waiting += [p for p in before.get(one, []) if p in dominators]
                loops[head] = loops.get(head, frozenset()) | body
    return loops


def _dominators(graph: Sequence[Block]) -> dict[int, set[int]]:
    """For each block that is reached, those that every way to it passes, itself included."""
    order, seen, stack = [], {0}, [(0, iter(graph[0].successors))] if graph else []
    while stack:
        index, successors = stack[-1]
        following = next((s for s in successors if s not in seen), None)
        if following is None:
            order.append(index)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(graph[following].successors)))
    order.reverse()
    before: dict[int, list[int]] = {index: [] for index in order}
    for index in order:
        for following in graph[index].successors:
            before[following].append(index)
    found = {index: set(order) for index in order}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for index in order[1:]:
            common = set.intersection(*(found[p] for p in before[index])) | {index}
            if common != found[index]:
                found[index], changed = common, True
    return found
