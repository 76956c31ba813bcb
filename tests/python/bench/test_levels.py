"""Which levels are measured, and how peers are kept to them."""

from __future__ import annotations

from typing import Any

import pytest

from octavo import backend
from octavo.bench import levels, timing, worker
from octavo.bench.process import WorkerError, measure_level
from octavo.bench.worker import Request

_EFFORT = timing.Effort(rounds=2, seconds=0.002, fewest=1)


def _measured(isa: str, **fields: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    request = Request(isa, 1, _EFFORT, roof_seconds=0.001, **fields)
    measure_level(request, events.append)
    return events


def test_every_level_says_how_its_peers_are_limited() -> None:
    assert set(backend.built()) <= set(levels.CAPS)
    for caps in levels.CAPS.values():
        assert {"FBGEMM_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"} <= set(caps)


def test_levels_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_ISA", raising=False)
    runnable = backend.supported()
    assert levels.chosen(None) == ([isa for isa in runnable if isa != "scalar"] or ["scalar"])
    assert levels.chosen(["scalar,amx_int8", "scalar"]) == ["scalar", "amx_int8"]
    assert set(levels.chosen(["all"])) == set(levels.CAPS) | set(backend.built())
    assert levels.chosen(None, "u8s8_gemm_4x16c4__scalar") == ["scalar"]
    with pytest.raises(ValueError, match=r"--isa avx1024: .*avx2"):
        levels.chosen(["avx1024"])
    monkeypatch.setenv("OCTAVO_ISA", "scalar")
    assert levels.chosen(None) == ["scalar"]


def test_absence_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels.absence("scalar") is None
    monkeypatch.setattr(backend, "missing_features", lambda isa: ["amx_tile", "amx_int8"])
    assert levels.absence("scalar") == "this CPU lacks amx_tile, amx_int8"
    monkeypatch.setattr(backend, "built", lambda: ["avx2"])
    assert levels.absence("scalar") == "this build of Octavo has no such level"


def test_caps_replace_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX512")
    environment = levels.environment("avx2")
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert environment["OCTAVO_ISA"] == "avx2"
    assert "MKL_ENABLE_INSTRUCTIONS" not in levels.environment("amx_int8")


@pytest.mark.kernel
def test_caps_reach_the_measuring_process(isa: str) -> None:
    ready, *_, done = _measured(isa)
    assert ready["event"] == "ready"
    assert ready["isa"] == isa
    assert ready["environment"] == levels.CAPS[isa]
    assert ready["kernels"] == backend.kernels(isa)
    # What torch's own kernels say they use: its reading of ATEN_CPU_CAPABILITY.
    assert ready["torch_capability"].lower() == levels.CAPS[isa]["ATEN_CPU_CAPABILITY"]
    assert done["event"] == "done"
    assert done["roofs"]["compute"] > 0


def test_a_failure_in_the_worker_is_told() -> None:
    with pytest.raises(WorkerError, match=r"scalar: .*no_such_kernel"):
        _measured("scalar", kernel="no_such_kernel")


def test_requests_survive_json() -> None:
    request = Request("avx2", 2, _EFFORT, 0.1, True, "k", ["fp32"], [], {"0": {"fp32": "why"}})
    assert worker.Request.from_json(request.to_json()) == request
