"""Texts to search: the documentation that comes with Python.

A docstring's first line says in short what the rest of it says at length. So the first lines are
questions, the rests are passages, and the right answer to each question is known.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# fmt: off
_MODULES = [
    "argparse", "ast", "asyncio", "base64", "bisect", "calendar", "codecs", "collections",
    "concurrent.futures", "configparser", "contextlib", "copy", "csv", "datetime", "decimal",
    "difflib", "email.message", "enum", "fileinput", "fractions", "functools", "getpass", "glob",
    "gzip", "hashlib", "heapq", "hmac", "html", "http.client", "imaplib", "inspect", "io",
    "ipaddress", "itertools", "json", "locale", "logging", "mailbox", "math", "mimetypes", "netrc",
    "operator", "os", "pathlib", "pickle", "platform", "plistlib", "pprint", "queue", "random",
    "re", "sched", "secrets", "select", "shelve", "shlex", "shutil", "signal", "smtplib", "socket",
    "sqlite3", "statistics", "string", "struct", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "time", "timeit", "tokenize", "traceback", "types", "unittest", "urllib.parse",
    "urllib.request", "uuid", "wave", "weakref", "webbrowser", "xml.etree.ElementTree", "zipfile",
    "zlib",
]
# fmt: on
_FEWEST_WORDS = 5  # of a question; "Return the value." says too little
_LONGEST = 300  # characters of a passage


@dataclass(frozen=True)
class Texts:
    """Attributes:
    questions: one sentence each.
    passages: ``passages[i]`` is the answer to ``questions[i]``.
    calibration: other questions and passages, for static quantization.
    """

    questions: list[str]
    passages: list[str]
    calibration: list[str]


def load(pairs: int, calibration: int, seed: int) -> Texts:
    """So many questions with their passages, and so many pairs to calibrate with; fewer where this
    Python has fewer (some are built without docstrings).

    Raises:
        SystemExit: there are not even enough to calibrate.
    """
    found = list(dict(_pairs()).items())
    random.Random(seed).shuffle(found)
    if len(found) < 2 * calibration:
        raise SystemExit(f"this Python has {len(found)} docstrings of the kind that is needed")
    tests, rest = found[calibration:][:pairs], found[:calibration]
    return Texts(
        questions=[question for question, _ in tests],
        passages=[passage for _, passage in tests],
        calibration=[text for pair in rest for text in pair],
    )


def _pairs() -> Iterator[tuple[str, str]]:
    """Question and passage of every docstring that has both, each passage once."""
    seen = set()
    for name in _MODULES:
        for documented in _members(importlib.import_module(name)):
            head, _, rest = (inspect.getdoc(documented) or "").partition("\n\n")
            question, passage = " ".join(head.split()), " ".join(rest.split())[:_LONGEST]
            is_sentence = "(" not in question.partition(" ")[0]  # else a function's arguments
            words = len(question.split())
            if is_sentence and _FEWEST_WORDS <= words < len(passage.split()):
                if passage not in seen:
                    yield question, passage
                seen.add(passage)


def _members(module: ModuleType) -> Iterator[Any]:
    """Public functions and classes of a module, and what is public in these classes."""
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or not callable(member):
            continue
        yield member
        if inspect.isclass(member):
            inner = sorted(vars(member).items())
            yield from (part for key, part in inner if not key.startswith("_") and callable(part))
