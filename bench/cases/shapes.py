"""Shape files: layers of real models, one a line (format: ``bench/README.md``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

_SIZES = re.compile(r"\d+(x\d+)+")
_CONV_KEYS = {
    "out": 0,
    "kernel": 0,
    "stride": 1,
    "padding": 0,
    "groups": 1,
    "dilation": 1,
    "transposed": 0,
}


@dataclass(frozen=True)
class LinearShape:
    """``MxKxN``."""

    name: str
    m: int
    k: int
    n: int


@dataclass(frozen=True)
class ConvShape:
    """``NxCxHxW`` and the layer's attributes."""

    name: str
    batch: int
    channels: int
    height: int
    width: int
    out: int
    kernel: int
    stride: int
    padding: int
    groups: int
    dilation: int
    transposed: int = 0


Shape = LinearShape | ConvShape


def parse(text: str) -> Shape:
    """One layer: ``[NAME] MxKxN``, or ``[NAME] NxCxHxW out=.. kernel=.. [stride=.. padding=..
    groups=.. dilation=.. transposed=1]``.

    Raises:
        ValueError: any other form; the message says what is wrong, not where.
    """
    words = text.split()
    name = words.pop(0) if len(words) > 1 and not _SIZES.fullmatch(words[0].lower()) else ""
    if not words or not _SIZES.fullmatch(words[0].lower()):
        raise ValueError(
            f"{text.strip()!r}: expected a linear layer MxKxN, such as 128x768x3072, or a "
            "convolution NxCxHxW out=.. kernel=.."
        )
    sizes = [int(size) for size in words[0].lower().split("x")]
    if min(sizes) < 1:
        raise ValueError(f"{words[0]!r}: sizes must be at least 1")
    if len(sizes) == 3:
        if len(words) > 1:
            raise ValueError(f"{' '.join(words[1:])!r}: nothing may follow the MxKxN of a layer")
        return LinearShape(name or words[0].lower(), *sizes)
    if len(sizes) != 4:
        raise ValueError(
            f"{words[0]!r}: {len(sizes)} sizes; a linear layer has 3 (MxKxN), a convolution's "
            "input 4 (NxCxHxW)"
        )
    return _conv(name or "_".join(words).lower(), sizes, words[1:])


def _conv(name: str, sizes: list[int], words: Sequence[str]) -> ConvShape:
    found = dict(_CONV_KEYS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in _CONV_KEYS or not value.isdigit():
            raise ValueError(
                f"{word!r}: expected KEY=NUMBER with KEY one of {', '.join(_CONV_KEYS)}"
            )
        found[key] = int(value)
    for key in ("out", "kernel", "stride", "groups", "dilation"):
        if found[key] < 1:
            raise ValueError(f"a convolution needs {key}=, at least 1")
    shape = ConvShape(name, *sizes, **found)
    if shape.channels % shape.groups or shape.out % shape.groups:
        raise ValueError(f"groups={shape.groups} must divide the input's channels and out=")
    if shape.transposed > 1:
        raise ValueError(f"transposed={shape.transposed}: must be 0 or 1")
    reach = shape.dilation * (shape.kernel - 1) + 1
    if shape.transposed:
        least = (min(shape.height, shape.width) - 1) * shape.stride + reach
        if least <= 2 * shape.padding:
            raise ValueError(f"padding={shape.padding} cuts off all {least} pixels of the output")
    elif min(shape.height, shape.width) + 2 * shape.padding < reach:
        raise ValueError(f"a kernel that reaches over {reach} pixels is larger than the image")
    return shape


def parse_lines(lines: Iterable[str], source: str) -> list[Shape]:
    """Every layer of a file; ``#`` starts a comment.

    Raises:
        ValueError: a bad line, named by ``source`` and number; no layer at all; two layers of one
            name that differ.
    """
    shapes: dict[str, Shape] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            shape = parse(text)
        except ValueError as error:
            raise ValueError(f"{source}:{number}: {error}") from None
        if shapes.get(shape.name, shape) != shape:
            raise ValueError(f"{source}:{number}: a second, different layer named {shape.name!r}")
        shapes[shape.name] = shape
    if not shapes:
        raise ValueError(f"{source}: no layers in this file")
    return list(shapes.values())


def built_in() -> list[str]:
    """Names of the files that come with the package."""
    folder = resources.files("octavo.bench").joinpath("shapes")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".txt"))


def read(name: str) -> list[Shape]:
    """A file by path, or one that comes with the package by its name, with or without ``.txt``.

    Raises:
        ValueError: no such file, or as :func:`parse_lines`.
    """
    path = Path(name)
    if path.is_file():
        return parse_lines(path.read_text().splitlines(), name)
    packaged = name if name.endswith(".txt") else f"{name}.txt"
    if packaged in built_in():
        entry = resources.files("octavo.bench").joinpath("shapes").joinpath(packaged)
        return parse_lines(entry.read_text().splitlines(), packaged)
    raise ValueError(
        f"--shapes {name}: no such file; with the package come {', '.join(built_in())}"
    )


def select(
    kind: type[Shape],
    files: Sequence[str],
    singles: Sequence[str],
    default: str,
    tell: Callable[[str], None],
) -> list[Shape]:
    """The layers of one kind that the options ask for.

    Args:
        files, singles: values of ``--shapes`` and ``--shape``; where both are empty, ``default``.
            Names of layers are preceded by their file's where there are several.
        tell: gets a sentence about layers of the other kind that files hold.

    Raises:
        ValueError: as :func:`read` and :func:`parse`, or nothing of this kind.
    """
    found: list[Shape] = []
    for text in singles:
        try:
            found.append(parse(text))
        except ValueError as error:
            raise ValueError(f"--shape {error}") from None
    for name in files or ([] if singles else [default]):
        prefix = f"{Path(name).stem}/" if len(files) > 1 else ""
        found += [replace(shape, name=prefix + shape.name) for shape in read(name)]
    wanted = list(dict.fromkeys(shape for shape in found if isinstance(shape, kind)))
    left = len(found) - sum(isinstance(shape, kind) for shape in found)
    noun = "linear layers" if kind is LinearShape else "convolutions"
    if not wanted:
        raise ValueError(f"no {noun} among the {len(found)} layers asked for")
    if left:
        other = "convolutions" if kind is LinearShape else "linear layers"
        tell(f"left out: {left} {other} in the shape files; this command measures {noun}")
    return wanted
