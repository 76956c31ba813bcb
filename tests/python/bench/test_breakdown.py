"""Where the time of a call goes."""

from __future__ import annotations

import time

import torch

import octavo
from octavo import backend
from octavo.bench import breakdown
from octavo.ops import conv_weights

_PARTS = ("kernels_us", "layout_us", "torch_us", "python_us")


def test_operators_are_told_apart() -> None:
    events = [
        ("aten::copy_", 5.0),
        ("aten::permute", 1.0),
        ("aten::gelu", 7.0),
        ("aten::layer_norm", 2.0),
        ("aten::empty", 3.0),
        ("octavo::linear", 11.0),
    ]
    assert breakdown.parts(events) == (6.0, 9.0)


def _linear() -> tuple[torch.nn.Module, octavo.QTensor]:
    float_layer = torch.nn.Linear(512, 512)
    layer = octavo.nn.quantized.Linear(512, 512)
    weight = float_layer.weight.detach()
    layer.set_weight_bias(octavo.quantize_per_tensor(weight, 0.01, 0, octavo.qint8), None)
    return layer, octavo.quantize_per_tensor(torch.rand(256, 512), 1 / 255, 0, octavo.quint8)


def _largest(found: dict[str, float]) -> str:
    return max(_PARTS, key=lambda part: found[part])


def test_each_part_is_found_where_it_is_most_of_the_work() -> None:
    layer, q = _linear()
    x, image = torch.rand(600, 600), torch.rand(8, 64, 96, 96)
    calls = {
        "kernels_us": lambda: layer(q),
        "layout_us": lambda: image.contiguous(memory_format=torch.channels_last),
        "torch_us": lambda: x @ x,
        "python_us": lambda: time.sleep(2e-3),
    }
    for part, call in calls.items():
        call()
        found = breakdown.measure(call)
        assert _largest(found) == part, found
        assert found[part] > 0.6 * sum(found[other] for other in _PARTS)
        assert min(found.values()) >= 0


def test_the_clock_counts_kernels_while_it_runs() -> None:
    layer, q = _linear()
    layer(q)
    backend.start_clock()
    started = time.perf_counter_ns()
    for _ in range(5):
        layer(q)
    whole = time.perf_counter_ns() - started
    compute, layout = backend.stop_clock()
    assert 0.3 * whole < compute < whole
    assert layout == 0
    layer(q)
    assert backend.stop_clock() == (compute, 0)
    backend.start_clock()
    assert backend.stop_clock() == (0, 0)


def test_layout_changes_of_the_extension_are_counted_apart() -> None:
    image = torch.randint(0, 255, (4, 16, 96, 96), dtype=torch.uint8)
    backend.start_clock()
    moved = conv_weights.channels_last(image)
    compute, layout = backend.stop_clock()
    assert torch.equal(moved, image)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert compute == 0
    assert layout > 0
