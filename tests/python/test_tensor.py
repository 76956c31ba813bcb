"""QTensor: construction, parameters, copies, files, printing, scalars and assignment."""

from __future__ import annotations

import copy
import io
import math
import multiprocessing
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch

import octavo
from direct_support import ordinary, same
from octavo import QTensor
from tensor_support import DTYPES, EITHER, per_channel, per_tensor, send_back
from torch_oracle import torch_quantized

# Construction and parameters


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_per_tensor_parameters(dtype: Any) -> None:
    x = torch.randn(2, 3, 4)
    q = octavo.quantize_per_tensor(x, 0.1, 10, dtype)
    assert isinstance(q, QTensor)
    assert isinstance(q, torch.Tensor)
    assert (q.q_scale(), q.q_zero_point()) == (0.1, 10)
    assert q.qscheme() == octavo.per_tensor_affine
    assert q.dtype is dtype
    assert q.is_quantized
    assert q.int_repr().dtype is dtype.storage
    assert type(q.int_repr()) is type(q.dequantize()) is torch.Tensor
    reachable = x.clamp(min=0.1 * (max(dtype.qmin, -1000) - 10))
    assert (q.dequantize() - reachable).abs().max() <= 0.05001
    for method in ("q_per_channel_scales", "q_per_channel_zero_points", "q_per_channel_axis"):
        with pytest.raises(RuntimeError, match=rf"{method}\(\).*use q_"):
            getattr(q, method)()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_channel_parameters(axis: int) -> None:
    x = torch.randn(2, 3, 4)
    count = x.shape[axis]
    scales, zeros = torch.rand(count) + 0.05, torch.arange(count, dtype=torch.int32)
    q = octavo.quantize_per_channel(x, scales, zeros, axis, octavo.qint8)
    assert torch.equal(q.q_per_channel_scales(), scales.double())
    assert torch.equal(q.q_per_channel_zero_points(), zeros.long())
    assert q.q_per_channel_axis() == axis % 3
    assert q.qscheme() == octavo.per_channel_affine
    for method in ("q_scale", "q_zero_point"):
        with pytest.raises(RuntimeError, match=rf"{method}\(\).*use q_per_channel_"):
            getattr(q, method)()
    for c in range(count):
        one = octavo.quantize_per_tensor(x.select(axis, c), scales[c], zeros[c], octavo.qint8)
        assert torch.equal(q.int_repr().select(axis, c), one.int_repr())
        assert torch.equal(q.dequantize().select(axis, c), one.dequantize())


def test_results_are_copies() -> None:
    q, c = per_tensor(), per_channel()
    before, channels_before = q.dequantize(), c.dequantize()
    q.int_repr().fill_(1)
    c.q_per_channel_scales().fill_(9.0)
    c.q_per_channel_zero_points().fill_(9)
    assert torch.equal(q.dequantize(), before)
    assert torch.equal(c.dequantize(), channels_before)


def test_list_of_tensors() -> None:
    xs = [torch.randn(2), torch.randn(3)]
    got = octavo.quantize_per_tensor(
        xs, torch.tensor([0.1, 0.2]), torch.tensor([0, 3]), octavo.quint8
    )
    assert [q.q_zero_point() for q in got] == [0, 3]
    assert [tuple(x.shape) for x in octavo.dequantize(got)] == [(2,), (3,)]
    with pytest.raises(ValueError, match="2 tensors need as many scales and zero points"):
        octavo.quantize_per_tensor(xs, torch.tensor([0.1]), torch.tensor([0]), octavo.quint8)


def test_dequantize_function() -> None:
    q = per_tensor()
    assert torch.equal(octavo.dequantize(q), q.dequantize())
    assert torch.equal(torch.dequantize(q), q.dequantize())
    assert octavo.dequantize(torch.ones(2, dtype=torch.float64)).dtype == torch.float32
    for wrong in (torch.ones(2, dtype=torch.int8), 3.0):
        with pytest.raises(TypeError, match="dequantize: input: expected a QTensor"):
            octavo.dequantize(wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8])
def test_only_float32_is_quantized(dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype)
    with pytest.raises(TypeError, match=rf"expected torch.float32, got {dtype}.*\.float\(\)"):
        octavo.quantize_per_tensor(x, 0.1, 0, octavo.quint8)
    with pytest.raises(TypeError, match=rf"expected torch.float32, got {dtype}.*\.float\(\)"):
        octavo.quantize_per_channel(x, torch.ones(3), torch.zeros(3).long(), 0, octavo.quint8)


def test_wrong_quantize_arguments() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="scale: must be finite and positive, got 0"):
        octavo.quantize_per_tensor(x, 0, 0, octavo.quint8)
    with pytest.raises(ValueError, match="scale: must be finite and positive, got nan"):
        octavo.quantize_per_tensor(x, math.nan, 0, octavo.quint8)
    with pytest.raises(ValueError, match="zero_point: -1 is outside"):
        octavo.quantize_per_tensor(x, 0.1, -1, octavo.quint8)
    with pytest.raises(TypeError, match=r"dtype: torch\.float32"):
        octavo.quantize_per_tensor(x, 0.1, 0, torch.float32)
    with pytest.raises(TypeError, match="already quantized"):
        octavo.quantize_per_tensor(per_tensor(), 0.1, 0, octavo.quint8)
    with pytest.raises(TypeError, match="expected a tensor, got ndarray"):
        octavo.quantize_per_tensor(np.ones(3), 0.1, 0, octavo.quint8)
    with pytest.raises(ValueError, match="dense CPU tensor"):
        octavo.quantize_per_tensor(x.to("meta"), 0.1, 0, octavo.quint8)
    with pytest.raises(ValueError, match="axis: 1 is out of range"):
        octavo.quantize_per_channel(x, torch.ones(3), torch.zeros(3).long(), 1, octavo.quint8)


def test_scales_at_the_ends_of_float32(reading: str) -> None:
    """The ways to quantize, one of which has C++ decide, accept the same ones."""
    x = torch.ones(3)
    for end in (2.0**128 - 2.0**103, 2.0**-128 + 2.0**-150):
        for scale in (math.nextafter(end, 0.0), end, math.nextafter(end, math.inf)):
            try:
                expected = ordinary(
                    lambda s=scale: octavo.quantize_per_tensor(x, s, 0, octavo.quint8)
                )
            except ValueError:
                with pytest.raises(ValueError, match="outside the range of float32"):
                    octavo.quantize_per_tensor(x, scale, 0, octavo.quint8)
            else:
                same(octavo.quantize_per_tensor(x, scale, 0, octavo.quint8), expected)


def test_input_that_requires_grad() -> None:
    x = torch.ones(3, requires_grad=True)
    q = octavo.quantize_per_tensor(x, 0.1, 0, octavo.quint8)
    assert not q.requires_grad
    assert not q.dequantize().requires_grad


def test_from_int_repr_shares_and_checks() -> None:
    ints = torch.zeros(3, dtype=torch.uint8)
    q = QTensor.from_int_repr(ints, 0.5, 2)
    ints[0] = 4
    assert q.dequantize().tolist() == [1.0, -1.0, -1.0]
    with pytest.raises(TypeError, match=r"int_tensor: expected torch\.uint8.*got torch.int64"):
        QTensor.from_int_repr(ints.long(), 0.5, 2)
    with pytest.raises(TypeError, match="int_tensor: expected a plain tensor, got QTensor"):
        QTensor.from_int_repr(q, 0.5, 2)
    with pytest.raises(ValueError, match="int_tensor: expected a dense CPU tensor"):
        QTensor.from_int_repr(ints.to("meta"), 0.5, 2)
    with pytest.raises(TypeError, match="not constructed directly"):
        QTensor([1, 2])


def test_symmetric_schemes() -> None:
    ints = torch.zeros(2, 3, dtype=torch.int8)
    q = QTensor.from_int_repr(ints, 0.5, 0, qscheme=octavo.per_tensor_symmetric)
    assert q[0].qscheme() == octavo.per_tensor_symmetric
    q = QTensor.from_int_repr(ints, [0.5] * 3, [0] * 3, 1, octavo.per_channel_symmetric)
    assert q.t().qscheme() == octavo.per_channel_symmetric
    assert q[:, 1].qscheme() == octavo.per_tensor_symmetric
    QTensor.from_int_repr(ints.view(torch.uint8), 0.5, 128, qscheme="per_tensor_symmetric")
    with pytest.raises(ValueError, match="does not fit the scheme per_tensor_symmetric"):
        QTensor.from_int_repr(ints, 0.5, 1, qscheme=octavo.per_tensor_symmetric)
    with pytest.raises(ValueError, match="axis: got None with the scheme per_channel_affine"):
        QTensor.from_int_repr(ints, 0.5, 0, qscheme=octavo.per_channel_affine)


# Copies and files


@pytest.mark.parametrize("make", EITHER)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["pickle", "deepcopy", "save", "weights_only"])
def test_round_trip(make: Any, dtype: Any, method: str) -> None:
    q = make(dtype)
    if method == "pickle":
        back = pickle.loads(pickle.dumps(q))
    elif method == "deepcopy":
        back = copy.deepcopy(q)
    else:
        file = io.BytesIO()
        torch.save({"q": q, "again": q}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=method == "weights_only")
        back = loaded["q"]
        assert loaded["again"] is back
    assert torch.equal(back, q)
    assert back.dtype is dtype
    assert back.qscheme() == q.qscheme()
    before = q.dequantize()
    back.fill_(0.0)
    assert torch.equal(q.dequantize(), before)


def test_deepcopy_keeps_sharing() -> None:
    q = per_tensor()
    one, two, row = copy.deepcopy([q, q, q[0]])
    assert one is two
    one.fill_(1.0)
    assert bool((row == 1.0).all())


def test_copy_shares_storage() -> None:
    q = per_tensor()
    other = copy.copy(q)
    assert other is not q
    other.fill_(1.0)
    assert bool((q == 1.0).all())


def test_corrupted_file_is_refused() -> None:
    q = per_tensor()
    rebuild, args = q.__reduce_ex__(2)
    with pytest.raises(ValueError, match="scale"):
        rebuild(args[0], math.nan, *args[2:])
    with pytest.raises(TypeError, match="int_tensor"):
        rebuild(args[0].float(), *args[1:])
    with pytest.raises(TypeError, match="qscheme"):
        rebuild(*args[:-1], "none")


def test_module_buffer() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("q", per_tensor())

    net, fresh = Net(), Net()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.q, net.q)
    net.to("cpu").double().half()
    assert net.q.dtype is octavo.quint8
    assert "dtype=octavo.quint8" in repr(copy.deepcopy(net).q)
    parameter = torch.nn.Parameter(per_tensor(), requires_grad=False)
    assert isinstance(parameter, QTensor)


def test_sent_to_another_process() -> None:
    context = multiprocessing.get_context("spawn")
    q = per_tensor().share_memory_()
    assert q.is_shared()
    queue = context.Queue()
    process = context.Process(target=send_back, args=(queue, q))
    process.start()
    assert queue.get(timeout=120) == ("QTensor", 0.1, q.tolist())
    process.join()


def test_threads_make_qtensors() -> None:
    x = torch.randn(1000)
    want = octavo.quantize_per_tensor(x, 0.1, 3, octavo.quint8)
    wrong: list[int] = []

    def work() -> None:
        for i in range(50):
            q = octavo.quantize_per_tensor(x, 0.1, 3, octavo.quint8)
            if not torch.equal(torch.relu(q), torch.relu(want)):
                wrong.append(i)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# Printing and Python protocols


def test_repr_is_that_of_torch() -> None:
    x = torch.randn(2, 3)
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([1, 2])
    ours = [
        octavo.quantize_per_tensor(x, 0.1, 10, octavo.quint8),
        octavo.quantize_per_tensor(x[0, 0], 0.1, 10, octavo.qint8),
        octavo.quantize_per_tensor(torch.empty(0, 3), 0.1, 10, octavo.quint8),
        octavo.quantize_per_channel(x, scales, zeros, 0, octavo.qint8),
    ]
    with torch_quantized() as torch_:
        theirs = [
            torch_.quantize_per_tensor(x, 0.1, 10, torch_.quint8),
            torch_.quantize_per_tensor(x[0, 0], 0.1, 10, torch_.qint8),
            torch_.quantize_per_tensor(torch.empty(0, 3), 0.1, 10, torch_.quint8),
            torch_.quantize_per_channel(x, scales, zeros, 0, torch_.qint8),
        ]
        for our, their in zip(ours, theirs, strict=True):
            # Line breaks may differ, because the names of our dtypes are longer.
            want = repr(their).replace("torch.q", "octavo.q")
            assert " ".join(repr(our).split()) == " ".join(want.split())
    assert max(map(len, repr(ours[3]).splitlines())) <= 80


def test_python_protocols() -> None:
    q = per_tensor()
    assert len(q) == 2
    assert [tuple(row.shape) for row in q] == [(3, 4), (3, 4)]
    assert {q: 1}[q] == 1
    one = q[0, 0, 0]
    value = one.dequantize().item()
    assert (one.item(), float(one), int(one), bool(one)) == (value, value, int(value), value != 0)
    assert f"{one:.3f}" == f"{value:.3f}"
    assert f"{q}" == str(q) == repr(q)
    assert q.tolist() == q.dequantize().tolist()
    assert value in q
    assert 1e9 not in q
    assert torch.equal(next(iter(reversed(q))), q[1])
    assert "dequantize" in dir(q)
    with pytest.raises(TypeError, match="0-d"):
        iter(one)
    with pytest.raises(RuntimeError):
        bool(q)
    with pytest.raises(RuntimeError):
        q.item()


def test_metadata() -> None:
    q = per_tensor(octavo.qint32, (2, 3, 4, 5)).to(memory_format=torch.channels_last)
    assert q.shape == q.size() == (2, 3, 4, 5)
    assert q.size(1) == 3
    assert (q.dim(), q.ndim, q.numel(), q.nelement()) == (4, 4, 120, 120)
    assert q.stride() == q.int_repr().stride() == (60, 1, 15, 3)
    assert q.is_contiguous(memory_format=torch.channels_last)
    assert not q.is_contiguous()
    assert (q.element_size(), q.itemsize, q.nbytes) == (4, 4, 480)
    assert q.device == torch.device("cpu")
    assert q.layout == torch.strided
    assert not q.is_floating_point()
    assert not torch.is_complex(q)
    assert q.is_signed()
    assert q.type() == "octavo.qint32"
    assert (q.requires_grad, q.grad, q.grad_fn, q.is_leaf) == (False, None, None, True)
    assert q.storage_offset() == 0
    assert q.data_ptr() == q.data.data_ptr() == q.detach().data_ptr()
    assert torch.is_tensor(q)
    assert torch.is_same_size(q, torch.empty(2, 3, 4, 5))


# Assignment


def test_assignment_quantizes_with_the_targets_parameters() -> None:
    q = per_tensor()
    values = torch.randn(3, 4)
    q[0] = values
    assert torch.equal(q[0], octavo.quantize_per_tensor(values, 0.1, 7, octavo.quint8))
    q[1, :, 2] = 1.23
    assert bool((q[1, :, 2].int_repr() == 19).all())
    q[q.int_repr() > 200] = 0.0
    other = octavo.quantize_per_tensor(values, 0.2, 100, octavo.quint8)
    q[1] = other
    assert (q[1].dequantize() - other.dequantize().clamp(min=-0.7)).abs().max() <= 0.05001
    q[0] = q[1]
    assert torch.equal(q[0], q[1])
    q.fill_(-100.0)
    assert bool((q.int_repr() == 0).all())
    q.zero_()
    assert bool((q.int_repr() == 7).all())
    q.masked_fill_(torch.ones(4, dtype=torch.bool), 0.3)
    assert bool((q.masked_fill(q == 0, 5.0).int_repr() == 10).all())


def test_assignment_per_channel() -> None:
    q = per_channel()
    values = torch.randn(2, 4)
    q[:, 1] = values
    assert torch.equal(q[:, 1], octavo.quantize_per_tensor(values, 0.25, 1, octavo.quint8))
    q[0] = torch.ones(3, 4)
    assert torch.equal(q[0].int_repr()[:, 0], torch.tensor([8, 5, 5], dtype=torch.uint8))
    q.zero_()
    assert bool((q == 0).all())


def test_copy_takes_the_parameters_of_a_quantized_source() -> None:
    q, other = per_tensor(), QTensor.from_int_repr(per_tensor().int_repr(), 0.3, 1)
    first, before = q[0], q[0].dequantize()
    q.copy_(other)
    assert torch.equal(q, other)
    assert torch.equal(first.dequantize(), before)
    row = per_tensor()[0]
    with pytest.raises(RuntimeError, match=r"q\[\.\.\.\] = source"):
        row.copy_(other[0])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="view"):
        per_tensor()[0].copy_(other[0])
    q.copy_(torch.zeros(2, 3, 4))
    assert bool((q.int_repr() == 1).all())
    with pytest.raises(TypeError, match=r"copy_\(\).*Its target is octavo.quint8"):
        q.copy_(per_tensor(octavo.qint8))
    with pytest.raises(TypeError, match=r"float32 values, got torch\.float64"):
        q.copy_(torch.zeros(2, 3, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"source\.dequantize\(\)"):
        torch.zeros(2, 3, 4).copy_(q)
    with pytest.raises(TypeError, match=r"dequantize\(\) the value"):
        torch.zeros(2, 3, 4)[0] = q[0]


def test_joining_across_dtypes_and_schemes_is_refused() -> None:
    q = per_tensor()
    for other in (torch.zeros(2, 3, 4), per_tensor(octavo.qint8), per_channel()):
        for join in (torch.cat, torch.stack):
            with pytest.raises(TypeError, match="does not support"):
                join([q, other])
            with pytest.raises(TypeError, match="does not support"):
                join([other, q])
    with pytest.raises(ValueError, match="shapes differ"):
        torch.stack([q, q[0]])
    with pytest.raises(RuntimeError):
        torch.cat([q, q[0]])
