"""One case on every contender: wrong results, missing peers, dying peers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo.bench import measure, process, timing
from octavo.bench.cases import (
    AttentionCase,
    CalibrationCase,
    Case,
    ConvCase,
    ElementwiseCase,
    EmbeddingCase,
    FakeQuantizeCase,
    ImageCase,
    LinearCase,
    LinearFunctionCase,
    ModelCase,
    NormalizeCase,
    RnnCase,
    image,
)
from octavo.bench.cases import linear as linear_data
from octavo.bench.cases.base import compare_integers
from octavo.bench.cases.linear_function import OUTPUTS
from octavo.bench.cases.normalize import OPERATIONS
from octavo.bench.peers import Peer, Prepared, Unavailable, all_peers
from octavo.bench.peers.ours import OCTAVO
from octavo.bench.worker import Request

_PLAN = measure.Plan(timing.Effort(rounds=2, seconds=0.002, fewest=1))
_CASE = LinearCase(command="gemm", name="tiny", m=3, k=8, n=5)

CASES: list[Case] = [
    _CASE,
    LinearCase(command="linear", name="dynamic", m=4, k=64, n=16, mode="dynamic", entry="module"),
    LinearCase(command="linear", name="static", m=1, k=64, n=16, entry="module"),
    *(
        LinearFunctionCase(
            command="linear_function", name=f"{name} {m}", function=name, m=m, k=70, n=33
        )
        for name in OUTPUTS
        for m in (1, 5)
    ),
    ConvCase(
        command="conv",
        name="strided",
        batch=1,
        channels=8,
        height=9,
        width=7,
        out=16,
        kernel=3,
        stride=2,
        padding=1,
    ),
    ConvCase(
        command="conv",
        name="depthwise",
        batch=1,
        channels=16,
        height=6,
        width=6,
        out=16,
        kernel=3,
        padding=1,
        groups=16,
    ),
    RnnCase(command="rnn", name="LSTM", cell="LSTM", steps=3, batch=2, hidden=16),
    RnnCase(command="rnn", name="GRU", cell="GRU", steps=3, batch=2, hidden=16),
    *(
        ElementwiseCase(command="elementwise", name=name, operation=name, size=333)
        for name in (
            "quantize",
            "dequantize",
            "requantize",
            "relu",
            "add",
            "add_relu",
            "mul",
            "sigmoid",
        )
    ),
    *(
        NormalizeCase(
            command="normalize",
            name=f"{operation} {last}",
            operation=operation,
            shape=(3, 70) if operation in ("layer_norm", "softmax") else (2, 12, 5, 7),
            channels_last=last,
            groups=3,
        )
        for operation in OPERATIONS
        for last in (False, True)
        if not (last and operation in ("layer_norm", "softmax"))
    ),
    *(
        AttentionCase(
            command="attention",
            name=f"{batch} {tokens}",
            batch=batch,
            heads=3,
            tokens=tokens,
            size=20,
        )
        for batch, tokens in ((1, 1), (2, 19))
    ),
    *(
        EmbeddingCase(
            command="embedding",
            name=f"int{bits} {length}",
            bits=bits,
            rows=30,
            columns=18,
            bags=5,
            length=length,
        )
        for bits in (8, 4)
        for length in (1, 9)
    ),
    *(
        FakeQuantizeCase(
            command="fake_quantize",
            name=f"{per_channel} {observes} {backward}",
            shape=(7, 5, 3, 11),
            per_channel=per_channel,
            observes=observes,
            backward=backward,
        )
        for per_channel in (False, True)
        for observes in (False, True)
        for backward in (False, True)
    ),
    *(
        CalibrationCase(
            command="calibration", name=name, observer=name, shape=(5, 7, 30), batches=4
        )
        for name in (
            "MinMaxObserver",
            "MovingAverageMinMaxObserver",
            "PerChannelMinMaxObserver",
            "MovingAveragePerChannelMinMaxObserver",
            "HistogramObserver",
        )
    ),
    *(
        ImageCase(command="image", name=name, operation=name, channels=17, height=9, width=6)
        for name in image.OPERATIONS
    ),
]


def _may_differ(peer: str, case: Case) -> bool:
    """Only FBGEMM and oneDNN have arithmetic that saturates; QNNPACK rounds the argument of a
    function that is steep."""
    is_steep = isinstance(case, LinearFunctionCase) and case.function == "tanh"
    return peer in ("fbgemm", "onednn") or (peer == "qnnpack" and is_steep)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_everybody_computes_the_same(case: Case) -> None:
    found = measure.measure(case, {"octavo": OCTAVO, **all_peers()}, _PLAN)
    assert Case.decode(case.encode()) == case
    for name, times in found["times"].items():
        assert times["close"] or _may_differ(name, case), (name, times["check"])
    assert {"fp32", "octavo"} <= {*found["times"], *found["unavailable"]}
    if case.must_be_exact:
        assert found["times"]["octavo"]["check"] == "exact"


def test_a_model_is_measured() -> None:
    case = ModelCase(command="model", name="mobilenetv2", model="mobilenetv2", batch=1, size=32)
    contenders = {"octavo": OCTAVO, "fp32": all_peers()["fp32"]}
    found = measure.measure(case, contenders, _PLAN)
    assert set(found["times"]) == {"octavo", "fp32"}


class _Fake(Peer):
    name = "fake"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def prepare_linear(self, case: LinearCase) -> Prepared | Unavailable:
        if isinstance(self._answer, Exception):
            raise self._answer
        if isinstance(self._answer, Unavailable):
            return self._answer
        return Prepared(lambda: self._answer)


def test_a_wrong_result_of_octavo_is_never_timed() -> None:
    wrong = torch.zeros((3, 5), dtype=torch.uint8)
    with pytest.raises(AssertionError, match="gemm tiny: Octavo's result is wrong"):
        measure.measure(_CASE, {"octavo": _Fake(wrong)}, _PLAN)


def test_a_peer_that_computes_something_else_is_marked() -> None:
    wrong = torch.zeros((3, 5), dtype=torch.uint8)
    found = measure.measure(_CASE, {"octavo": OCTAVO, "fake": _Fake(wrong)}, _PLAN)
    assert not found["times"]["fake"]["close"]
    assert "steps off" in found["times"]["fake"]["check"]
    shape = measure.measure(_CASE, {"fake": _Fake(torch.zeros(1, dtype=torch.uint8))}, _PLAN)
    assert "shape (1,)" in shape["times"]["fake"]["check"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Unavailable("no such layer"), "no such layer"),
        (RuntimeError("oops\nx"), "RuntimeError: oops"),
    ],
)
def test_a_peer_that_cannot_is_named(answer: Any, reason: str) -> None:
    found = measure.measure(_CASE, {"octavo": OCTAVO, "fake": _Fake(answer)}, _PLAN)
    assert found["unavailable"] == {"fake": reason}
    assert set(found["times"]) == {"octavo"}


def test_a_peer_without_a_method_for_a_kind_is_named() -> None:
    case = ElementwiseCase(command="elementwise", name="add", operation="add", size=9)
    found = measure.measure(case, {"octavo": OCTAVO, "fake": _Fake(None)}, _PLAN)
    assert found["unavailable"] == {"fake": "not compared on elementwise cases"}


def test_steps_are_counted() -> None:
    expected = torch.tensor([0, 10, 255], dtype=torch.uint8)
    assert compare_integers(expected, expected).exact
    one_off = compare_integers(torch.tensor([1, 9, 255], dtype=torch.uint8), expected)
    assert (one_off.exact, one_off.close) == (False, True)
    far = compare_integers(torch.tensor([0, 12, 255], dtype=torch.uint8), expected)
    assert not far.close
    assert "2 steps" in far.text


def test_cold_weights_exceed_the_last_cache() -> None:
    case = LinearCase(command="gemm", name="big", m=1, k=4096, n=4096)
    assert measure.copies_for(case, cold=False) == 1
    copies = measure.copies_for(case, cold=True)
    caches = measure.machine.caches()
    assert copies * case.weight_bytes > caches[max(caches)]
    few = _Fake(None)
    few.most_copies = 1  # type: ignore[misc]
    found = measure.measure(_CASE, {"fake": few}, measure.Plan(_PLAN.effort, cold=True))
    assert "too many to prepare" in found["unavailable"]["fake"]


def test_integer_reference_is_exact() -> None:
    values = linear_data.data(_CASE)
    product = (values.x.int() - linear_data.X_ZERO) @ values.weight.int().t()
    multiplier = torch.tensor(linear_data.X_SCALE) * values.scales / torch.tensor(values.out_scale)
    expected = (product.float() * multiplier).round() + linear_data.OUT_ZERO
    assert _CASE.check(expected.clamp(0, 255).to(torch.uint8)).exact


_FAKE_WORKER = """
import json, os, signal, sys
request = json.loads(sys.stdin.read())
def emit(**event): print(json.dumps(event), flush=True)
for index, _ in request["cases"]:
    for contender in ("octavo", "crasher"):
        if contender in request["excluded"].get(str(index), {}):
            continue
        emit(event="running", index=index, contender=contender)
        if contender == os.environ["CRASHES"] and index == 1:
            os.kill(os.getpid(), signal.SIGILL)
    emit(event="case", index=index, unavailable=request["excluded"].get(str(index), {}))
emit(event="done")
"""


def _with_fake_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, crashes: str) -> None:
    script = folder / "worker.py"
    script.write_text(_FAKE_WORKER)
    popen = process.subprocess.Popen
    monkeypatch.setenv("CRASHES", crashes)
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda _, **options: popen([sys.executable, script], **options)
    )


def _request() -> Request:
    return Request("scalar", 1, _PLAN.effort, 0.1, cases=[(i, {}) for i in range(3)])


def test_a_peer_that_kills_the_process_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _with_fake_worker(monkeypatch, tmp_path, "crasher")
    events: list[dict[str, Any]] = []
    process.measure_level(_request(), events.append)
    cases = {event["index"]: event for event in events if event["event"] == "case"}
    assert sorted(cases) == [0, 1, 2]
    assert cases[0]["unavailable"] == {}
    assert cases[1]["unavailable"] == {"crasher": "it ended the process with SIGILL"}


def test_octavo_killing_the_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _with_fake_worker(monkeypatch, tmp_path, "octavo")
    with pytest.raises(process.WorkerError, match="SIGILL"):
        process.measure_level(_request(), lambda event: None)
