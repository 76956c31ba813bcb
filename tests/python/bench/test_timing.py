"""Rounds, statistics and warnings about noise."""

from __future__ import annotations

import time
from typing import Any

import pytest

from octavo.bench import noise, timing


def test_geometric_mean() -> None:
    assert timing.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert timing.geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0)
    for wrong in ([], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="positive"):
            timing.geometric_mean(wrong)


def test_effort_gives_slow_contenders_fewer_rounds() -> None:
    effort = timing.Effort(rounds=10, seconds=1.0, fewest=3)
    assert effort.plan(1e-3) == (10, 100)
    assert effort.plan(0.2) == (5, 1)
    assert effort.plan(10.0) == (3, 1)


def _contender(name: str, log: list[str], pause: float = 0.0) -> timing.Contender:
    def call() -> None:
        if not log or log[-1] != name:
            log.append(name)
        if pause:
            time.sleep(pause)

    return timing.Contender(name, [call], lambda: None)


def test_contenders_take_turns() -> None:
    log: list[str] = []
    names = ("a", "b", "c")
    effort = timing.Effort(rounds=4, seconds=0.04)
    times = timing.interleave([_contender(name, log) for name in names], 1, effort)
    assert log == list(names) * 5  # one turn to estimate, then the rounds
    assert all(len(times[name].samples) == 4 for name in names)


def test_slow_contenders_get_all_their_rounds_spread_over_the_others() -> None:
    log: list[str] = []
    effort = timing.Effort(rounds=7, seconds=0.01, fewest=3)
    slow, quick = _contender("slow", log, 0.02), _contender("quick", log)
    alone = timing.interleave([slow], 1, effort)
    assert len(alone["slow"].samples) == 3
    both = timing.interleave([slow, quick], 1, effort)
    assert {name: len(times.samples) for name, times in both.items()} == {"slow": 3, "quick": 7}


def test_median_and_interquartile_range_are_those_of_the_rounds() -> None:
    log: list[str] = []
    effort = timing.Effort(rounds=5, seconds=0.2)
    slow = timing.interleave([_contender("slow", log, 2e-3)], 1, effort)["slow"]
    assert 2000 <= slow.median < 20000
    assert slow.calls_per_sample >= 1
    ordered = sorted(slow.samples)
    assert len(ordered) == 5
    assert slow.median == pytest.approx(ordered[2])
    assert slow.iqr == pytest.approx(ordered[3] - ordered[1])
    assert slow.spread == pytest.approx(slow.iqr / slow.median)


def test_cold_weights_are_called_in_turn_and_select_runs_before_each_block() -> None:
    called: list[int] = []
    selected: list[int] = []
    calls = [lambda i=i: called.append(i) for i in range(3)]
    contender = timing.Contender("cold", calls, lambda: selected.append(len(called)))
    contender.timer(1).timeit(4)
    assert called == [i % 3 for i in range(len(called))]
    assert len(called) >= 4
    assert selected[0] == 0


def _case(name: str, iqr: float) -> dict[str, Any]:
    times = {"octavo": {"median_us": 10.0, "iqr_us": 0.1}, "peer": {"median_us": 10.0}}
    times["peer"]["iqr_us"] = iqr
    return {"command": "gemm", "name": name, "isa": "avx2", "times": times}


def test_wide_spread_is_reported() -> None:
    assert noise.spread_warning([_case("calm", 1.4)]) is None
    warning = noise.spread_warning([_case("calm", 1.4), _case("wild", 5.0)])
    assert warning is not None
    assert "gemm wild (avx2): 50 %" in warning
    assert "calm" not in warning
    many = noise.spread_warning([_case(str(i), 5.0 + i) for i in range(9)])
    assert many is not None
    assert "and 4 more" in many


def test_load_before_the_start_is_reported() -> None:
    assert noise.load_warning(None, 2) is None
    assert noise.load_warning(0.9, 2) is None
    assert "1.1" in str(noise.load_warning(1.1, 2))


def test_a_peak_that_changes_is_reported() -> None:
    assert noise.peak_warning("avx2", 100.0, 96.0) is None
    assert "-10 %" in str(noise.peak_warning("avx2", 100.0, 90.0))
    assert "+10 %" in str(noise.peak_warning("avx2", 100.0, 110.0))
