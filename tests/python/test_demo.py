"""``octavo demo``: the whole run in quick mode, and the parts that judge and measure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from octavo import backend, cli
from octavo.demo import isas, measure, peer_torch_ao, reload, run
from octavo.demo.conversion import fuse, quantize
from octavo.demo.measure import Contender, Latency, Sizes
from octavo.demo.model import DigitsNet
from octavo.demo.report import Report
from octavo.demo.run import FLOAT, INT8, Options


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def untrained() -> DigitsNet:
    torch.manual_seed(0)
    return DigitsNet().eval()


@pytest.mark.slow
def test_quick_run_keeps_its_promises(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    threads = torch.get_num_threads()
    arguments = ["--quick", "--check-isas", "--min-speedup", "0", "--threads", "1"]
    files = ["--json", str(results), "--out", str(tmp_path / "saved")]
    status = cli.main(["demo", *arguments, *files])
    found = json.loads(results.read_text())
    assert status == 0, found["promises"]
    assert torch.get_num_threads() == threads

    assert found["accuracy"][INT8] > 90
    assert found["threads"] == 1
    assert {run["isa"] for run in found["isa_runs"]} == set(backend.supported())
    assert not any(run["differs"] for run in found["isa_runs"])
    assert found["reload"] == {"digits_int8.pt": True, "digits_int8.safetensors": True}
    assert {"conv", "block1", "classify"} <= {layer["name"] for layer in found["layers"]}
    assert all(layer["sqnr_db"] is None or layer["sqnr_db"] > 10 for layer in found["layers"])
    assert found["latency"].keys() == {"1", "64"}
    judged = {promise["name"]: promise["kept"] for promise in found["promises"]}
    assert [name for name, kept in judged.items() if kept is None] == [
        "int8 faster than float32 at batch 64"
    ]
    for name in ("digits_float32", "digits_int8"):
        assert (tmp_path / "saved" / f"{name}.safetensors").stat().st_size > 0


@pytest.fixture
def report() -> Report:
    return Report(
        octavo="1",
        torch="2",
        isa="avx2",
        threads=1,
        seed=0,
        images={"training": 1, "held out": 600},
        accuracy={FLOAT: 99.0, INT8: 98.5},
        sizes={FLOAT: Sizes(400, 400), INT8: Sizes(100, 100)},
        latency={64: {FLOAT: Latency(2.0, 0.1), INT8: Latency(1.0, 0.1)}},
        reload={"a.pt": True},
    )


def test_kept_promises(report: Report) -> None:
    report.promises = run._judge(report, Options())
    assert [promise.kept for promise in report.promises] == [True] * 4
    assert report.broken == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"accuracy": {FLOAT: 99.0, INT8: 98.4}}, "accuracy"),
        ({"sizes": {FLOAT: Sizes(349, 349), INT8: Sizes(100, 100)}}, "smaller"),
        ({"latency": {64: {FLOAT: Latency(1.0, 0), INT8: Latency(1.1, 0)}}}, "faster"),
        ({"reload": {"a.pt": True, "b.pt": False}}, "same bits"),
    ],
)
def test_each_broken_promise_is_found(report: Report, change: dict[str, object], name: str) -> None:
    report.promises = run._judge(replace(report, **change), Options())  # type: ignore[arg-type]
    assert len(report.broken) == 1
    assert name in report.broken[0].name


def test_a_different_isa_breaks_its_promise(report: Report) -> None:
    report.isa_runs = [isas.IsaRun("scalar", 1, 9, ""), isas.IsaRun("avx2", 1, 9, "block1")]
    promises = run._judge(report, Options(check_isas=True))
    assert promises[-1].kept is False


def test_speed_is_judged_as_asked(report: Report) -> None:
    assert run._judge_speed(report, Options(min_speedup=1.9)).kept is True
    assert run._judge_speed(report, Options(min_speedup=2.5)).kept is False
    assert run._judge_speed(report, Options(min_speedup=0)).kept is None
    assert run._judge_speed(replace(report, isa="scalar"), Options()).kept is None


def test_a_broken_promise_is_said_and_fails(
    report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report.accuracy[INT8] = 50.0

    def measured(options: Options, *_: object) -> Report:
        report.promises = run._judge(report, options)
        return report

    monkeypatch.setattr(run, "_measure", measured)
    assert run.run(Options()) == 1
    assert "promise broken: int8 accuracy" in capsys.readouterr().out


def test_same_bits() -> None:
    nan = torch.tensor([math.nan, 0.0])
    assert measure.same_bits(nan, nan.clone())
    assert not measure.same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not measure.same_bits(torch.zeros(2), torch.zeros(2, 1))
    assert not measure.same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))


def test_latency_takes_turns_and_leaves_threads_alone(images: torch.Tensor) -> None:
    order: list[str] = []
    contenders = [
        Contender(name, torch.relu, lambda name=name: order.append(name))  # type: ignore[misc]
        for name in ("a", "b")
    ]
    threads = torch.get_num_threads()
    found = measure.latency(contenders, images, rounds=3)
    assert torch.get_num_threads() == threads
    assert order == ["a", "b"] * 4
    assert all(latency.median > 0 for latency in found.values())


def test_fusing_changes_nothing_but_rounding(untrained: DigitsNet, images: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fuse(untrained)(images), untrained(images))


def test_reload_tells_a_different_model(
    untrained: DigitsNet, images: torch.Tensor, tmp_path: Path
) -> None:
    int8 = quantize(fuse(untrained), images)
    reload.write_case(int8, images, tmp_path)
    measure.save(int8.state_dict(), tmp_path, reload.MODEL)
    assert reload.compare(tmp_path) == {"digits_int8.pt": True, "digits_int8.safetensors": True}
    reload.write_case(int8, images.flip(0), tmp_path)
    assert all(reload.compare(tmp_path).values())

    torch.manual_seed(5)
    other = quantize(fuse(DigitsNet().eval()), images)
    torch.save(other.state_dict(), tmp_path / f"{reload.MODEL}.pt")
    assert reload.compare(tmp_path) == {"digits_int8.pt": False, "digits_int8.safetensors": True}


def test_reload_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1:(.|\n)*expected\.safetensors"):
        reload.compare_in_new_process(tmp_path)


def test_a_torch_without_torch_ao_is_compared_without_it(
    untrained: DigitsNet, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(peer_torch_ao.importlib, "import_module", gone)
    peers, left_out = peer_torch_ao.build(untrained, images)
    assert peers == []
    assert "No module named 'torch.ao.quantization'" in left_out["torch.ao"]
