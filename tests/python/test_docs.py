"""README.md and the pages of docs/: their Python runs, their commands exist, their links lead
somewhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import octavo
from docs_support import FOR_READING, ROOT, Block, blocks, imports, pages, text_of

# Packages of the extras in pyproject.toml that a page may need: where one is missing, as it may be
# beside a torch or a Python that it does not support, the page is skipped.
OPTIONAL = {"matplotlib", "rich", "safetensors", "skimage", "sklearn", "torchao", "transformers"}


MESSAGES = "docs/errors.md"


def _python(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def _missing(needed: set[str]) -> list[str]:
    """Which modules are not there, of those that may be missing: optional packages, and torch.ao,
    which torch is about to remove."""
    may = {name for name in needed if name.partition(".")[0] in OPTIONAL}
    may |= {name for name in needed if f"{name}.".startswith("torch.ao.")}
    return sorted(name for name in may if not _is_there(name))


def _is_there(name: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _module_name(page: str) -> str:
    return "page_" + re.sub(r"\W", "_", page)


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    """What a page may change in the process is put back."""
    threads, dtype, grad = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )
    environment = dict(os.environ)
    engine = getattr(torch.backends.quantized, "engine", None)  # None: a torch without torch.ao's
    with octavo.backend.force(octavo.backend.current()):
        yield
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    if engine is not None:
        torch.backends.quantized.engine = engine


def _module(page: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The namespace of a page's blocks, where what looks up the module of a class finds it."""
    module = types.ModuleType(_module_name(page))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def _run(block: Block, module: types.ModuleType) -> None:
    # Tracebacks, and what reads the source of functions, find the lines of the page.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(ROOT / block.page), "exec"), vars(module))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize("page", [p for p in pages() if p != MESSAGES and _python(p)])
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: set[str] = set().union(*(imports(block.text) for block in _python(page)))
    if missing := _missing(needed):
        pytest.skip(f"{page} needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    module = _module(page, monkeypatch)
    with warnings.catch_warnings():
        if any(f"{name}.".startswith("torch.ao.") for name in needed):
            # Torch says at each call that this is deprecated. Other pages must not warn.
            warnings.simplefilter("ignore")
        else:  # deprecations are shown to those whose code it is, and that is the page's
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("error", "", DeprecationWarning, _module_name(page))
        for block in _python(page):
            _run(block, module)
    if page == "README.md":
        state = torch.load("int8.pt", weights_only=True)
        assert all(type(value) is torch.Tensor for value in state.values())


def _shown(text: str) -> str:
    """Text on one line, since pages break lines where they are full."""
    return " ".join(text.split())


@pytest.mark.usefixtures("_as_it_was")
def test_messages_are_those_that_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block of text in the page of errors is what the block of Python above it prints; three
    dots stand for anything."""
    monkeypatch.chdir(tmp_path)
    module = _module(MESSAGES, monkeypatch)
    compared = 0
    for block in blocks(MESSAGES):
        if block.language == "python":
            capsys.readouterr()
            _run(block, module)
        elif block.language == "text":
            pattern = re.escape(_shown(block.text)).replace(re.escape("..."), ".*")
            printed = _shown(capsys.readouterr().out)
            assert re.fullmatch(pattern, printed), f"{block.place}: {printed}"
            compared += 1
    assert compared > 15


@pytest.mark.parametrize("page", pages())
def test_blocks_say_what_they_are(page: str) -> None:
    """Python is in blocks of python, and commands in those of sh, which the tests run and know."""
    known = FOR_READING | {"python", "sh"}
    strange = [
        f"{block.place}: {block.language or 'no language'}"
        for block in blocks(page)
        if block.language not in known and not _is_directive(block.language)
    ]
    assert strange == []


def _is_directive(language: str) -> bool:
    """Whether it is a directive, and none that shows code by itself."""
    return bool(re.match(r"\{(?!code)", language))


# Links of the pages in docs/ are Sphinx's to check.
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    dead = []
    for target, anchor in LINK.findall(text_of(page)):
        path = ROOT / (target or page)
        if not path.exists() or (anchor and anchor[1:] not in _anchors(path)):
            dead.append(target + anchor)
    assert dead == []


def _anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.*?) *$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_version_is_the_same_everywhere() -> None:
    version = re.search(r'^version = "(.*)"$', text_of("pyproject.toml"), re.MULTILINE)
    assert version
    assert f"version: {version[1]}\n" in text_of("CITATION.cff")
    assert re.search(rf"^## \[{re.escape(version[1])}\]", text_of("CHANGELOG.md"), re.MULTILINE)


def test_what_may_be_missing_is_known() -> None:
    assert _missing({"torch", "octavo.nn", "torch.ao.no_such_module"}) == [
        "torch.ao.no_such_module"
    ]
    assert _missing({"no_such_package"}) == []  # is no optional package: the page must fail
    assert imports(
        "import a.b\nfrom c.d import e\ntry:\n    import f\nexcept ImportError: pass"
    ) == {
        "a.b",
        "c.d",
        "f",
    }
