"""Results section by section: kept when a run ends early, measured again alone, made one page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import backend
from octavo.bench import cli, document, machine, results, runner
from octavo.bench.report import merged

_SECTIONS = ("elementwise", "image")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two sections of the best level and what it says of levels that are absent."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    assert _report(path, *_SECTIONS) == 0
    return path


def _levels() -> list[str]:
    absent = [isa for isa in backend.built() if isa not in backend.supported()]
    return [backend.supported()[0], *absent[:1]]


def _report(path: Path, *sections: str, extra: tuple[str, ...] = ()) -> int:
    arguments = ["report", "--quick", "--peers", "fp32,copy", "--isa", ",".join(_levels())]
    return cli.main([*arguments, "--sections", ",".join(sections), "--results", str(path), *extra])


def _copy(measured: Path, folder: Path) -> Path:
    path = folder / "results.json"
    path.write_bytes(measured.read_bytes())
    return path


def test_each_section_is_a_document(measured: Path) -> None:
    found = results.read(measured)
    isa, *absent = _levels()
    assert set(found) == {f"{isa}/{name}" for name in _SECTIONS} | {f"{a}/-" for a in absent}
    for name in _SECTIONS:
        section = found[f"{isa}/{name}"]
        assert document.problems(section) == []
        assert {case["command"] for case in section["cases"]} == {name}
        assert results.is_measured(section)
    assert [path.name for path in measured.parent.iterdir()] == ["results.json"]


def test_what_was_measured_before_the_end_is_kept(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, isa = tmp_path / "results.json", _levels()[0]
    one = results.read(measured)[f"{isa}/elementwise"]
    ran: list[str] = []

    def run(job: Any, cases: Any, notes: Any) -> dict[str, Any]:
        ran.append(cases[0].command)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return one

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(machine, "commit", lambda: one["commit"])
    assert _report(path, *_SECTIONS) == 130
    assert set(results.read(path)) == {f"{isa}/elementwise"}
    ran.append("from here on nothing interrupts")
    monkeypatch.setattr("octavo.bench.levels.chosen", lambda *names: [isa])
    assert _report(path, *_SECTIONS, extra=("--resume",)) == 0
    assert ran[3:] == ["image"]
    monkeypatch.setattr(machine, "commit", lambda: "another commit")
    assert _report(path, "elementwise", extra=("--resume",)) == 0
    assert ran[4:] == ["elementwise"]


def test_a_section_is_measured_again_alone(measured: Path, tmp_path: Path) -> None:
    path, isa = _copy(measured, tmp_path), _levels()[0]
    before = results.read(path)
    changed = {**before[f"{isa}/image"], "created": "2001-02-03T04:05:06+00:00"}
    assert results.add(path, f"{isa}/image", changed)
    assert results.read(path)[f"{isa}/image"]["created"] == changed["created"]
    assert _report(path, "image") == 0
    after = results.read(path)
    assert after[f"{isa}/image"]["created"] > "2026"
    assert after[f"{isa}/elementwise"] == before[f"{isa}/elementwise"]


def test_a_failed_section_replaces_no_measured_one(measured: Path, tmp_path: Path) -> None:
    path, isa = _copy(measured, tmp_path), _levels()[0]
    good = results.read(path)[f"{isa}/image"]
    failed = {**good, "levels": [{"isa": isa, "status": "failed", "reason": "it was wrong"}]}
    failed["cases"] = []
    assert not results.add(path, f"{isa}/image", failed)
    assert results.read(path)[f"{isa}/image"] == good
    assert results.add(path, f"{isa}/gemm", failed)
    assert results.add(path, f"{isa}/gemm", good)


def test_samples_are_rounded_and_nothing_else(measured: Path) -> None:
    for section in results.read(measured).values():
        for case in section["cases"]:
            for times in case["times"].values():
                assert all(float(f"{s:.5g}") == s for s in times["samples_us"])


def test_the_page_says_where_each_section_comes_from(measured: Path, tmp_path: Path) -> None:
    path, page = _copy(measured, tmp_path), tmp_path / "page.md"
    isa, *absent = _levels()
    older = results.read(path)[f"{isa}/elementwise"]
    older.update(created="2001-02-03T04:05:06+00:00", commit="0123456789ab")
    older["settings"]["rounds"] = 99
    results.add(path, f"{isa}/elementwise", older)
    assert cli.main(["render", str(path), "--markdown", str(page)]) == 0
    text = page.read_text()
    sections = {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}
    titles = list(sections)
    assert "Limits of this machine, measured" in titles
    first, second = (next(t for t in titles if t.startswith(f"{isa}: {n}")) for n in _SECTIONS)
    assert titles.index(first) < titles.index(second)
    assert "Measured 2001-02-03 at commit 0123456789ab: 99 rounds" in sections[first]
    assert "Measured 2001" not in sections[second]
    assert "Measured 20" in sections[second]
    for title in (first, second):
        assert ", ".join(older["machine"]["features"]) in sections[title]
        assert "| case |" in sections[title]
    for name in absent:
        assert f"- {name}: this CPU lacks" in sections["Not measured"]
    assert merged.render(results.read(path)) == text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.update(format="other"), "not written by"),
        (lambda d: d.update(version=2), "version 2 of the format"),
        (lambda d: d.pop("sections"), "it has no sections; measure again"),
        (lambda d: next(iter(d["sections"].values())).pop("machine"), "'machine' is a required"),
    ],
)
def test_a_file_of_something_else_is_refused(
    measured: Path, tmp_path: Path, damage: Callable[[Any], object], message: str
) -> None:
    path = _copy(measured, tmp_path)
    found = json.loads(path.read_text())
    damage(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        results.read(path)


@pytest.mark.parametrize("content", [b"{", b"\x80\xff"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    for read in (results.read, document.read):
        with pytest.raises(ValueError, match=r"broken\.json: not JSON"):
            read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--resume"], "--resume needs --results"),
        (["report", "--results", "r.json", "--json", "x.json"], "--json is of one run"),
        (["report", "--results", "no/such/r.json"], "there is no folder"),
        (["report", "--sections", "models"], "--sections models: no such section"),
        (["render", "nothing.json"], "nothing.json: no such file"),
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
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_commits_are_those_of_octavo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_git", lambda folder, *rest: None)
    assert machine.commit() is None
    monkeypatch.setattr(machine, "_git", lambda folder, *rest: str(tmp_path))
    assert machine.commit() is None  # the repository of somebody who installed it there
    here = Path(machine.__file__).resolve().parents[1]
    monkeypatch.setattr(
        machine, "_git", lambda folder, *rest: str(here) if "--show-toplevel" in rest else "abc"
    )
    assert machine.commit() == "abc"
