"""The one-call step of fake-quantize modules against the same step in torch's operations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import octavo
import octavo.quantization as tq
from octavo import _C, backend
from octavo.quantization import fake_quantize_step

ISAS = backend.supported()


@pytest.fixture(params=["exchange", "attributes"])
def access(request: pytest.FixtureRequest) -> Iterator[str]:
    """The two ways in which the kernels read tensors."""
    before = _C.tensor_access()
    if not _C.set_tensor_access(request.param):
        pytest.skip("this torch has no __dlpack_c_exchange_api__")
    yield request.param
    _C.set_tensor_access(before)


class InOperations:
    """Leaves the kernels out."""

    def __enter__(self) -> None:
        self.before = _C.tensor_access()
        _C.set_tensor_access("none")

    def __exit__(self, *_: object) -> None:
        _C.set_tensor_access(self.before)


def module(kind: str, observer: Any, **arguments: Any) -> Any:
    scheme = getattr(octavo, kind)
    signed = kind.endswith("symmetric")
    dtype = octavo.qint8 if signed else octavo.quint8
    return tq.FakeQuantize(observer, dtype=dtype, qscheme=scheme, **arguments)


TENSOR = (tq.MinMaxObserver, tq.MovingAverageMinMaxObserver)
CHANNEL = (tq.PerChannelMinMaxObserver, tq.MovingAveragePerChannelMinMaxObserver)
KINDS = [(f"per_tensor_{s}", o) for s in ("affine", "symmetric") for o in TENSOR] + [
    (f"per_channel_{s}", o) for s in ("affine", "symmetric") for o in CHANNEL
]


def state(fake: Any) -> list[torch.Tensor]:
    inner = fake.activation_post_process
    return [inner.min_val, inner.max_val, fake.scale, fake.zero_point.float()]


def step(fake: Any, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient and state afterwards."""
    leaf = x.clone().requires_grad_()
    out = fake(leaf)
    out.backward(weight)
    assert leaf.grad is not None
    return [out.detach(), leaf.grad, *state(fake)]


def took_kernels(fake: Any, x: torch.Tensor) -> bool:
    copied = copy.deepcopy(fake)
    rule = fake_quantize_step.observes_extremes(copied.activation_post_process)
    return fake_quantize_step.fused_step(copied, x, rule, True) is not None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("kind", "observer"), KINDS)
def test_steps_equal_those_in_torchs_operations(kind: str, observer: Any, isa: str) -> None:
    direct, plain = module(kind, observer), module(kind, observer)
    shapes = ((6, 5, 4, 20), (6, 5, 4, 100))  # torch's own function, and several vectorized ones
    with backend.force(isa):
        for round_, factor in enumerate((1.0, 3.0, 0.1, 20.0, 0.0)):
            shape = shapes[round_ % 2]
            x = torch.randn(shape) * factor + 0.5 * factor
            if round_ == 2:
                x[0, 0, 0, 0], x[1, 1, 1, 1], x[3] = torch.nan, torch.inf, -torch.inf
            weight = torch.randn(shape)
            got = step(direct, x, weight)
            with InOperations():
                expected = step(plain, x, weight)
            for a, b in zip(got, expected, strict=True):
                assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        assert took_kernels(direct, torch.randn(shape))
    inner, other = direct.activation_post_process, plain.activation_post_process
    assert inner.nonfinite_count == other.nonfinite_count == 2 + 5 * 4 * 20


@pytest.mark.parametrize("isa", ISAS)
@given(data=st.data())
def test_any_values_round_alike(isa: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=70))
    averages, bits = data.draw(st.booleans()), data.draw(st.sampled_from([2, 4, 7, 8]))
    observer = TENSOR[averages]
    direct, plain = (
        tq.FakeQuantize(observer, quant_min=0, quant_max=2**bits - 1) for _ in range(2)
    )
    x = torch.tensor(values)
    with backend.force(isa):
        got = step(direct, x, torch.ones_like(x))
    with InOperations():
        expected = step(plain, x.repeat(5000), torch.ones_like(x).repeat(5000))
    for a, b in zip(got, expected, strict=True):
        same = b.reshape(-1)[: a.numel()].reshape(a.shape)
        assert torch.equal(a.nan_to_num(7), same.nan_to_num(7))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
def test_layouts_and_axes(axis: int, layout: str, access: str) -> None:
    arguments: Any = {"ch_axis": axis}
    direct, plain = (module("per_channel_affine", CHANNEL[1], **arguments) for _ in range(2))
    x = torch.randn(3, 8, 9, 10) * 3
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "permuted":
        x = torch.randn(9, 10, 3, 8).permute(2, 3, 0, 1)
    if layout == "sliced":
        x = torch.randn(3, 8, 9, 20)[..., ::2]
    weight = torch.randn_like(x)
    for _ in range(2):
        got = step(direct, x, weight)
        with InOperations():
            expected = step(plain, x, weight)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        assert got[0].stride() == expected[0].stride()


@pytest.mark.parametrize("shape", [(40, 1), (40, 3), (5, 30, 1, 1), (600, 30, 1, 1)])
def test_short_runs_of_channels(shape: tuple[int, ...]) -> None:
    arguments: Any = {"ch_axis": 0 if len(shape) == 2 else 1}
    direct, plain = (module("per_channel_affine", CHANNEL[1], **arguments) for _ in range(2))
    for factor in (1.0, 9.0):
        x = torch.randn(shape) * factor
        got = step(direct, x, torch.ones_like(x))
        with InOperations():
            expected = step(plain, x, torch.ones_like(x))
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
    assert took_kernels(direct, torch.randn(shape)) == (shape[0] < 600)


def test_per_tensor_takes_any_dense_layout(access: str) -> None:
    fake = tq.default_fused_act_fake_quant()
    x = torch.randn(4, 5, 6)
    out = fake(x)
    fake.disable_observer()
    for order in ((2, 0, 1), (1, 0, 2), (2, 1, 0)):
        turned = x.permute(order)
        assert took_kernels(fake, turned)
        assert torch.equal(fake(turned), out.permute(order))
    assert not took_kernels(fake, x[:, ::2])
    assert torch.equal(fake(x[:, ::2]), out[:, ::2])


def test_gradients_of_any_layout(access: str) -> None:
    fake = tq.default_fused_act_fake_quant()
    fake(torch.randn(1000))
    fake.disable_observer()
    x = (torch.randn(8, 6, 5) * 2).requires_grad_()
    inside = ((x >= fake(x).min()) & (x <= fake(x).max())).float()
    for gradient in (torch.randn(5, 6, 8).permute(2, 1, 0), torch.ones(()).expand(8, 6, 5)):
        (grad,) = torch.autograd.grad(fake(x), x, gradient)
        differs = grad != gradient * inside
        # Half a step beyond the ends is still within the range.
        assert int(differs.sum()) <= 2
        assert bool((grad[differs] == gradient[differs]).all())


@pytest.mark.parametrize("name", ["default_fused_act", "default_fused_per_channel_wt"])
def test_threads_do_not_matter(name: str) -> None:
    x, weight = torch.randn(64, 4001), torch.randn(64, 4001)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(step(getattr(tq, f"{name}_fake_quant")(), x, weight))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_second_derivatives() -> None:
    """The gradient is a linear function of the one that comes in."""
    fake = tq.default_fused_act_fake_quant()
    x = torch.randn(50, requires_grad=True)
    weight = torch.randn(50, requires_grad=True)
    (grad,) = torch.autograd.grad(fake(x), x, weight, create_graph=True)
    (again,) = torch.autograd.grad(grad.sum(), weight)
    assert torch.equal(grad.detach(), weight.detach() * again)
    assert set(again.tolist()) <= {0.0, 1.0}


def test_parameters() -> None:
    fake = tq.default_fused_per_channel_wt_fake_quant()
    weight = nn.Parameter(torch.randn(6, 40))
    fake(weight)
    assert took_kernels(fake, weight)
    fake(weight).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.mean()) > 0.95
    with torch.no_grad():
        assert not fake(weight).requires_grad
    fake.disable_fake_quant()
    assert fake(weight) is weight


@pytest.mark.parametrize("several", [True, False])
def test_written_state_has_another_version(several: bool, monkeypatch: Any) -> None:
    """Backward of what had saved a scale notices that a step has overwritten it, also with a torch
    that takes tensors one at a time.
    """
    real = torch.autograd.graph.increment_version

    def single(tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("expected a Tensor")
        real(tensor)

    if not several:
        monkeypatch.setattr(torch.autograd.graph, "increment_version", single)
    fake = tq.default_fused_act_fake_quant()
    fake(torch.randn(30))
    x = torch.ones(1, requires_grad=True)
    y = x * fake.scale
    fake(torch.randn(30))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_on_the_observer_run() -> None:
    fake = tq.default_fused_act_fake_quant()
    fake(torch.randn(9))
    seen = []
    handle = fake.activation_post_process.register_forward_hook(lambda *a: seen.append(a))
    fake(torch.randn(9))
    handle.remove()
    fake(torch.randn(9))
    assert len(seen) == 1


def test_observers_of_ones_own_are_called() -> None:
    class Halves(tq.MovingAverageMinMaxObserver):
        def forward(self, x_orig: Any) -> Any:
            super().forward(x_orig / 2)
            return x_orig

    fake = tq.FakeQuantize(Halves)
    x = torch.tensor([-1.0, 1.0])
    fake(x)
    assert float(fake.activation_post_process.max_val) == 0.5


def test_other_observers_round_by_the_kernels() -> None:
    fake = tq.default_histogram_fake_quant()
    x = torch.randn(500)
    out = fake(x)
    fake.disable_observer()
    assert took_kernels(fake, x)
    assert torch.equal(fake(x), out)
    fixed = tq.default_fixed_qparams_range_0to1_fake_quant()
    assert took_kernels(fixed, x)


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_dispatch_modes_see_the_operations() -> None:
    fake = tq.default_fused_act_fake_quant()
    fake(torch.randn(30))
    with Recorder() as recorder:
        fake(torch.randn(30))
    assert any("fake_quantize" in name or "round" in name for name in recorder.names)


def test_changed_settings_count() -> None:
    """What a user writes to the module or the observer holds from the next step on."""
    fake = tq.default_fused_act_fake_quant()
    fake(torch.tensor([-1.0, 1.0]))
    fake.activation_post_process.averaging_constant = 1
    fake(torch.tensor([0.0, 4.0]))
    assert float(fake.scale) == pytest.approx(4 / 255)
    fake.activation_post_process.eps.fill_(0.5)
    fake(torch.tensor([0.0, 4.0]))
    assert float(fake.scale) == 0.5


def test_wide_ranges_and_odd_scales_take_the_other_way() -> None:
    wide = tq.FakeQuantize(tq.MinMaxObserver, dtype=octavo.qint32)
    x = torch.randn(10)
    torch.testing.assert_close(wide(x), x)
    assert not took_kernels(wide, x)
    fake = tq.default_fused_act_fake_quant()
    fake.disable_observer()
    fake.zero_point.fill_(300)
    with pytest.raises(RuntimeError, match="zero_point"):
        fake(x)
    floats = tq.default_embedding_fake_quant()
    assert floats(torch.randn(4, 30)).shape == (4, 30)
