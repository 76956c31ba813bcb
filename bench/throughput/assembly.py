"""Disassembled functions: their instructions, what kind each is, and how much work it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_FUNCTION = re.compile(r"^([0-9a-f]+) <(.*)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_COMMENT = re.compile(r"\s*(//|# ).*$")
_SYMBOL = re.compile(r"\s*<.*>$")


class Kind(str, Enum):
    """What an instruction is for. ``ARITHMETIC`` are the multiply-accumulate instructions and those
    that add up 16-bit products; all else is overhead to them."""

    ARITHMETIC = "arithmetic"
    LOAD = "load"
    STORE = "store"
    VECTOR = "vector"
    SCALAR = "scalar"


@dataclass(frozen=True)
class Instruction:
    """One instruction as the disassembler writes it, without comments and symbols."""

    address: int
    mnemonic: str
    operands: str

    @property
    def text(self) -> str:
        return f"{self.mnemonic} {self.operands}".rstrip()

    @property
    def branch_target(self) -> int | None:
        """The address that a direct jump goes to; calls are none."""
        if not _JUMP.fullmatch(self.mnemonic):
            return None
        last = self.operands.rpartition(",")[2].strip()
        return int(last, 16) if _ADDRESS.fullmatch(last) else None


_JUMP = re.compile(r"b|b\.[a-z]+|bc\.[a-z]+|cbn?z|tbn?z|j[a-z]+")
_ADDRESS = re.compile(r"(0x)?[0-9a-f]+")


@dataclass(frozen=True)
class Function:
    name: str
    instructions: Sequence[Instruction]


def parse(text: str) -> list[Function]:
    """The functions of ``llvm-objdump -d --no-show-raw-insn -C`` (GNU's objdump writes alike)."""
    found: list[Function] = []
    current: list[Instruction] = []
    for line in text.splitlines():
        head = _FUNCTION.match(line)
        if head:
            current = []
            found.append(Function(_short(head[2]), current))
            continue
        match = _INSTRUCTION.match(line)
        if match and found:
            stripped = _SYMBOL.sub("", _COMMENT.sub("", match[2].replace("\t", " ")))
            mnemonic, _, operands = stripped.strip().partition(" ")
            current.append(Instruction(int(match[1], 16), mnemonic, operands.strip()))
    return found


def _short(name: str) -> str:
    """Without the namespaces that all kernels are in."""
    return name.replace("(anonymous namespace)::", "").replace("octavo::", "")


_DOT = re.compile(r"(s|u|us|su)dot")
_MATRIX = re.compile(r"(s|u|us)mmla")
_LONG = re.compile(r"[su]ml[as]l2?|[su]mull2?")
_PAIRWISE = re.compile(r"[su]adalp")
_SHORT = re.compile(r"ml[as]|mul")
_X86_DOT = re.compile(r"\{?\w*\}?\s*vpdpbusds?|vpdpwssds?")
_BYTES_OF_REGISTER = {"b": 1, "h": 2, "s": 4, "d": 8, "q": 16, "x": 16, "y": 32, "z": 64}


def macs(instruction: Instruction) -> int:
    """Multiply-accumulates of integers that an instruction does, all lanes together."""
    name, operands = instruction.mnemonic, instruction.operands
    if _DOT.fullmatch(name):
        return 16 if ".4s" in operands else 8
    if _MATRIX.fullmatch(name):
        return 32
    if _LONG.fullmatch(name) or _SHORT.fullmatch(name):
        return _lanes(operands)
    if _X86_DOT.fullmatch(name):
        lanes = _register_bytes(operands) // 4
        return lanes * (4 if "bus" in name else 2)
    return 0


def kind(instruction: Instruction) -> Kind:
    """What an instruction is for."""
    name, operands = instruction.mnemonic, instruction.operands
    if macs(instruction) or _PAIRWISE.fullmatch(name):
        return Kind.ARITHMETIC
    if re.fullmatch(r"ldn?[pu]?r?(u?r)?s?[bhw]*|ld[1-4]r?|prfu?m|prefetch\w*", name):
        return Kind.LOAD
    if re.fullmatch(r"stn?[pu]?r?(u?r)?[bh]?|st[1-4]", name):
        return Kind.STORE
    if re.fullmatch(r"v\w+", name):
        return _x86_kind(operands)
    if re.search(r"\bv\d+\.|\b[qds]\d+\b", operands):
        return Kind.VECTOR
    return Kind.SCALAR


def stored_bytes(instruction: Instruction) -> int:
    """What a store of vectors writes; 0 for others."""
    if kind(instruction) is not Kind.STORE:
        return 0
    operands = instruction.operands.partition("[")[0]
    if "%" in operands:
        return _register_bytes(operands)
    if instruction.mnemonic.startswith("st1") or ".16b" in operands:
        return 16 * len(re.findall(r"v\d+\.", operands))
    names = re.findall(r"\b([bhsdq])\d+\b", operands)
    return sum(_BYTES_OF_REGISTER[name] for name in names)


def _x86_kind(operands: str) -> Kind:
    parts = re.findall(r"[^,(]*(?:\([^)]*\))?(?:\{[^}]*\})*", operands)
    parts = [part.strip() for part in parts if part.strip()]
    if parts and "(" in parts[-1]:
        return Kind.STORE
    loads = any("(" in part for part in parts)
    return Kind.LOAD if loads and len(parts) == 2 else Kind.VECTOR


def _lanes(operands: str) -> int:
    first = re.match(r"v\d+\.(\d+)[hsd]", operands)
    return int(first[1]) if first else 0


def _register_bytes(operands: str) -> int:
    found = re.findall(r"%([xyz])mm\d+", operands)
    return max((_BYTES_OF_REGISTER[name] for name in found), default=0)
