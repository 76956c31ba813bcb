"""llvm-objdump and llvm-mca, which tell what a loop consists of and how long it takes a CPU."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from octavo.bench.throughput.assembly import Function, Instruction, Kind, parse
from octavo.bench.throughput.loops import Loop

_ITERATIONS = (200, 400)  # the difference leaves out how a loop begins and ends
_ATTRIBUTES = {"aarch64": "+dotprod,+i8mm,+fullfp16", "x86_64": ""}
_FIRST, _COUNT = 8, 24  # registers for results; lower ones are never written
_OLDEST = 16  # release of LLVM whose disassembler knows all that kernels use
_RELEASES = range(30, _OLDEST - 1, -1)


@dataclass(frozen=True)
class Timing:
    """Cycles of one iteration in the steady state.

    Attributes:
        cycles: with the loop's dependencies.
        ideal: of its arithmetic alone, each instruction independent of the others: the multiply
            pipes never idle.
    """

    cycles: float
    ideal: float

    @property
    def fraction(self) -> float:
        return min(self.ideal / self.cycles, 1.0)


@lru_cache
def find(tool: str) -> str:
    """The newest installed release of one of LLVM's programs, which may be called ``llvm-mca-19``.

    Raises:
        ValueError: there is none.
    """
    for name in (*(f"{tool}-{release}" for release in _RELEASES), tool):
        path = shutil.which(name)
        if path and _release(path) >= _OLDEST:
            return path
    raise ValueError(
        f"{tool}: not found in release {_OLDEST} or newer; install LLVM's tools (Debian: llvm-19)"
    )


def version() -> str:
    """LLVM's, of which the models are."""
    found = re.search(r"LLVM version ([\d.]+)", _run([find("llvm-mca"), "--version"]))
    return found[1] if found else "unknown"


def _release(path: str) -> int:
    found = re.search(r"LLVM version (\d+)", _run([path, "--version"]))
    return int(found[1]) if found else 0


def disassemble(path: Path) -> tuple[str, list[Function]]:
    """The architecture of an object file (as in LLVM's triples), and its functions.

    Raises:
        ValueError: it is none, or is for another architecture.
    """
    text = _run([find("llvm-objdump"), "-d", "--no-show-raw-insn", "-C", str(path)])
    kinds = {"elf64-x86-64": "x86_64", "elf64-littleaarch64": "aarch64"}
    found = re.search(r"file format (\S+)", text)
    if not found or found[1] not in kinds:
        raise ValueError(f"{path}: not an object file for {' or '.join(kinds.values())}")
    return kinds[found[1]], parse(text)


def time_loop(loop: Loop, architecture: str, cpu: str) -> Timing:
    """What LLVM's model of a CPU says of a loop.

    The ideal of a loop without multiply-accumulates is that of its vector instructions.
    """
    needed = loop.of_kind(Kind.ARITHMETIC) or loop.of_kind(Kind.VECTOR)
    times = -(-_COUNT // len(needed))  # so that no register is needed again soon
    ideal = _cycles(independent([*needed] * times, architecture), architecture, cpu) / times
    return Timing(_cycles(source(loop.body), architecture, cpu), ideal)


def source(body: Sequence[Instruction]) -> str:
    """Instructions for the assembler; jumps lead to one label."""
    lines = [".Lhere:"]
    for one in body:
        if one.branch_target is None:
            lines.append(one.text)
        else:
            kept = one.operands.rpartition(",")[0]
            lines.append(f"{one.mnemonic} {kept + ', ' if kept else ''}.Lhere")
    return "\n".join(lines) + "\n"


def independent(instructions: Sequence[Instruction], architecture: str) -> str:
    """The same instructions, each on registers that none of its neighbours writes."""
    lines = []
    for index, one in enumerate(instructions):
        own = _FIRST + index % _COUNT
        if architecture == "x86_64":
            lines.append(_independent_x86(one, own))
            continue
        result, comma, sources = one.operands.partition(",")
        operands = re.sub(r"\b([vqds])\d+\b", rf"\g<1>{own}", result) + comma
        operands += re.sub(r"\b([vqds])\d+\b", r"\g<1>0", sources)
        lines.append(f"{one.mnemonic} {operands}")
    return "\n".join(lines) + "\n"


def _independent_x86(one: Instruction, own: int) -> str:
    sources, comma, result = one.operands.rpartition(",")
    width = re.search(r"%([xyz])mm", result)
    register = f"%{width[1] if width else 'z'}mm"
    sources = re.sub(r"[^,]*\([^)]*\)(\{[^}]*\})?", f"{register}0", sources)
    sources = re.sub(r"%([xyz])mm\d+", r"%\g<1>mm0", sources)
    result = re.sub(r"%([xyz])mm\d+", rf"%\g<1>mm{own}", result)
    mnemonic = re.sub(r"^\{\w+\}\s*", "", one.mnemonic)
    return f"{mnemonic} {sources}{comma}{result}"


def _cycles(text: str, architecture: str, cpu: str) -> float:
    few, many = (_total_cycles(text, architecture, cpu, count) for count in _ITERATIONS)
    return (many - few) / (_ITERATIONS[1] - _ITERATIONS[0])


def _total_cycles(text: str, architecture: str, cpu: str, iterations: int) -> int:
    command = [find("llvm-mca"), f"-mtriple={architecture}-linux-gnu", f"-mcpu={cpu}", "-json"]
    command += [f"-iterations={iterations}"]
    if _ATTRIBUTES[architecture]:
        command.append(f"-mattr={_ATTRIBUTES[architecture]}")
    document = json.loads(_run(command, text))
    return int(document["CodeRegions"][0]["SummaryView"]["TotalCycles"])


def _run(command: Sequence[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr.strip() or "failed").splitlines()[0]
        raise ValueError(f"{Path(command[0]).name}: {problem}")
    return done.stdout
