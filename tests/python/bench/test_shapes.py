"""Shape files and ``--shape``."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.bench.cases import shapes
from octavo.bench.cases.shapes import ConvShape, LinearShape


def test_linear_layers() -> None:
    assert shapes.parse("128x768x3072") == LinearShape("128x768x3072", 128, 768, 3072)
    assert shapes.parse("  head   1X2x3 ") == LinearShape("head", 1, 2, 3)


def test_convolutions() -> None:
    full = "dw 1x8x9x7 out=16 kernel=3 stride=2 padding=1 groups=8 dilation=2"
    assert shapes.parse(full) == ConvShape("dw", 1, 8, 9, 7, 16, 3, 2, 1, 8, 2)
    short = shapes.parse("1x3x4x4 out=2 kernel=1")
    assert short == ConvShape("1x3x4x4_out=2_kernel=1", 1, 3, 4, 4, 2, 1, 1, 0, 1, 1)
    grow = shapes.parse("grow 1x8x1x1 out=4 kernel=2 stride=2 transposed=1")
    assert grow == ConvShape("grow", 1, 8, 1, 1, 4, 2, 2, 0, 1, 1, transposed=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("128x768", "2 sizes"),
        ("1x2x3x4x5", "5 sizes"),
        ("axbxc", "expected a linear layer MxKxN"),
        ("name", "expected a linear layer MxKxN"),
        ("0x1x1", "at least 1"),
        ("1x2x3 out=4", "nothing may follow"),
        ("1x3x4x4 kernel=1", "out="),
        ("1x3x4x4 out=2", "kernel="),
        ("1x3x4x4 out=2 kernel=1 pad=1", "'pad=1'"),
        ("1x3x4x4 out=2 kernel=-1", "'kernel=-1'"),
        ("1x3x4x4 out=2 kernel=1 groups=2", "groups=2"),
        ("1x3x4x4 out=2 kernel=7 padding=1", "larger than the image"),
        ("1x3x4x4 out=2 kernel=1 transposed=2", "transposed=2"),
        ("1x3x2x4 out=2 kernel=2 padding=2 transposed=1", "cuts off all 3 pixels"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(
    line: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(f"# a comment\n1x2x3\n\n{line}  # why\n")
    with pytest.raises(ValueError, match=r"mine\.txt:4: ") as error:
        shapes.read(str(file))
    assert message in str(error.value)


def test_a_name_cannot_mean_two_layers(tmp_path: Path) -> None:
    file = tmp_path / "twice.txt"
    file.write_text("a 1x2x3\na 1x2x3\na 1x2x4\n")
    with pytest.raises(ValueError, match=r"twice\.txt:3: .*'a'"):
        shapes.read(str(file))


def test_a_file_without_layers_or_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty\.txt: no layers"):
        shapes.read(str(file))
    with pytest.raises(ValueError, match=r"nowhere: no such file; .*gemm\.txt"):
        shapes.read("nowhere")


def test_the_packaged_files() -> None:
    files = shapes.built_in()
    wanted = {"gemm", "conv", "resnet50", "mobilenetv2", "unet", "bert_base", "llama_small", "dlrm"}
    assert {f"{name}.txt" for name in wanted} <= set(files)
    for name in files:
        assert shapes.read(name) == shapes.read(name.removesuffix(".txt"))
    decoder = shapes.read("llama_small")
    assert {shape.m for shape in decoder if isinstance(shape, LinearShape)} == {1, 2, 4, 8}
    assert sum(isinstance(shape, ConvShape) for shape in shapes.read("resnet50")) > 20


def test_layers_of_the_other_kind_are_named(tmp_path: Path) -> None:
    notes: list[str] = []
    found = shapes.select(LinearShape, ["resnet50"], ["2x3x4"], "gemm", notes.append)
    assert [shape.name for shape in found] == ["2x3x4", "classifier"]
    both = shapes.select(LinearShape, ["resnet50", "mobilenetv2"], [], "gemm", notes.append)
    assert [shape.name for shape in both] == ["resnet50/classifier", "mobilenetv2/classifier"]
    assert len(notes) == 2
    assert "convolutions" in notes[0]
    with pytest.raises(ValueError, match="no convolutions"):
        shapes.select(ConvShape, [], ["2x3x4"], "conv", notes.append)
    with pytest.raises(ValueError, match="--shape '1x2'"):
        shapes.select(LinearShape, [], ["1x2"], "gemm", notes.append)
