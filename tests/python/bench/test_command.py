"""The whole command on tiny shapes: what it measures, writes and refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import backend
from octavo import cli as octavo_cli
from octavo.bench import cli, document, peers
from octavo.bench.report.csv import COLUMNS

Run = dict[str, Any]
_IN_REPORT = {
    *("gemm", "linear", "linear_function", "conv", "elementwise", "normalize", "image", "overhead"),
    *("attention", "rnn", "embedding", "fake_quantize", "calibration", "model", "accuracy"),
}


def _absent_level() -> str | None:
    absent = [isa for isa in backend.built() if isa not in backend.supported()]
    return absent[0] if absent else None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of everything that the report holds, on the best level; where there is one that this
    CPU lacks, that is asked for too."""
    folder = tmp_path_factory.mktemp("bench")
    levels = [isa for isa in (backend.supported()[0], _absent_level()) if isa]
    files = {kind: folder / f"out.{kind}" for kind in ("json", "csv", "png", "md")}
    arguments = ["--quick", "--isa", ",".join(levels), "--json", str(files["json"])]
    arguments += ["--csv", str(files["csv"]), "--plot", str(files["png"])]
    status = cli.main([*arguments, "--markdown", str(files["md"])])
    return {"status": status, "document": json.loads(files["json"].read_text()), **files}


def test_document_follows_its_schema(run: Run) -> None:
    assert run["status"] == 0
    assert document.problems(run["document"]) == []
    assert document.read(run["json"]) == run["document"]


def test_schema_refuses_what_is_wrong(run: Run) -> None:
    damages: list[Callable[[Any], object]] = [
        lambda d: d.pop("machine"),
        lambda d: d["cases"][0]["times"]["octavo"].update(median_us=0),
        lambda d: d["cases"][0].update(surprise=1),
        lambda d: d["levels"][0].update(status="perhaps"),
        lambda d: next(case for case in d["cases"] if "accuracy" in case)["accuracy"][
            "octavo"
        ].update(guess=1.0),
        lambda d: d["levels"][0]["roofs"].pop("compute"),
        lambda d: d.update(version=2),
    ]
    for damage in damages:
        damaged = json.loads(run["json"].read_text())
        damage(damaged)
        assert document.problems(damaged)


def test_everything_is_measured(run: Run) -> None:
    cases = run["document"]["cases"]
    assert {case["command"] for case in cases} >= _IN_REPORT
    isa = backend.supported()[0]
    for case in cases:
        assert case["isa"] == isa
        if case["command"] == "gemm":
            assert case["times"]["octavo"]["check"] == "exact"
            assert case["kernel"] in backend.kernels(isa)
            assert case["gops"] > 0
            assert 0 < case["fraction_of_peak"] < 2
            assert ("fraction_of_bandwidth" in case) == (case["parameters"]["m"] == 1)
        for name, ratio in case["ratios"].items():
            ours, theirs = (case["times"][who]["median_us"] for who in ("octavo", name))
            assert ratio == pytest.approx(theirs / ours)
    (level,) = [level for level in run["document"]["levels"] if level["isa"] == isa]
    assert {"L1", "DRAM"} <= set(level["roofs"]["bandwidth"])


def test_every_peer_is_timed_or_named_with_a_reason(run: Run) -> None:
    known = peers.all_peers()
    for case in run["document"]["cases"]:
        wanted = {name for name, peer in known.items() if peer.applies_to(case["kind"])}
        done = case["accuracy"] if case["command"] == "accuracy" else case["times"]
        assert set(done) | set(case["unavailable"]) == {"octavo", *wanted}
        assert not set(done) & set(case["unavailable"])
        assert bool(case["times"]) == ("accuracy" not in case)
        assert all(case["unavailable"].values())
    text = run["md"].read_text()
    for name, peer in known.items():
        if peer.missing():
            assert f": {peer.missing()}" in text
            assert re.search(rf"Not measured, .*\b{name}\b", text)


def test_the_command_is_told_without_folders(tmp_path: Path) -> None:
    arguments = ["gemm", "--json", str(tmp_path / "a.json"), f"--csv={tmp_path / 'a.csv'}"]
    arguments += ["--shapes", "bench/shapes/gemm.txt", "--shape", "1x3x8x8 out=4 kernel=3"]
    told = document.new(arguments, {})["command"]
    assert told == (
        "octavo bench gemm --json a.json --csv=a.csv --shapes bench/shapes/gemm.txt "
        "--shape '1x3x8x8 out=4 kernel=3'"
    )


def test_absent_levels_are_named(run: Run) -> None:
    absent = _absent_level()
    if absent is None:
        pytest.skip("needs a CPU that lacks amx_int8, avx512_vnni, avx512, avx_vnni or avx2")
    reason = f"this CPU lacks {', '.join(backend.missing_features(absent))}"
    assert {"isa": absent, "status": "absent", "reason": reason} in run["document"]["levels"]
    assert f"- {absent}: {reason}" in run["md"].read_text()


def test_markdown(run: Run) -> None:
    text = run["md"].read_text()
    (isa, *_) = backend.supported()
    for title in _IN_REPORT:
        assert f"## {isa}: {title}" in text
    assert "## Limits of this machine, measured" in text
    for section in text.split("\n## ")[1:]:
        widths = {line.count("|") for line in section.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, section
    assert "geometric mean" in text


def test_csv(run: Run) -> None:
    with run["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    cases = run["document"]["cases"]
    parts = ("times", "accuracy", "unavailable")
    assert len(rows) == sum(len(case.get(part, {})) for case in cases for part in parts)
    for row in rows:
        filled = [bool(row[column]) for column in ("median_us", "top1", "unavailable")]
        is_sentences = bool(row["mean_cosine"])
        assert sum(filled) + is_sentences == 1
    (first,) = [
        row
        for row in rows
        if (row["command"], row["name"], row["contender"]) == ("gemm", "1x32x48", "octavo")
    ]
    assert float(first["median_us"]) > 0
    assert first["kernel"].endswith(backend.supported()[0])


def test_png(run: Run) -> None:
    data = run["png"].read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 500
    assert height > 300
    assert data[-8:-4] == b"IEND"


def test_svg(run: Run, tmp_path: Path) -> None:
    from octavo.bench.report import plot

    plot.write(run["document"], tmp_path / "out.svg")
    root = ElementTree.parse(tmp_path / "out.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10


def test_one_kernel_can_be_forced(tmp_path: Path) -> None:
    isa = backend.supported()[0]
    *_, last = [name for name in backend.kernels(isa) if "_gemm_" in name]
    file = tmp_path / "kernel.json"
    arguments = ["gemm", "--quick", "--kernel", last, "--peers", "none", "--cold"]
    assert cli.main([*arguments, "--shape", "9x512x2048", "--json", str(file)]) == 0
    (case,) = json.loads(file.read_text())["cases"]
    assert case["kernel"] == last
    assert list(case["times"]) == ["octavo"]


def test_bare_levels_that_cannot_run_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    absent = _absent_level()
    if absent is None:
        pytest.skip("needs a CPU that lacks amx_int8, avx512_vnni, avx512, avx_vnni or avx2")
    assert cli.main(["peak", "--quick", "--isa", absent]) == 2
    assert f"Not measured: {absent}: this CPU lacks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemm", "--isa", "avx1024"], "--isa avx1024"),
        (["gemm", "--peers", "nobody"], "--peers nobody"),
        (["gemm", "--kernel", "fastest"], "--kernel fastest"),
        (["gemm", "--shape", "1x2"], "--shape '1x2'"),
        (["gemm", "--shapes", "nowhere.txt"], "--shapes nowhere.txt"),
        (["conv", "--shape", "1x2x3"], "no convolutions"),
        (["gemm", "--plot", "out.pdf"], "--plot out.pdf"),
        (["gemm", "--json", "no/such/folder/out.json"], "--json no/such/folder/out.json"),
        (["gemm", "--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_values_end_with_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["fly"], "invalid choice: 'fly'"), (["gemm", "--rounds", "0"], "0 is not a positive number")],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert message in capsys.readouterr().err


def test_octavo_hands_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert octavo_cli.main(["bench", "gemm", "--isa", "avx1024"]) == 2
    assert "octavo bench: --isa avx1024" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        octavo_cli.main(["bench", "--help"])
    assert "elementwise" in capsys.readouterr().out


def test_missing_packages_are_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    gone = {"rich"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find_spec(name)
    )
    assert octavo_cli.main(["bench", "gemm"]) == 2
    error = capsys.readouterr().err
    assert "rich" in error
    assert 'pip install "octavo[bench]"' in error
    gone = {"matplotlib"}
    assert cli.main(["gemm", "--quick", "--plot", "out.png"]) == 2
    assert 'pip install "octavo[bench]"' in capsys.readouterr().err
