#!/usr/bin/env python3
"""Checks the object files of the ISA folders.

The objects of one ISA define exactly one global symbol between them, ``octavo_isa_table_<name>``,
and no weak one: a weak function compiled with ``-mavx512f`` can become the copy that the whole
program calls. They call no C++ function outside themselves, for the same reason the other way
round, and run nothing when the library is loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

# nm's letters for defined global symbols; weak and unique ones are named separately.
STRONG = set("TDBRSGC")
WEAK = set("WVuvwi")
CONSTRUCTOR_SECTIONS = (".init_array", ".ctors")


def symbols(nm: str, path: str) -> list[tuple[str, str]]:
    """(letter, name) of every symbol of an object file."""
    output = subprocess.run([nm, "-P", path], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in output.splitlines() if line.strip()]
    return [(row[1], row[0]) for row in rows if len(row) >= 2]


def check(nm: str, isa: str, objects: list[str]) -> list[str]:
    """Everything that is wrong with the objects of one ISA."""
    problems = []
    strong = []
    for path in objects:
        with open(path, "rb") as file:
            content = file.read()
        for section in CONSTRUCTOR_SECTIONS:
            if section.encode() + b"\0" in content:
                problems.append(f"{path}: has a static constructor ({section})")
        for letter, name in symbols(nm, path):
            if letter in WEAK and letter not in "wv":
                problems.append(f"{path}: defines the weak symbol {name}")
            elif letter in STRONG:
                strong.append(name)
            elif letter == "U" and name.startswith("_Z"):
                problems.append(f"{path}: calls {name}, which is not its own")
    expected = f"octavo_isa_table_{isa}"
    if strong != [expected]:
        problems.append(f"{isa}: defines {strong or 'nothing'}; expected only {expected}")
    return problems


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nm", default="nm")
    options, rest = parser.parse_known_args(arguments)

    objects: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in rest:
        if word.startswith("--isa="):
            current = objects.setdefault(word.removeprefix("--isa="), [])
        elif current is None:
            parser.error(f"object file {word} comes before any --isa=<name>")
        else:
            current.append(word)
    if not objects:
        parser.error("no --isa=<name> <object>... given")

    problems = []
    for isa, paths in objects.items():
        if not paths:
            problems.append(f"{isa}: no object files")
        problems.extend(check(options.nm, isa, paths))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(objects)} ISAs checked: {', '.join(sorted(objects))}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
