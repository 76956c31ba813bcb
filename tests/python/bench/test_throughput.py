"""The throughput model: what it reads in a disassembly, which loop it takes, and its place in a
report. Where LLVM's tools are installed, what their models say of loops that are known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from octavo.bench import cli, machine
from octavo.bench.commands.base import Suite
from octavo.bench.report import markdown
from octavo.bench.report import throughput as report
from octavo.bench.throughput import flow, mca, record
from octavo.bench.throughput.assembly import Instruction, Kind, kind, macs, parse, stored_bytes
from octavo.bench.throughput.kernels import CPUS, KERNELS, MAIN_TILE, Kernel
from octavo.bench.throughput.loops import innermost, main_loop
from octavo.bench.throughput.mca import Timing
from octavo.bench.throughput.published import PUBLISHED

# Two nested loops, whose inner one multiplies, a loop that stores, and a rare path behind the end
# that jumps back without being a loop.
_TEXT = """
table.o:	file format elf64-littleaarch64

0000000000000000 <void octavo::(anonymous namespace)::Tile<2, false>::rows<6>(octavo::Args const&)>:
       0:      	cbz	x1, 0x40 <tile+0x40>
       4:      	mov	x3, x2
       8:      	ldr	q0, [x0], #16
       c:      	ldp	q1, q2, [x4]            // a pair
      10:      	sdot	v16.4s, v1.16b, v0.4b[0]
      14:      	sdot	v17.4s, v2.16b, v0.4b[0]
      18:      	eor	v0.16b, v0.16b, v3.16b
      1c:      	subs	x3, x3, #1
      20:      	b.ne	0x8 <tile+0x8>
      24:      	subs	x1, x1, #1
      28:      	b.ne	0x4 <tile+0x4>
      2c:      	str	q16, [x5], #16
      30:      	subs	x6, x6, #1
      34:      	b.ne	0x2c <tile+0x2c>
      38:      	tbnz	w1, #0, 0x48 <tile+0x48>
      3c:      	add	x0, x0, #1
      40:      	ret
      44:      	udf	#0
      48:      	sdot	v16.4s, v1.16b, v0.16b
      4c:      	sdot	v17.4s, v1.16b, v0.16b
      50:      	sdot	v18.4s, v1.16b, v0.16b
      54:      	b	0x3c <tile+0x3c>

0000000000000060 <octavo::straight()>:
      60:      	ret
"""


def _one(text: str) -> Instruction:
    mnemonic, _, operands = text.partition(" ")
    return Instruction(0, mnemonic, operands)


def test_functions_and_instructions_are_read() -> None:
    tile, straight = parse(_TEXT)
    assert tile.name == "void Tile<2, false>::rows<6>(Args const&)"
    assert [one.address for one in tile.instructions] == list(range(0, 0x58, 4))
    assert tile.instructions[3].text == "ldp q1, q2, [x4]"
    assert tile.instructions[8].branch_target == 8
    assert tile.instructions[14].branch_target == 0x48
    assert tile.instructions[16].branch_target is None
    assert [one.text for one in straight.instructions] == ["ret"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("sdot v0.4s, v1.16b, v2.4b[3]", 16),
        ("usdot v0.4s, v1.16b, v2.16b", 16),
        ("sdot v0.2s, v1.8b, v2.8b", 8),
        ("smmla v0.4s, v1.16b, v2.16b", 32),
        ("usmmla v0.4s, v1.16b, v2.16b", 32),
        ("smull v0.8h, v1.8b, v2.8b", 8),
        ("smlal2 v0.8h, v1.16b, v2.16b", 8),
        ("umlal v0.4s, v1.4h, v2.h[1]", 4),
        ("smlal2 v0.4s, v1.8h, v2.h[1]", 4),
        ("mla v0.8h, v1.8h, v2.8h", 8),
        ("sadalp v0.4s, v1.8h", 0),
        ("fmla v0.4s, v1.4s, v2.4s", 0),
        ("mul x0, x1, x2", 0),
        ("madd w0, w1, w2, w3", 0),
        ("vpdpbusd %zmm0, %zmm1, %zmm2", 64),
        ("vpdpbusd 0x40(%rax){1to16}, %zmm1, %zmm2", 64),
        ("vpdpbusd %ymm0, %ymm1, %ymm2", 32),
        ("vpdpwssd %ymm0, %ymm1, %ymm2", 16),
        ("vpaddd %zmm0, %zmm1, %zmm2", 0),
    ],
)
def test_products_of_an_instruction(text: str, count: int) -> None:
    assert macs(_one(text)) == count
    assert (kind(_one(text)) is Kind.ARITHMETIC) == (count > 0 or text.startswith("sadalp"))


@pytest.mark.parametrize(
    ("text", "expected", "stored"),
    [
        ("uadalp v0.4s, v1.8h", Kind.ARITHMETIC, 0),
        ("ldr q0, [x1, x2]", Kind.LOAD, 0),
        ("ldur q0, [x1, #-8]", Kind.LOAD, 0),
        ("ldp d4, d5, [x5, #16]", Kind.LOAD, 0),
        ("ld1 { v0.d }[1], [x9]", Kind.LOAD, 0),
        ("ld1r { v0.4s }, [x9]", Kind.LOAD, 0),
        ("ldrsw x0, [x1]", Kind.LOAD, 0),
        ("ldrb w0, [x1]", Kind.LOAD, 0),
        ("prfm pldl1keep, [x5, #448]", Kind.LOAD, 0),
        ("str q0, [x1], #16", Kind.STORE, 16),
        ("stp q0, q1, [x1]", Kind.STORE, 32),
        ("stur d0, [x1, #-8]", Kind.STORE, 8),
        ("str s3, [x1]", Kind.STORE, 4),
        ("st1 { v0.16b, v1.16b }, [x1]", Kind.STORE, 32),
        ("stp x29, x30, [sp]", Kind.STORE, 0),
        ("strb w3, [x1]", Kind.STORE, 0),
        ("eor v0.16b, v1.16b, v2.16b", Kind.VECTOR, 0),
        ("fmov d0, x1", Kind.VECTOR, 0),
        ("trn1 v0.2d, v1.2d, v2.2d", Kind.VECTOR, 0),
        ("add x0, x0, #16", Kind.SCALAR, 0),
        ("subs x0, x0, #1", Kind.SCALAR, 0),
        ("lsl x0, x0, #1", Kind.SCALAR, 0),
        ("b.ne 0x40", Kind.SCALAR, 0),
        ("vmovdqu64 (%rax), %zmm1", Kind.LOAD, 0),
        ("vmovdqu64 %zmm1, 0x40(%rax,%rcx,1)", Kind.STORE, 64),
        ("vmovdqu8 %ymm1, (%rax){%k1}", Kind.STORE, 32),
        ("vpaddd (%rax), %zmm1, %zmm2", Kind.VECTOR, 0),
        ("vpbroadcastd (%rax,%rcx,1), %zmm1", Kind.LOAD, 0),
        ("addq $0x40, %rax", Kind.SCALAR, 0),
    ],
)
def test_kinds_of_instructions(text: str, expected: Kind, stored: int) -> None:
    assert kind(_one(text)) is expected
    assert stored_bytes(_one(text)) == stored


def test_loops_are_those_that_go_round() -> None:
    tile, straight = parse(_TEXT)
    loops = innermost(tile)
    assert [(one.body[0].address, one.body[-1].address) for one in loops] == [
        (0x8, 0x20),
        (0x2C, 0x34),
    ]
    chosen = main_loop(tile)
    assert chosen is not None
    assert chosen.body == loops[0].body
    assert chosen.macs == 32
    assert chosen.counts == {"arithmetic": 2, "load": 2, "store": 0, "vector": 1, "scalar": 2}
    assert loops[1].stored_bytes == 16
    assert main_loop(straight) is None
    # The rare path at 0x48 has more products, and jumps back, but never comes round again.
    heads = flow.natural_loops(flow.blocks(tile))
    assert len(heads) == 3


def test_a_loop_has_all_its_paths() -> None:
    text = """
0000000000000000 <f()>:
   0: ldr q0, [x0], #16
   4: cbz w1, 0x10
   8: smull v1.8h, v0.8b, v2.8b
   c: b 0x14
  10: smull2 v1.8h, v0.16b, v2.16b
  14: subs x1, x1, #1
  18: b.ne 0x0
  1c: ret
"""
    (function,) = parse(text)
    (loop,) = innermost(function)
    assert [one.address for one in loop.body] == list(range(0, 0x1C, 4))
    assert loop.macs == 16


def test_arithmetic_alone_has_registers_of_its_own() -> None:
    two = [_one("sdot v3.4s, v1.16b, v0.4b[2]"), _one("smlal v3.4s, v1.4h, v2.h[5]")]
    lines = mca.independent(two * 12, "aarch64").splitlines()
    assert lines[:2] == ["sdot v8.4s, v0.16b, v0.4b[2]", "smlal v9.4s, v0.4h, v0.h[5]"]
    assert len({line.split(".")[0].split()[1] for line in lines}) == 24
    x86 = [_one("vpdpbusd 0x40(%rax,%rcx,4){1to16}, %zmm1, %zmm2")]
    assert mca.independent(x86, "x86_64") == "vpdpbusd %zmm0, %zmm0, %zmm8\n"


def test_jumps_lead_to_the_head() -> None:
    body = [_one("add x0, x0, #1"), _one("cbnz x0, 0x40"), _one("b.ne 0x40")]
    assert mca.source(body).splitlines()[1:] == [
        "add x0, x0, #1",
        "cbnz x0, .Lhere",
        "b.ne .Lhere",
    ]


def _entry(what: str, level: str = "neon_dotprod", cycles: float = 51.0) -> record.Entry:
    multiplies = what == MAIN_TILE
    counts = {"arithmetic": 96, "load": 22, "store": 0, "vector": 6, "scalar": 4}
    return record.Entry(
        *(level, what, "Tile::rows", 1536 if multiplies else 0, 0 if multiplies else 16),
        *(counts, {cpu: Timing(cycles, 48.0) for cpu in CPUS[level]}),
        {"created": "2026-01-02", "commit": "0123456789ab", "llvm": "19.1", "compiler": "GCC 12"},
    )


def test_what_is_on_record_stays_until_it_is_modelled_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert record.read(path) == []
    record.keep([_entry("add"), _entry(MAIN_TILE)], path)
    record.keep([_entry(MAIN_TILE, cycles=50.0), _entry("add", level="neon")], path)
    found = record.read(path)
    assert [(one.level, one.what) for one in found] == [
        ("neon_dotprod", MAIN_TILE),
        ("neon", "add"),
        ("neon_dotprod", "add"),
    ]
    assert found[0] == _entry(MAIN_TILE, cycles=50.0)
    path.write_text('{"format": "octavo-bench-throughput", "version": 1, "loops": [{}]}')
    with pytest.raises(ValueError, match=r"record\.json: damaged"):
        record.read(path)


def test_the_page_gets_the_section_in_one_place(tmp_path: Path) -> None:
    page = "# Measured\n\n## First\n\n- a\n\n## Not measured\n\n- b: ## not a heading\n"
    entries = [_entry(MAIN_TILE), _entry("add")]
    once = markdown.with_throughput(page, entries)
    titles = [line for line in once.splitlines() if line.startswith("## ")]
    assert titles == ["## First", *(f"## {title}" for title in report.TITLES), "## Not measured"]
    assert "| neon_dotprod | GEMM, main tile | 1536 | 128 = 96 + 22 + 0 + 6 + 4 | 0.083 |" in once
    assert "| 51.0 | 30.1 | 32.0 | 94 % |" in once
    assert "KleidiAI 16x4" in once
    assert "- Main tiles below 85 %: none." in once
    assert once.startswith(page.partition("## Not")[0])
    assert once.endswith(page.rpartition("## Not")[2])
    assert markdown.with_throughput(once, entries) == once
    slower = markdown.with_throughput(once, [_entry(MAIN_TILE, cycles=64.0)])
    assert "Main tiles below 85 %: neon_dotprod on cortex-a76: 75 %" in slower
    assert report.TITLES[1] not in slower
    assert markdown.with_throughput(once, []).split("\n## ")[0] == page.split("\n## ")[0]
    end = markdown.with_throughput("# Measured\n\n## First\n\n- a\n", entries)
    assert end.count(report.TITLES[0]) == 1
    assert "- a\n\n## " in end


def test_objects_are_those_of_the_newest_build(tmp_path: Path) -> None:
    for age, build in enumerate(("new", "old")):
        for level in ("neon", "neon_dotprod")[: 2 - age]:
            folder = tmp_path / build / f"csrc/CMakeFiles/octavo_isa_{level}.dir/isa/{level}"
            folder.mkdir(parents=True)
            (folder / "table.cpp.o").write_bytes(b"\0GCC: (A 1) 12.2.0\0" * (2 - age))
            os.utime(folder / "table.cpp.o", (1e9 - age, 1e9 - age))
    found = record.objects([tmp_path / "old", tmp_path / "new"])
    assert set(found) == {"neon", "neon_dotprod"}
    assert all("new" in path.parts for path in found.values())
    assert record._commit(found["neon"]) is None
    here = Path(__file__).parent
    (tmp_path / "new" / "CMakeCache.txt").write_text(f"A:B=c\nCMAKE_HOME_DIRECTORY:X={here}\n")
    assert record._commit(found["neon"]) == machine.commit_of(here)


def test_what_is_on_record_is_of_known_kernels() -> None:
    known = {(kernel.level, kernel.what) for kernel in KERNELS}
    assert len(known) == len(KERNELS)
    for entry in record.read():
        assert (entry.level, entry.what) in known
        assert set(entry.timings) == set(CPUS[entry.level])
        assert entry.instructions > 0
        assert bool(entry.macs) or bool(entry.stored_bytes)
    for loop in PUBLISHED:
        assert set(loop.timings) == set(CPUS[loop.level])
        assert all(0 < timing.fraction <= 1 for timing in loop.timings.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep"], "--keep needs --objects"),
        (["--objects", "."], "no object files of kernels below it"),
        (["--markdown", "nothing.md"], "no such report"),
    ],
)
def test_wrong_values_end_with_a_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["throughput", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_reports_show_what_is_on_record_where_there_is_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.json"
    record.keep([_entry(MAIN_TILE)], path)
    before = path.read_bytes()
    monkeypatch.setattr(record, "PATH", path)
    monkeypatch.setattr(Suite, "run", lambda self, options: 0)
    assert cli.main(["report", "--objects", str(tmp_path)]) == 0
    assert "no object files of kernels below it; build first" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_kernels_without_a_loop_are_named() -> None:
    files = {"neon_dotprod": Path("a.o")}
    kernels = [Kernel("neon_dotprod", what, "x") for what in (MAIN_TILE, "add")]
    kernels.append(Kernel("neon", "add", "x"))
    assert record.missing(files, [_entry("add")], kernels) == [f"neon_dotprod: {MAIN_TILE}"]


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mca.shutil, "which", lambda name: None)
    mca.find.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"llvm-mca: not found .* install LLVM's tools"):
            mca.find("llvm-mca")
    finally:
        mca.find.cache_clear()


def _has_tools() -> bool:
    try:
        return bool(mca.find("llvm-mca") and mca.find("llvm-objdump"))
    except ValueError:
        return False


@pytest.mark.skipif(not _has_tools(), reason="needs llvm-mca and llvm-objdump")
class TestWithLlvm:
    def test_cycles_of_a_known_loop(self) -> None:
        loop = main_loop(parse(_TEXT)[0])
        assert loop is not None
        # Each accumulator waits for itself only: one iteration a cycle, two products by two pipes.
        timing = mca.time_loop(loop, "aarch64", "neoverse-n1")
        assert timing.ideal == pytest.approx(1.0, abs=0.1)
        assert timing.cycles >= timing.ideal
        # A chain through every product: it takes the products' latency, not their rate.
        chain = [replace(one, operands=one.operands.replace("v17", "v16")) for one in loop.body]
        slower = mca.time_loop(replace(loop, body=chain), "aarch64", "neoverse-n1")
        assert slower.ideal == timing.ideal
        assert slower.cycles > timing.cycles

    def test_objects_of_a_build(self, tmp_path: Path) -> None:
        path = tmp_path / "table.cpp.o"
        path.write_bytes(b"no object")
        with pytest.raises(ValueError, match="llvm-objdump"):
            mca.disassemble(path)
        assert record.examine({"neon": path}, [Kernel("avx2", "other", "x")]) == []
