"""Direct entry points: the same results as the ordinary way, whatever reads and makes the tensors,
and no trace of how they were made."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
from direct_support import DEFAULT, ordinary, same
from module_support import generator, random_q, random_weight
from octavo import _C, QTensor
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.ops import direct


def linear(cls: Any = nnq.Linear, k: int = 32, n: int = 64, dtype: str = "quint8") -> Any:
    g = generator(k + n)
    module = cls(k, n)
    module.set_weight_bias(random_weight((n, k), g), torch.randn(n, generator=g))
    module._set_output(0.11, 5, getattr(octavo, dtype))
    return module


def conv(
    cls: Any = nnq.Conv2d, channels: int = 8, outputs: int = 12, size: int = 3, **kwargs: Any
) -> Any:
    g = generator(channels)
    module = cls(channels, outputs, size, **kwargs)
    shape = (outputs, channels // kwargs.get("groups", 1), size, size)
    module.set_weight_bias(random_weight(shape, g), torch.randn(outputs, generator=g))
    module.scale, module.zero_point = 0.2, 90
    return module


def taken(module: Any, *inputs: Any) -> Any:
    """The result of the direct entry point; fails where it is not taken."""
    args = (module._scale, module._zero_point, module._out_qdtype, module._relu)
    result = module._packed.direct(inputs[0], *args, *inputs[1:])
    assert result is not None
    return result


def with_int(q: QTensor, ints: Tensor) -> QTensor:
    return QTensor._wrap(ints, q._scale, q._zero_point, q._qdtype)


def test_the_exchange_table_is_used_where_torch_has_it() -> None:
    assert (DEFAULT == "exchange") == hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10):
        assert DEFAULT == "exchange"


def test_unknown_access_is_refused() -> None:
    with pytest.raises(ValueError, match="none, attributes or exchange, got other"):
        _C.set_tensor_access("other")


@pytest.mark.kernel
@pytest.mark.parametrize("cls", [nnq.Linear, nniq.LinearReLU])
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize("shape", [(32,), (1, 32), (7, 32), (2, 3, 32), (1, 1, 2, 1, 3, 1, 32)])
def test_linear(reading: str, cls: Any, dtype: str, shape: tuple[int, ...]) -> None:
    module = linear(cls, dtype=dtype)
    x = random_q(shape, generator(1), dtype="quint8" if dtype == "qint8" else "qint8")
    same(taken(module, x), ordinary(lambda: module(x)))
    same(module(x), ordinary(lambda: module(x)))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, :32],
        lambda t: t[::2, 3:35],
        lambda t: t[:1, 3:35],
        lambda t: t[:6, :32].reshape(6, 32)[None].expand(3, 6, 32)[:, 0],
    ],
)
def test_linear_reads_rows_with_gaps_in_place(reading: str, view: Any) -> None:
    module, whole = linear(), random_q((8, 40), generator(2))
    x = with_int(whole, view(whole._int))
    same(taken(module, x), ordinary(lambda: module(x)))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, ::2],  # elements of a row apart
        lambda t: t[:32, :8].t(),
        lambda t: t.reshape(4, 16, 64)[:, :8, :32],  # rows at two strides
        lambda t: t[:0, :32],
    ],
)
def test_linear_leaves_other_layouts_to_the_ordinary_way(reading: str, view: Any) -> None:
    module, whole = linear(), random_q((64, 64), generator(2))
    x = with_int(whole, view(whole._int))
    assert module._packed.direct(x, 0.1, 3, octavo.quint8, False) is None
    same(module(x), ordinary(lambda: module(x)))


@pytest.mark.kernel
@pytest.mark.parametrize(
    "module",
    [
        conv(),
        conv(padding=1, stride=2),
        conv(padding="same", size=2),
        conv(size=1),
        conv(channels=3),
        conv(channels=1),
        conv(outputs=8, groups=8, padding=1),
        conv(nniq.ConvReLU2d, groups=2, padding=1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_conv2d(reading: str, module: Any, batch: int) -> None:
    x = random_q((batch, 9, 7, module.in_channels), generator(4))
    x = with_int(x, x._int.permute(0, 3, 1, 2))
    same(taken(module, x), ordinary(lambda: module(x)))
    same(module(x), ordinary(lambda: module(x)))
    crop = with_int(x, x._int[:, :, 1:6, 2:])
    same(taken(module, crop), ordinary(lambda: module(crop)))
    nchw = with_int(x, x._int.contiguous())
    same(module(nchw), ordinary(lambda: module(nchw)))
    unbatched = with_int(x, x._int[0])
    same(module(unbatched), ordinary(lambda: module(unbatched)))


def channels_last(q: QTensor) -> QTensor:
    return with_int(q, q._int.movedim(1, -1).contiguous().movedim(-1, 1))


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (nnq.Conv1d, (9,)),
        (nniq.ConvReLU1d, (1,)),
        (nnq.Conv2d, (1, 5)),
        (nnq.Conv3d, (4, 3, 5)),
        (nniq.ConvReLU3d, (1, 1, 7)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("groups", [1, 8])
def test_conv_of_every_rank(
    reading: str, cls: Any, shape: tuple[int, ...], batch: int, groups: int
) -> None:
    rank, g = len(shape), generator(6)
    module = cls(8, 16, 3, padding=1, groups=groups)
    weight = random_weight((16, 8 // groups, *(3,) * rank), g)
    module.set_weight_bias(weight, torch.randn(16, generator=g))
    module.scale, module.zero_point = 0.2, 90
    x = channels_last(random_q((batch, 8, *shape), g))
    same(taken(module, x), ordinary(lambda: module(x)))
    unbatched = with_int(x, x._int[0])
    same(taken(module, unbatched), ordinary(lambda: module(unbatched)))
    crop = with_int(x, x._int[..., : max(1, shape[-1] - 2)])
    same(taken(module, crop), ordinary(lambda: module(crop)))
    strided = with_int(x, x._int[..., ::2])
    same(taken(module, strided), ordinary(lambda: module(strided)))
    for planes in (with_int(x, x._int.contiguous()), with_int(x, x._int[0].contiguous())):
        same(taken(module, planes), ordinary(lambda planes=planes: module(planes)))
    one_more = with_int(x, x._int[None])
    args = (module._scale, module._zero_point, module._out_qdtype, module._relu)
    assert module._packed.direct(one_more, *args) is None


@pytest.mark.parametrize("clamp", [(0, 6.0), (0.0,), [0.0, 6.0], (2.0, 1.0), 6.0])
def test_conv_leaves_odd_clamps_to_the_ordinary_way(reading: str, clamp: Any) -> None:
    module = conv()
    x = channels_last(random_q((1, 8, 6, 6), generator(4)))
    args = (module._scale, module._zero_point, module._out_qdtype, module._relu, None)
    assert module._packed.direct(x, *args, (0.0, 6.0)) is not None
    assert module._packed.direct(x, *args, clamp) is None


def test_conv2d_reads_channels_of_a_wider_image_in_place(reading: str) -> None:
    module, whole = conv(padding=1), random_q((2, 5, 6, 20), generator(4))
    x = with_int(whole, whole._int.permute(0, 3, 1, 2)[:, 4:12])
    same(taken(module, x), ordinary(lambda: module(x)))


def test_conv2d_with_padding_modes_and_small_images(reading: str) -> None:
    x = random_q((1, 8, 6, 6), generator(4))
    module = conv(padding=1, padding_mode="reflect")
    same(module(x), ordinary(lambda: module(x)))
    with pytest.raises(RuntimeError, match=r"Conv2d: .*smaller than the kernel"):
        conv(size=7)(x)


@pytest.mark.kernel
@pytest.mark.parametrize("cls", [nniq.ConvAdd2d, nniq.ConvAddReLU2d])
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
def test_conv_add(reading: str, cls: Any, dtype: str) -> None:
    module, g = conv(cls, padding=1), generator(5)
    x = with_int(q := random_q((2, 5, 6, 8), g), q._int.permute(0, 3, 1, 2))
    q = random_q((2, 5, 6, 12), g, 0.3, 7, dtype)
    add = with_int(q, q._int.permute(0, 3, 1, 2))
    same(taken(module, x, add), ordinary(lambda: module(x, add)))
    nchw = with_int(add, add._int.contiguous())
    same(module(x, nchw), ordinary(lambda: module(x, add)))
    with pytest.raises(ValueError, match="add: expected the output's shape"):
        module(x, with_int(add, add._int[:, :, :4]))
    with pytest.raises(TypeError, match="extra_input must be a quantized tensor"):
        module(x, torch.zeros(2, 12, 5, 6))


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("dtype", "zero"), [("quint8", 100), ("qint8", -3), ("qint32", 1000), ("qint32", -(2**31))]
)
@pytest.mark.parametrize("shape", [(1,), (5, 7), (2, 3, 4, 5), (1, 1, 1, 1)])
def test_quantize_and_dequantize(
    reading: str, dtype: str, zero: int, shape: tuple[int, ...]
) -> None:
    module = nnq.Quantize(0.013, zero, getattr(octavo, dtype))
    back = nnq.DeQuantize()
    x = torch.randn(shape, generator=generator(6))
    forms = [x, x.clone().requires_grad_()]
    if x.dim() == 4:
        forms += [x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)]
    for form in forms:
        with torch.no_grad():
            q = module(form)
            same(q, ordinary(lambda form=form: module(form)))
            same(back(q), ordinary(lambda q=q: back(q)))
            args = (form, 0.013, zero, getattr(octavo, dtype))
            got = octavo.quantize_per_tensor(*args)
            same(got, ordinary(lambda args=args: octavo.quantize_per_tensor(*args)))
            same(torch.relu(q), ordinary(lambda q=q: torch.relu(q)))
    assert direct.quantize(x, 0.013, zero, getattr(octavo, dtype)) is not None
    assert direct.dequantize(module(x)) is not None


def test_special_values(reading: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, 3e38])
    module = nnq.Quantize(0.1, 7, octavo.qint8)
    same(module(x), ordinary(lambda: module(x)))


def test_negative_bit_is_no_part_of_the_memory(reading: str) -> None:
    x = torch.complex(torch.tensor([1.0]), torch.tensor([2.0])).conj().imag
    assert x.is_neg()
    module = nnq.Quantize(0.1, 7, octavo.qint8)
    assert direct.quantize(x, 0.1, 7, octavo.qint8) is None
    assert module(x).int_repr().tolist() == [-13]


class Subclass(torch.Tensor):
    pass


NOT_TAKEN: list[tuple[str, Callable[[], Any]]] = [
    ("a float tensor", lambda: torch.randn(1, 32)),
    ("a plain integer tensor", lambda: torch.zeros(1, 32, dtype=torch.uint8)),
    ("a number", lambda: 3.0),
    ("nothing", lambda: None),
    ("other features", lambda: random_q((1, 31), generator(1))),
    ("no rows", lambda: random_q((0, 32), generator(1))),
    ("no dimension", lambda: random_q((), generator(1))),
    ("nine dimensions", lambda: random_q((1,) * 8 + (32,), generator(1))),
    (
        "many scales",
        lambda: octavo.quantize_per_channel(
            torch.randn(1, 32), torch.ones(32), torch.zeros(32).long(), 1, octavo.quint8
        ),
    ),
    (
        "32-bit integers",
        lambda: octavo.quantize_per_tensor(torch.randn(1, 32), 0.1, 0, octavo.qint32),
    ),
    ("a subclass of QTensor", lambda: linear(n=32).weight),
    (
        "a subclass inside",
        lambda: QTensor._wrap(
            torch.zeros(1, 32, dtype=torch.uint8).as_subclass(Subclass), 0.1, 0, octavo.quint8
        ),
    ),
    (
        "a scale that is no float",
        lambda: QTensor._wrap(torch.zeros(1, 32, dtype=torch.uint8), 1, 0, octavo.quint8),
    ),
    (
        "a zero point beyond 32 bits",
        lambda: QTensor._wrap(torch.zeros(1, 32, dtype=torch.uint8), 0.1, 2**40, octavo.quint8),
    ),
    (
        "another storage",
        lambda: QTensor._wrap(torch.zeros(1, 32, dtype=torch.int8), 0.1, 0, octavo.quint8),
    ),
    (
        "a meta tensor",
        lambda: QTensor._wrap(
            torch.zeros(1, 32, dtype=torch.uint8, device="meta"), 0.1, 0, octavo.quint8
        ),
    ),
    (
        "a sparse tensor",
        lambda: QTensor._wrap(
            torch.ones(1, 32, dtype=torch.uint8).to_sparse(), 0.1, 0, octavo.quint8
        ),
    ),
    (
        "a zero point out of range",
        lambda: QTensor._wrap(torch.zeros(1, 32, dtype=torch.uint8), 0.1, 256, octavo.quint8),
    ),
    (
        "a scale of infinity",
        lambda: QTensor._wrap(
            torch.zeros(1, 32, dtype=torch.uint8), float("inf"), 0, octavo.quint8
        ),
    ),
    ("an object without slots", lambda: QTensor._make_subclass(QTensor, torch.zeros(1, 32))),
]


@pytest.mark.parametrize(("what", "make"), NOT_TAKEN, ids=[what for what, _ in NOT_TAKEN])
def test_what_is_not_taken_is_left_without_an_error(
    reading: str, what: str, make: Callable[[], Any]
) -> None:
    x = make()
    assert linear()._packed.direct(x, 0.1, 3, octavo.quint8, False) is None
    image = conv()
    assert image._packed.direct(x, 0.1, 3, octavo.quint8, False) is None


@pytest.mark.parametrize(
    "args",
    [
        (),
        (0.1, 3, octavo.quint8),
        (0.1, 3, octavo.quint8, False, None, None),
        (1, 3, octavo.quint8, False),
        (0.1, 3.0, octavo.quint8, False),
        (0.1, 3, octavo.qint32, False),
        (0.1, 3, torch.quint8, False),
        (0.1, 300, octavo.quint8, False),
        (float("nan"), 3, octavo.quint8, False),
        (1e-45, 3, octavo.quint8, False),
    ],
)
def test_wrong_output_arguments_are_left_without_an_error(
    reading: str, args: tuple[Any, ...]
) -> None:
    assert linear()._packed.direct(random_q((1, 32), generator(1)), *args) is None


def test_quantize_leaves_what_it_does_not_take(reading: str) -> None:
    for x in (
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, device="meta"),
        torch.zeros(0),
        torch.zeros(()),
        torch.zeros(4, 6)[:, ::2],
        nn.Parameter(torch.zeros(3)),
        "x",
    ):
        assert direct.quantize(x, 0.1, 3, octavo.quint8) is None
    assert direct.quantize(torch.zeros(3), 0.1, 256, octavo.quint8) is None
    assert direct.quantize(torch.zeros(3), 1e-45, 3, octavo.quint8) is None
    same(
        nnq.Quantize(0.1, 3, octavo.quint8)(torch.zeros(())),
        ordinary(lambda: nnq.Quantize(0.1, 3, octavo.quint8)(torch.zeros(()))),
    )


def test_methods_check_their_object() -> None:
    with pytest.raises(TypeError):
        _C.LinearWeight.run_direct(conv()._packed._packed, None, 0.1, 3, octavo.quint8, False)


def test_changed_qparams_are_seen_by_the_next_call(reading: str) -> None:
    module, x = linear(), random_q((2, 32), generator(3))
    for scale, zero in [(0.3, 4), (0.3, 9), (0.01, 9), (0.3, 4)]:
        module.scale, module.zero_point = scale, zero
        same(module(x), ordinary(lambda: module(x)))
    module.set_weight_bias(random_weight((64, 32), generator(9)), None)
    same(module(x), ordinary(lambda: module(x)))


def test_hooks_copies_and_pickles(reading: str) -> None:
    module, x = linear(), random_q((2, 32), generator(3))
    expected = module(x)
    seen: list[str] = []
    module.register_forward_pre_hook(lambda m, args: seen.append("before"))
    module.register_forward_hook(lambda m, args, out: seen.append("after"))
    module(x)
    assert seen == ["before", "after"]
    plain = linear()
    plain(x)
    same(copy.deepcopy(plain)(x), expected)
    same(pickle.loads(pickle.dumps(plain))(x), expected)


def test_results_are_ordinary_tensors(reading: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 5)
    q = nnq.Quantize(0.1, 3, octavo.quint8)(x)
    values = nnq.DeQuantize()(q)
    expected = values.clone()
    values += 1
    assert values._version == 1
    values.requires_grad_()
    (values * values).sum().backward()
    assert torch.equal(values.grad, 2 * (expected + 1))
    assert torch.equal(torch.from_numpy(values.detach().numpy()), expected + 1)
    assert values.data_ptr() % 64 == 0
    torch.save((q, values.detach()), tmp_path / "file")
    loaded, _ = torch.load(tmp_path / "file", weights_only=False)
    same(loaded, q)
    shared = values.detach().share_memory_()
    assert shared.is_shared()
    assert torch.equal(shared, expected + 1)
    with torch.inference_mode():
        assert linear()(random_q((1, 32), generator(1)))._int.is_inference()


def test_memory_outlives_the_tensor_it_was_made_with(reading: str) -> None:
    module, x = linear(), random_q((4, 32), generator(3))
    expected = ordinary(lambda: module(x)).int_repr()
    view = module(x)._int[1:, 3:]
    gc.collect()
    for _ in range(50):
        module(random_q((4, 32), generator(8)))
    assert torch.equal(view, expected[1:, 3:])


def test_references_are_given_back(reading: str) -> None:
    module, x = linear(), random_q((4, 32), generator(3))
    image = conv(nniq.ConvAdd2d, padding=1)
    pixels = with_int(q := random_q((1, 4, 4, 8), generator(1)), q._int.permute(0, 3, 1, 2))
    add = with_int(q := random_q((1, 4, 4, 12), generator(1)), q._int.permute(0, 3, 1, 2))
    values = torch.randn(4, 32)
    kept = [
        x, x._int, x._scale, x._qdtype, QTensor, module, module._packed, module._scale, values,
        pixels, add, add._int, octavo.quint8, octavo.per_tensor_affine, torch.uint8, None,
    ]  # fmt: skip
    wrong = random_q((4, 31), generator(3))

    def calls() -> None:
        module(x)
        image(pixels, add)
        x.dequantize()
        direct.quantize(values, module._scale, 3, octavo.quint8)
        module._packed.direct(wrong, 0.1, 3, octavo.quint8, False)
        module._packed.direct(x, 0.1, 300, octavo.quint8, False)
        direct.quantize(torch.zeros(3, device="meta"), 0.1, 3, octavo.quint8)

    for _ in range(3):
        calls()
    before = [sys.getrefcount(thing) for thing in kept]
    for _ in range(200):
        calls()
    after = [sys.getrefcount(thing) for thing in kept]
    # None has other users too.
    assert all(abs(a - b) < 20 for a, b in zip(after, before, strict=True)), (before, after)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_is_given_back(reading: str) -> None:
    q = octavo.quantize_per_tensor(torch.randn(512, 512), 0.1, 3, octavo.quint8)
    module = linear(k=512, n=512)

    def calls() -> None:
        q.dequantize()
        module(q)
        module._packed.direct(q, 1e-45, 3, octavo.quint8, False)  # fails after the output is made

    for _ in range(20):
        calls()
    before = resident_bytes()
    for _ in range(200):  # makes 300 MB
        calls()
    assert resident_bytes() - before < 30e6


def test_threads_share_a_module(reading: str) -> None:
    module = linear()
    inputs = [random_q((3, 32), generator(i), 0.01 + 0.01 * i, 3 + i) for i in range(7)]
    expected = [ordinary(lambda x=x: module(x)) for x in inputs]
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for i in range(300):
                at = (first + i) % len(inputs)
                same(module(inputs[at]), expected[at])
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch announces its end
def test_jit_script_is_refused_by_the_module_that_it_cannot_compile() -> None:
    model = nn.Sequential(nn.Identity(), nnq.dynamic.Linear(4, 4))
    with pytest.raises(RuntimeError, match=r"Linear: torch\.jit\.script cannot compile"):
        torch.jit.script(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch announces the end of jit.trace
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_is_refused(reading: str) -> None:
    module, x = linear(), random_q((1, 32), generator(1))
    model = nn.Sequential(nnq.Quantize(0.1, 3, octavo.quint8), module, nnq.DeQuantize())
    values = torch.randn(1, 32)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(model, values)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(lambda t: module.forward(x)._int + t, values)
    assert direct.dequantize(x) is not None


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_without_memory_are_errors_not_crashes(reading: str) -> None:
    from torch._subclasses import FakeTensor, FakeTensorMode

    model = nn.Sequential(nnq.Quantize(0.1, 3, octavo.quint8), linear(), nnq.DeQuantize())
    x = torch.randn(1, 32)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = model(mode.from_tensor(x))
        assert isinstance(fake, FakeTensor)
        assert fake.shape == (1, 64)
    with pytest.raises(RuntimeError, match="no memory"):
        torch.func.functionalize(model)(x)
    with pytest.raises(RuntimeError):
        torch.vmap(model)(x)
    expected = model(x)
    with torch.device("meta"):
        assert torch.equal(model(x), expected)
    with torch.device("meta"), pytest.raises(RuntimeError, match="no memory"):
        ordinary(lambda: model(x))
