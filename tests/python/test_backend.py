"""Choosing instruction sets: what can be forced, what cannot, and that what was forced is what
ran."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import octavo
from octavo import backend


def _run_linear() -> None:
    weight = octavo.ops.LinearWeight(
        torch.ones((8, 8), dtype=torch.int8), torch.ones(1), torch.zeros(1), None
    )
    weight(torch.zeros((2, 8), dtype=torch.uint8), 1.0, 0, 1.0, 0, octavo.quint8)


def _in_new_process(isa: str) -> subprocess.CompletedProcess[str]:
    code = "import octavo; print(octavo.backend.current())"
    environment = {**os.environ, "OCTAVO_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_supported_is_part_of_built_and_ends_with_scalar() -> None:
    assert set(backend.supported()) <= set(backend.built())
    assert backend.supported()[-1] == "scalar"
    for isa in backend.built():
        assert bool(backend.missing_features(isa)) == (isa not in backend.supported())


def test_forced_isa_is_the_one_that_runs(isa: str) -> None:
    _run_linear()
    assert backend.last_kernel().endswith(f"__{isa}")
    assert backend.last_kernel() in backend.kernels(isa)


def test_force_as_context_restores_what_was_in_use() -> None:
    before = backend.current()
    with backend.force("scalar"):
        assert backend.current() == "scalar"
        with backend.force(backend.supported()[0]):
            assert backend.current() == backend.supported()[0]
        assert backend.current() == "scalar"
    assert backend.current() == before


def test_force_as_statement_and_back() -> None:
    before = backend.current()
    backend.force("scalar")
    assert backend.current() == "scalar"
    backend.force(None)
    assert backend.current() == before


def test_force_restores_after_an_exception() -> None:
    before = backend.current()
    with pytest.raises(KeyError), backend.force("scalar"):
        raise KeyError
    assert backend.current() == before


def test_unknown_isa_names_what_there_is() -> None:
    before = backend.current()
    with pytest.raises(ValueError, match=r"unknown ISA 'sse9'.*scalar"):
        backend.force("sse9")
    with pytest.raises(ValueError, match="sse9"):
        backend.kernels("sse9")
    with pytest.raises(ValueError, match="sse9"):
        backend.missing_features("sse9")
    assert backend.current() == before


def test_isa_that_cannot_run_names_what_is_missing() -> None:
    absent = [isa for isa in backend.built() if isa not in backend.supported()]
    for isa in absent:
        with pytest.raises(RuntimeError, match=backend.missing_features(isa)[0]):
            backend.force(isa)
        done = _in_new_process(isa)
        assert done.returncode != 0
        assert f"this CPU cannot run '{isa}'" in done.stderr


def test_environment_variable_chooses() -> None:
    for isa in backend.supported():
        assert _in_new_process(isa).stdout.split() == [isa]


def test_environment_variable_with_an_unknown_name_is_an_error() -> None:
    done = _in_new_process("sse9")
    assert done.returncode != 0
    assert "OCTAVO_ISA: unknown ISA 'sse9'" in done.stderr


def test_weights_follow_a_forced_isa_with_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randint(-128, 128, (70, 37), generator=generator).to(torch.int8)
    x = torch.randint(0, 256, (9, 37), generator=generator).to(torch.uint8)
    weight = octavo.ops.LinearWeight(plain, torch.rand(70) + 0.1, torch.zeros(1), torch.randn(70))
    results = []
    for isa in [*backend.supported(), *backend.supported()]:
        with backend.force(isa):
            results.append(weight(x, 0.1, 3, 20.0, 128, octavo.quint8))
            assert backend.last_kernel().endswith(isa)
            assert torch.equal(weight.unpack(), plain)
    assert all(torch.equal(results[0], r) for r in results)


def test_features_and_pool_are_reported() -> None:
    features = backend.cpu_features()
    assert set(backend.feature_descriptions()) == set(features)
    assert set(backend.emulated_features()) <= {
        name for name, present in features.items() if present
    }
    info = backend.parallel_info()
    assert info["threads"] == torch.get_num_threads()
    assert backend.run_peak(10) > 0
