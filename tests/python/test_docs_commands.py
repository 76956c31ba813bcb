"""The commands in README.md, CONTRIBUTING.md and docs/: cheap ones run; of others there is a rule
that says where they run, and checks that what they name exists.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from docs_support import ROOT, blocks, commands, pages, text_of
from octavo import cli

# tomllib came with Python 3.11.
PYPROJECT = text_of("pyproject.toml")
TREE = {".ci", "bench", "csrc", "docs", "examples", "python", "tests"}


def _places() -> dict[str, list[str]]:
    """Every command of the pages, and where it stands."""
    found: dict[str, list[str]] = {}
    for page in pages():
        for block in blocks(page):
            if block.language == "sh":
                for command in commands(block):
                    found.setdefault(command, []).append(block.place)
    return found


PLACES = _places()
RUN_HERE = {
    "octavo info",
    "octavo info --json",
    "octavo --version",
    "OCTAVO_ISA=scalar octavo info",
}


# --- What a command names must exist: one function for each kind of command. ---


def _pip(words: list[str]) -> None:
    """Extras are those of pyproject.toml; otherwise, files."""
    declared = set(
        re.findall(r"^(\w+) = \[", _table("project.optional-dependencies"), re.MULTILINE)
    )
    for word in words:
        for extras in re.findall(r"(?:^\.|octavo)\[(.*)\]$", word):
            assert set(extras.split(",")) <= declared, word


def _table(name: str) -> str:
    match = re.search(rf"^\[{re.escape(name)}\]\n(.*?)^\[", PYPROJECT, re.DOTALL | re.MULTILINE)
    assert match, name
    return match[1]


def _octavo(words: list[str]) -> None:
    """The command line takes the arguments."""
    if words[:1] == ["bench"]:
        _bench(words[1:])
    else:
        cli._parser().parse_args(words)


def _bench(words: list[str]) -> None:
    pytest.importorskip("rich")
    from octavo.bench.commands import all_commands

    parser = argparse.ArgumentParser()
    adder = parser.add_subparsers(required=True)
    for command in all_commands().values():
        command.add_arguments(adder.add_parser(command.name))
    if not words or words[0].startswith("-"):
        words = ["report", *words]
    parser.parse_args(words)


def _python(words: list[str]) -> None:
    """``python -m MODULE`` or ``python FILE``."""
    if words[0] != "-m":
        return _file(words)
    module, *rest = words[1:]
    known: dict[str, Check] = {"octavo": _octavo, "pytest": _pytest, "octavo.bench": _bench}
    if module in known:
        return known[module](rest)
    assert module in {"venv", "pip", "build"}, module


def _file(words: list[str]) -> None:
    """A program of this repository. An example has a test, and the options that are given."""
    path = ROOT / words[0]
    assert path.is_file(), words[0]
    if words[0].startswith("examples/"):
        name = Path(words[0]).parts[1].removesuffix(".py")  # of the file, or of its folder
        test = ROOT / "tests" / "examples" / f"test_{name}.py"
        assert test.is_file(), f"{words[0]} has no test"
        sources = _options_of(path)
        for word in words[1:]:
            if word.startswith("--") and word != "--help":
                assert f'"{word.partition("=")[0]}"' in sources, word


def _options_of(path: Path) -> str:
    """The source of an example with that of what examples share."""
    parts = path.parent / f"{path.stem}_parts"
    files = [path, *parts.rglob("*.py"), *(ROOT / "examples" / "shared").glob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _torchrun(words: list[str]) -> None:
    program = next(index for index, word in enumerate(words) if word.endswith(".py"))
    _file(words[program:])


def _pytest(words: list[str]) -> None:
    for word in words:
        name = word.partition("::")[0]
        if name.partition("/")[0] in TREE:
            assert (ROOT / name).exists(), word
            for part in word.split("::")[1:]:
                assert part.partition("[")[0] in (ROOT / name).read_text(encoding="utf-8"), word
    if "-m" in words:
        markers = re.findall(r"\w+", words[words.index("-m") + 1])
        assert all(m in ("and", "or", "not") or f'"{m}: ' in PYPROJECT for m in markers), words


def _cmake(words: list[str]) -> None:
    """Presets and options exist."""
    presets = json.loads(text_of("CMakePresets.json"))
    names = {
        preset["name"] for kind in presets.values() if isinstance(kind, list) for preset in kind
    }
    sources = text_of("CMakeLists.txt")
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == "--preset":
            assert value in names, value
        if word.startswith("-DOCTAVO_"):
            assert word[2:].partition("=")[0] in sources, word


def _built(words: list[str]) -> None:
    """A program that CMake builds."""
    name = Path(words[0]).name
    lists = [*(ROOT / "tests").rglob("CMakeLists.txt"), *(ROOT / "bench").rglob("CMakeLists.txt")]
    assert any(name in file.read_text(encoding="utf-8") for file in lists), words[0]


def _repository_file(words: list[str]) -> None:
    path = ROOT / words[0]
    assert path.is_file(), words[0]
    assert os.name != "posix" or os.access(path, os.X_OK), words[0]


def _pre_commit(words: list[str]) -> None:
    assert words[0] in {"install", "run"}, words
    assert (ROOT / ".pre-commit-config.yaml").is_file()


def _nothing(words: list[str]) -> None:
    """A tool of the system."""


Check = Callable[[list[str]], None]

# How a command begins (a path, if it ends with "/"); what checks the rest; where it runs.
RULES: list[tuple[str, Check, str]] = [
    ("octavo", _octavo, "info: here. demo: .ci/run, README. bench: tests/python/bench"),
    ("pip install", _pip, ".ci/run: README's commands, and its virtual environment"),
    ("pytest", _pytest, ".ci/run: README's tests"),
    ("python", _python, ".ci/run: tests of the examples"),
    ("torchrun", _torchrun, ".ci/run: tests of the examples"),
    ("sphinx-build", _nothing, ".ci/run: documentation"),
    ("cmake", _cmake, ".ci/run: C++ tests"),
    ("ctest", _cmake, ".ci/run: C++ tests"),
    ("build/", _built, ".ci/run: C++ tests, which build it"),
    ("tests/", _repository_file, ".ci/run: ARM, other levels of x86. wheels: by hand"),
    (".ci/", _repository_file, "itself"),
    ("ruff", _nothing, ".ci/run: linters"),
    ("mypy", _nothing, ".ci/run: linters"),
    ("clang-format", _nothing, ".ci/run: linters"),
    ("pre-commit", _pre_commit, "on developers' machines; what it calls: .ci/run, linters"),
    ("python3 -m venv", _nothing, ".ci/run: virtual environment"),
    (". .venv/bin/activate", _nothing, ".ci/run: virtual environment"),
    ("export", _nothing, "sets a variable for the commands below it"),
]


def _check(command: str) -> None:
    """Checks the parts of a command line, which && may join.

    Raises:
        AssertionError: no rule knows one of them, or it names what does not exist.
    """
    place = f"{command!r} ({', '.join(PLACES.get(command, []))})"
    for part in command.split(" && "):
        words = shlex.split(re.sub(r"^(?:[A-Z_]+=\S*\s+)+", "", part))  # without variables
        try:
            check, rest = _rule(words)
            check(rest)
        except AssertionError as error:
            raise AssertionError(f"{place}: {error}") from error
        except SystemExit as ended:  # of argparse, with 0 for --help
            if ended.code:
                raise AssertionError(f"{place}: not what the command line takes") from ended


def _rule(words: list[str]) -> tuple[Check, list[str]]:
    for begin, check, _ in RULES:
        if begin.endswith("/"):
            if words[0].startswith(begin):
                return check, words
        elif words[: len(begin.split())] == begin.split():
            return check, words[len(begin.split()) :]
    raise AssertionError(f"no rule of {Path(__file__).name} knows {words}")


@pytest.mark.parametrize("command", sorted(PLACES))
def test_a_rule_knows_it(command: str) -> None:
    _check(command)


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf build",
        "pip install '.[no_such_extra]'",
        "octavo inform",
        "octavo bench no_such_command",
        "pytest tests/no_such_file.py",
        "pytest -m no_such_marker",
        "pytest tests/python/test_docs.py::no_such_test",
        "python examples/no_such_example.py",
        "python -m no_such_module",
        "cmake --preset no_such_preset",
        "cmake -DOCTAVO_NO_SUCH_OPTION=ON",
        "build/dev/no_such_program",
        "tests/no_such_file",
        "octavo info && octavo inform",
    ],
)
def test_commands_that_do_not_exist_are_found(command: str) -> None:
    with pytest.raises(AssertionError):
        _check(command)


@pytest.mark.parametrize("command", sorted(PLACES.keys() & RUN_HERE))
def test_it_runs(command: str, tmp_path: Path) -> None:
    before, _, arguments = command.partition("octavo ")
    environment = dict(variable.split("=") for variable in before.split())
    ended = subprocess.run(
        [sys.executable, "-m", "octavo", *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "octavo" in ended.stdout


def test_the_two_commands_that_are_promised() -> None:
    first = [commands(block) for block in blocks("README.md") if block.language == "sh"][:2]
    assert first == [
        ['pip install "torch==2.13.0" ".[demo]" && octavo demo'],
        ['pip install "torch==2.13.0" ".[test]" && pytest'],
    ]
