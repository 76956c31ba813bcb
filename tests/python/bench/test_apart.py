"""Networks whose contenders run in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from octavo import backend
from octavo.bench import apart, document, measure, memory, timing
from octavo.bench.cases import ModelCase
from octavo.bench.models import MODELS, SMALL
from octavo.bench.report import networks

_PLAN = measure.Plan(timing.Effort(rounds=3, seconds=0.01, fewest=3))


def _case(name: str) -> ModelCase:
    size = SMALL[name].size
    return ModelCase(command="model", name=f"{name} {size}", model=name, batch=1, size=size)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_network_is_measured(name: str) -> None:
    told: list[str] = []
    names = ["octavo", "fp32", "octavo_fx", "absent"]
    case, isa = _case(name), backend.current()
    found = apart.measure(case, names, isa, _PLAN, None, {"absent": "left out"}, told.append)
    assert set(found["times"]) == {"octavo", "fp32", "octavo_fx"}
    assert found["unavailable"] == {"absent": "left out"}
    assert told[:3] == ["octavo", "fp32", "octavo_fx"]
    for times in found["times"].values():
        assert len(times["samples_us"]) == 3
        assert times["close"]
    assert set(found["breakdown"]) == {"octavo", "octavo_fx"}
    for parts in found["breakdown"].values():
        assert 0 < parts["kernels_us"] < parts["total_us"]
    if memory.missing() is None:
        assert set(found["memory"]) == set(found["times"])
        assert all(entry["peak"] >= entry["held"] for entry in found["memory"].values())
    record = document.case_record(case, isa, found, {"threads": 1}, False)
    assert record["breakdown"] == found["breakdown"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_has_a_small_one_of_its_kind(name: str) -> None:
    case = ModelCase(command="model", name=name, model=name, batch=1, size=MODELS[name].size)
    small = case.small()
    assert small.mode == case.mode
    assert small.has_stubs == case.has_stubs
    assert small.input().dtype == MODELS[name].example(1, 32).dtype
    assert small.small() == small


_FAKE_SOLO = """
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
name, (victim, when, how) = request["contender"], os.environ["VICTIM"].split(",")
def emit(**event): print(json.dumps(event), flush=True)
def fate(now):
    if name != victim or now != when: return
    if how == "unavailable": emit(event="unavailable", reason="not today"); sys.exit()
    if how == "fails": emit(event="failed", message="ValueError: no"); sys.exit(1)
    os.kill(os.getpid(), signal.SIGSEGV)
fate("prepare")
emit(event="prepared", check={"text": "exact", "exact": True, "close": True}, kernel="k",
     memory={"held": 1, "peak": 2} if name != "other" else None)
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "time":
        fate("time")
        emit(event="timed", seconds=1e-6 * command["calls"])
    else:
        emit(event=command["do"], **{command["do"]: [] if command["do"] == "layers" else {}})
"""


def _measured(
    monkeypatch: pytest.MonkeyPatch, folder: Path, victim: str, when: str, how: str
) -> dict[str, Any]:
    script = folder / "solo.py"
    script.write_text(_FAKE_SOLO)
    popen = apart.subprocess.Popen
    monkeypatch.setenv("VICTIM", f"{victim},{when},{how}")
    monkeypatch.setattr(
        apart.subprocess, "Popen", lambda _, **options: popen([sys.executable, script], **options)
    )
    return apart.measure(_case("images"), ["octavo", "peer", "other"], "scalar", _PLAN)


@pytest.mark.parametrize("when", ["prepare", "time"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [("dies", "it ended the process with SIGSEGV"), ("fails", "ValueError: no")],
)
def test_a_contender_that_ends_takes_nobody_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str, how: str, reason: str
) -> None:
    found = _measured(monkeypatch, tmp_path, "peer", when, how)
    assert found["unavailable"] == {"peer": reason}
    assert set(found["times"]) == {"octavo", "other"}
    assert found["memory"] == {"octavo": {"held": 1, "peak": 2}}
    assert set(found["breakdown"]) == {"octavo"}


def test_a_contender_that_cannot_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = _measured(monkeypatch, tmp_path, "other", "prepare", "unavailable")
    assert found["unavailable"] == {"other": "not today"}
    assert set(found["times"]) == {"octavo", "peer"}
    assert found["kernel"] == "k"


@pytest.mark.parametrize("when", ["prepare", "time"])
def test_octavo_ending_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    with pytest.raises(AssertionError, match="Octavo: it ended the process with SIGSEGV"):
        _measured(monkeypatch, tmp_path, "octavo", when, "dies")


def _record(name: str, **times: float) -> dict[str, Any]:
    parts = {"total_us": 200.0, "kernels_us": 150.0, "layout_us": 10.0}
    return {
        "name": name,
        "times": {who: {"median_us": median} for who, median in times.items()},
        "footprint": {"octavo": {"held": 1_500_000, "peak": 2_000_000}},
        "breakdown": {"octavo_fx": {**parts, "torch_us": 0.0, "python_us": 40.0}},
    }


def test_reports_tell_memory_and_shares() -> None:
    records = [_record("a", octavo=4.0, octavo_fx=2.0, fp32=8.0), _record("b", octavo=4.0)]
    records[1]["footprint"]["fp32"] = {"held": 3_000_000, "peak": 3_040_000}
    names, rows = networks.memory_rows(records, ["fp32", "octavo_fx"], "-")
    assert names == ["octavo", "fp32"]
    assert rows == [["a", "2.0 (1.5)", "-"], ["b", "2.0 (1.5)", "3.0 (3.0)"]]
    shares = ["200", "75.0 %", "5.0 %", "0.0 %", "20.0 %"]
    assert networks.time_rows(records) == [[name, "octavo_fx", *shares] for name in "ab"]
    lines = networks.flow_lines(records, ["fp32", "octavo_fx"])
    assert lines == ["octavo_fx against fp32: a 4.00."]
