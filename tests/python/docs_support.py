"""What the tests of README.md and docs/ share: pages, and the blocks of code in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# Blocks of these languages are for reading. Python is "python" and commands are "sh", so that no
# block escapes the tests by another name.
FOR_READING = {"c", "cmake", "cpp", "diff", "ini", "json", "markdown", "text", "toml", "yaml"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})(?P<info>[^`\n]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file, relative to the repository.
        line: of the block's first line, from 1.
        language: what stands behind the fence; "" where nothing does.
        text: the lines of the block.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """File and line, as editors take them."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages for users, relative to the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if "_build" not in path.parts]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, those in directives too."""
    return list(_blocks(page, text_of(page).splitlines(), 0))


def _blocks(page: str, lines: list[str], before: int) -> Iterator[Block]:
    """The blocks of lines that `before` others precede."""
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        number += 1
        if not opened or opened["fence"].startswith(":"):
            continue
        indent, fence = len(opened["indent"]), opened["fence"]
        first = number
        while number < len(lines) and not re.fullmatch(rf" *{fence}`* *", lines[number]):
            number += 1
        assert number < len(lines), f"{page}:{before + first}: the block has no end"
        within = [line[indent:] for line in lines[first:number]]
        language = opened["info"].strip()
        yield Block(page, before + first + 1, language, "".join(f"{line}\n" for line in within))
        if language.startswith("{"):
            yield from _blocks(page, within, before + first)
        number += 1


def commands(block: Block) -> list[str]:
    """The commands of a block of sh: without comments, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line for line in (_without_comment(line) for line in joined.splitlines()) if line]


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ")


def imports(source: str) -> set[str]:
    """The modules that Python code imports, by their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
