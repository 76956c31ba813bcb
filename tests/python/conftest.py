"""Fixtures for every test: the kernels to run on, and reproducible random numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

import octavo
from direct_support import DEFAULT, READING
from octavo import _C

# OCTAVO_TEST_ISA limits the kernel tests to one instruction set; where it cannot run, they fail.
_only = os.environ.get("OCTAVO_TEST_ISA")
ISAS = [_only] if _only else octavo.backend.supported()

# The same examples in every run; `--hypothesis-profile explore` searches on from new ones, and
# `emulated` takes fewer, for CPUs that are emulated.
settings.register_profile(
    "octavo",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("octavo"), derandomize=False)
settings.register_profile("emulated", settings.get_profile("octavo"), max_examples=8)
settings.load_profile("octavo")


_tests_of = dict.fromkeys(ISAS, 0)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.kernel) for name in ISAS])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set of this CPU, with the kernels of that one."""
    name: str = request.param
    with octavo.backend.force(name):
        assert octavo.backend.current() == name
        _tests_of[name] += 1
        yield name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells how many tests ran on the kernels of each instruction set."""
    counts = ", ".join(f"{name} {count}" for name, count in _tests_of.items())
    terminalreporter.write_line(f"tests by ISA: {counts}")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=READING)
def reading(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each way of reading tensors that this torch offers."""
    assert _C.set_tensor_access(request.param)
    yield request.param
    _C.set_tensor_access(DEFAULT)
