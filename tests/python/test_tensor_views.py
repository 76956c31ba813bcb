"""Operations that move or select elements: values must be those of the same operation in float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import octavo
from octavo import QTensor
from tensor_support import DTYPES, per_channel, per_tensor

Op = Callable[[Any], Any]

# For a tensor of shape (2, 3, 4).
OPS: dict[str, Op] = {
    "permute": lambda x: x.permute(2, 0, 1),
    "permute function": lambda x: torch.permute(x, (1, 2, 0)),
    "transpose": lambda x: x.transpose(0, -1),
    "swapaxes": lambda x: torch.swapaxes(x, 1, 2),
    "movedim": lambda x: x.movedim(0, 2),
    "mT": lambda x: x.mT,
    "t": lambda x: x[0].t(),
    "T": lambda x: x[0].T,
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze last": lambda x: torch.unsqueeze(x, -1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "squeeze all": lambda x: x[:, :1].squeeze(),
    "expand": lambda x: x.unsqueeze(0).expand(5, -1, -1, -1),
    "expand_as": lambda x: x[:1].expand_as(torch.empty(6, 3, 4)),
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(2, 1, 2),
    "int": lambda x: x[1],
    "negative int": lambda x: x[:, -1],
    "slice": lambda x: x[:, 1:],
    "step": lambda x: x[..., ::2],
    "one element slice": lambda x: x[:, 1:2],
    "none": lambda x: x[None, :, None],
    "ellipsis": lambda x: x[..., 2],
    "scalar": lambda x: x[1, 2, 3],
    "tensor index": lambda x: x[torch.tensor([1, 0, 1])],
    "list index": lambda x: x[:, [2, 0]],
    "index_select": lambda x: x.index_select(2, torch.tensor([3, 3, 0])),
    "chunk": lambda x: x.chunk(2, 2),
    "split": lambda x: torch.split(x, [1, 2], 1),
    "split size": lambda x: x.split(2, dim=2),
    "tensor_split": lambda x: torch.tensor_split(x, 2),
    "unbind": lambda x: x.unbind(1),
    "iterate": lambda x: tuple(x),
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: torch.roll(x, 1, 1),
    "view minus one": lambda x: x.view((2, 3, -1)),
    "reshape": lambda x: x.reshape(2, 1, 3, 4),
    "reshape_as": lambda x: torch.Tensor.reshape_as(x, torch.empty(1, 2, 3, 4)),
    "flatten one": lambda x: x.flatten(1, 1),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.permute(2, 0, 1).contiguous(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "cpu": lambda x: x.cpu(),
    "to device": lambda x: x.to("cpu", non_blocking=True),
    "to copy": lambda x: x.to(torch.device("cpu"), copy=True),
}
# These merge or split dimensions, so with some axes they would mix channels.
MIXING: dict[str, Op] = {
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "view_as": lambda x: x.view_as(torch.empty(2, 3, 2, 2)),
    "view split": lambda x: x.view(2, 3, 2, 2),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "flatten": lambda x: torch.flatten(x, 1),
    "flatten all": lambda x: x.flatten(),
    "ravel": lambda x: x.ravel(),
    "reshape": lambda x: x.reshape(6, 4),
    "reshape after transpose": lambda x: x.transpose(0, 1).reshape(3, 8),
    "view": lambda x: x.view(2, -1),
    "split axis": lambda x: x.unflatten(2, (2, 2)),
    "mask": lambda x: x[torch.arange(24).view(2, 3, 4) % 3 == 0],
    "masked_select": lambda x: x.masked_select(torch.arange(24).view(2, 3, 4) % 3 == 0),
    "index pairs": lambda x: x[torch.tensor([0, 1]), torch.tensor([0, 2])],
    "gather": lambda x: x.gather(1, torch.arange(12).view(1, 3, 4) % 3),
    "repeat": lambda x: x.repeat(2, 2, 1),
    "tile": lambda x: torch.tile(x, (2,)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "diagonal": lambda x: x.diagonal(0, 0, 1),
    "rot90": lambda x: torch.rot90(x, 1, (0, 1)),
}


def assert_moves_values(q: QTensor, op: Op) -> None:
    before = q.dequantize()
    got, want = op(q), op(before)
    parts = [(got, want)] if isinstance(want, torch.Tensor) else zip(got, want, strict=True)
    for g, w in parts:
        assert isinstance(g, QTensor)
        assert g.dtype is q.dtype
        assert torch.equal(g.dequantize(), w)
    assert torch.equal(q.dequantize(), before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", [*OPS.values(), *MIXING.values()], ids=[*OPS, *MIXING])
def test_per_tensor(op: Op, dtype: Any) -> None:
    q = per_tensor(dtype)
    assert_moves_values(q, op)
    result = op(q)
    for part in [result] if isinstance(result, QTensor) else result:
        assert (part.q_scale(), part.q_zero_point()) == (0.1, 7)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_per_channel(op: Op, axis: int) -> None:
    assert_moves_values(per_channel(axis=axis), op)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("op", MIXING.values(), ids=list(MIXING))
def test_per_channel_moves_values_or_refuses(op: Op, axis: int) -> None:
    q = per_channel(axis=axis)
    try:
        op(q)
    except TypeError:
        with pytest.raises(TypeError, match="mix the channels"):
            op(q)
    else:
        assert_moves_values(q, op)


def test_per_channel_refuses_what_mixes() -> None:
    for axis, op in [(0, "flatten all"), (1, "flatten"), (2, "split axis")]:
        with pytest.raises(TypeError, match=f"mix the channels of axis {axis}"):
            MIXING[op](per_channel(axis=axis))
    with pytest.raises(TypeError, match="mix the channels"):
        MIXING["unfold"](per_channel(axis=2))


def test_axis_follows_the_channels() -> None:
    q = per_channel(axis=1)
    assert q.permute(2, 0, 1).q_per_channel_axis() == 2
    assert q.transpose(0, 1).q_per_channel_axis() == 0
    assert q.unsqueeze(0).q_per_channel_axis() == 2
    assert q.unsqueeze(1).q_per_channel_axis() == 2
    assert q[0].q_per_channel_axis() == 0
    assert q.reshape(2, 3, 2, 2).q_per_channel_axis() == 1
    assert q.flatten(0, 0).q_per_channel_axis() == 1
    assert q[:, 1:].q_per_channel_scales().tolist() == [0.25, 0.375]
    assert q[:, ::2].q_per_channel_zero_points().tolist() == [0, 2]
    assert q[:, 2:].q_per_channel_scales().tolist() == [0.375]
    assert q[:, [2, 0]].q_per_channel_scales().tolist() == [0.375, 0.125]
    one = q[:, 1]
    assert (one.qscheme(), one.q_scale(), one.q_zero_point()) == (octavo.per_tensor_affine, 0.25, 1)


def test_one_channel() -> None:
    q = QTensor.from_int_repr(torch.arange(6, dtype=torch.uint8).view(1, 6), [0.5], [3], 0)
    for op in (OPS["clone"], lambda x: x.flatten(), lambda x: x.t(), lambda x: x.unsqueeze(-1)):
        assert_moves_values(q, op)


def test_views_share_storage() -> None:
    q = per_tensor()
    for view in (q.view(6, 4), q.permute(2, 0, 1), q[0], q.reshape(-1), q.detach(), q.data):
        assert view.untyped_storage().data_ptr() == q.untyped_storage().data_ptr()
    q[0].fill_(1.0)
    assert bool((q.view(2, -1)[0] == 1.0).all())
    assert q.clone().data_ptr() != q.data_ptr()
    assert q.contiguous() is q
    assert q.cpu() is q


def test_view_works_on_the_channels_last_storage_of_kernels() -> None:
    q = per_tensor(shape=(2, 3, 4, 5)).contiguous(memory_format=torch.channels_last)
    assert torch.equal(q.view(2, -1).dequantize(), q.dequantize().reshape(2, -1))
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        q.transpose(0, 1).view(2, -1)
    with pytest.raises(TypeError, match=r"view\(\).*Its dtype stays octavo.quint8"):
        q.view(torch.uint8)
    with pytest.raises(TypeError, match="Its dtype stays"):
        q.view(dtype=torch.int8)


def test_memory_formats() -> None:
    q = per_tensor(shape=(2, 3, 4, 5))
    for last in (
        q.to(memory_format=torch.channels_last),
        q.contiguous(memory_format=torch.channels_last),
        q.clone(memory_format=torch.channels_last),
    ):
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last, q)
        assert last.clone().stride() == last.stride()
        assert last.dequantize().stride() == last.stride()
        assert last.contiguous().is_contiguous()


def test_images() -> None:
    q = per_tensor(octavo.qint8, (2, 8, 4, 5))
    for op in (
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x[..., :4], 2),
        lambda x: F.channel_shuffle(x, 4),
        lambda x: torch.nn.PixelShuffle(2)(x),
        lambda x: torch.nn.Flatten()(x),
        lambda x: torch.nn.Identity()(x),
        lambda x: torch.nn.Dropout().eval()(x),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, size=(7, 3), mode="nearest-exact"),
        lambda x: torch.nn.Upsample(scale_factor=2)(x),
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.pad(x, (1, 1, 1, 1), "replicate"),
        lambda x: torch.nn.ZeroPad2d(1)(x),
    ):
        assert_moves_values(q, op)
        assert_moves_values(q.to(memory_format=torch.channels_last), op)
    assert bool((F.pad(q, (1, 0), value=1.23)[..., 0].int_repr() == 19).all())
    big = per_tensor(octavo.qint32, (1, 2, 2, 2))
    assert_moves_values(big, lambda x: F.interpolate(x, scale_factor=3))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    q = octavo.quantize_per_tensor(torch.empty(shape), 0.1, 3, octavo.quint8)
    assert q.dequantize().shape == shape
    for op in (lambda x: x.flatten(), lambda x: torch.cat([x, x]), lambda x: x.clone()):
        assert torch.equal(op(q).dequantize(), op(q.dequantize()))
    assert "size=" in repr(q)


def test_wrong_targets_of_to() -> None:
    q = per_tensor()
    assert q.to(octavo.quint8) is q
    assert q.to(q) is q
    with pytest.raises(TypeError, match="does not support"):
        q.as_subclass(torch.Tensor)
    for wrong in (torch.float32, torch.uint8, octavo.qint8, torch.empty(1)):
        with pytest.raises(TypeError, match=r"to\(\).*dequantize\(\).*int_repr\(\)"):
            q.to(wrong)
    with pytest.raises(ValueError, match="lives on the CPU, got meta"):
        q.to("meta")
    for method in ("float", "double", "half", "bfloat16", "int", "long", "numpy", "__array__"):
        with pytest.raises(TypeError, match=r"dequantize\(\) for the values.*int_repr\(\)"):
            getattr(q, method)()
