"""octavo.ops.ConvWeight: ranks, the fused clamp, float outputs, messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import octavo
import reference as ref
from module_support import generator, random_q, random_weight
from octavo import QTensor, ops

SPATIAL = {1: (9,), 2: (6, 7), 3: (4, 3, 5)}
CLASSES = {1: ops.Conv1dWeight, 2: ops.Conv2dWeight, 3: ops.Conv3dWeight}


def make(rank: int, groups: int = 1, bias: bool = True, **geometry: Any) -> tuple[Any, QTensor]:
    """A weight of 8 to 12 (groups of 4 to 6) channels, 3 wide, and what it packs."""
    g = generator(rank + groups)
    outputs, inputs = (12, 8) if groups == 1 else (8, 8)
    plain = random_weight((outputs, inputs // groups, *(3,) * rank), g)
    values = torch.randn(outputs, generator=g) if bias else None
    packed = ops.ConvWeight(
        plain._int, plain._scales, plain._zero_points, values, groups=groups, **geometry
    )
    return packed, plain


def image(rank: int, batch: int = 2) -> QTensor:
    return random_q((batch, 8, *SPATIAL[rank]), generator(11), scale=0.03, zero=70)


def arrays(packed: Any, plain: QTensor) -> tuple[Any, Any, Any, Any]:
    bias = None if packed.bias is None else packed.bias.numpy()
    return plain._int.numpy(), plain._scales.numpy(), plain._zero_points.numpy(), bias


@pytest.mark.kernel
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("clamp", [(0.0, 6.0), (-1.0, 0.33), (2.0, 2.0), (-math.inf, 1e9)])
@pytest.mark.parametrize("relu", [False, True])
def test_clamp_is_that_of_the_quantized_output(
    isa: str, rank: int, groups: int, clamp: tuple[float, float], relu: bool
) -> None:
    packed, plain = make(rank, groups)
    x = image(rank)
    for dtype, zero in ((octavo.quint8, 40), (octavo.qint8, -3)):
        out_scale = 0.17
        args = (x._int, x._scale, x._zero_point, out_scale, zero, dtype)
        got = packed(*args, relu=relu, clamp=clamp)
        whole = QTensor._wrap(packed(*args, relu=relu), out_scale, zero, dtype)
        apart = torch.nn.functional.hardtanh(whole, *clamp)
        assert torch.equal(got, apart._int)
        direct = packed.direct(laid_out(x), out_scale, zero, dtype, relu, None, clamp)
        assert torch.equal(direct._int, got)
        storage = np.uint8 if dtype is octavo.quint8 else np.int8
        expected = ref.conv(
            ref.Q(x._int.numpy(), x._scale, x._zero_point),
            *arrays(packed, plain),
            ref.Q(np.empty(0, storage), out_scale, zero),
            groups=groups,
            relu=relu,
            clamp=clamp,
        )
        np.testing.assert_array_equal(got.numpy(), expected)
        low, high = got.min(), got.max()
        assert low < high or clamp[0] == clamp[1]


def laid_out(x: QTensor) -> QTensor:
    values = x._int.movedim(1, -1).contiguous().movedim(-1, 1)
    return QTensor._wrap(values, x._scale, x._zero_point, x._qdtype)


def float_conv(packed: Any, plain: QTensor, x: QTensor, groups: int, **geometry: Any) -> Tensor:
    """What the float output is: one float32 product and one sum after the exact integers."""
    w, scales, zeros, bias = arrays(packed, plain)
    q = ref.Q(x._int.numpy(), x._scale, x._zero_point)
    acc = ref.conv_sums(q, w, zeros, **geometry, groups=groups)
    return torch.from_numpy(ref.float_output(acc, bias, x._scale, scales))


@pytest.mark.kernel
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 8])
def test_dequantized_output(isa: str, rank: int, groups: int) -> None:
    geometry = {"stride": (2,) * rank, "padding": (1,) * rank}
    packed, plain = make(rank, groups, **geometry)
    x = image(rank)
    want = float_conv(packed, plain, x, groups, **geometry)
    got = packed.dequantized_output(x._int, x._scale, x._zero_point)
    assert got.dtype == torch.float32
    assert got.movedim(1, -1).is_contiguous()
    assert torch.equal(got, want)
    relu = packed.dequantized_output(x._int, x._scale, x._zero_point, relu=True)
    assert torch.equal(relu, want.relu())
    clamped = packed.dequantized_output(x._int, x._scale, x._zero_point, clamp=(-0.7, 1.3))
    assert torch.equal(clamped, want.clamp(-0.7, 1.3))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpack_and_attributes(rank: int) -> None:
    packed, plain = make(rank)
    assert torch.equal(packed.unpack(), plain._int)
    assert packed.packed_bytes >= plain._int.numel()
    assert (packed.rank, packed.kernel_size) == (rank, (3,) * rank)
    assert (packed.in_channels, packed.out_channels, packed.groups) == (8, 12, 1)
    same = CLASSES[rank](plain._int, plain._scales, plain._zero_points, None)
    assert torch.equal(same.unpack(), plain._int)


def test_messages() -> None:
    ones, zeros = torch.ones(1), torch.zeros(1, dtype=torch.int32)

    def weight(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int8)

    with pytest.raises(ValueError, match=r"in_channels / groups, width\) tensor, got shape"):
        ops.Conv1dWeight(weight(4, 3, 3, 3), ones, zeros, None)
    with pytest.raises(ValueError, match=r"depth, height, width\) tensor, got shape \(4, 3\)"):
        ops.ConvWeight(weight(4, 3), ones, zeros, None)
    with pytest.raises(ValueError, match="stride: expected one integer or 1 of them"):
        ops.ConvWeight(weight(4, 3, 3), ones, zeros, None, stride=(1, 2))
    with pytest.raises(ValueError, match="dilation: must be at least 1, got 0"):
        ops.ConvWeight(weight(4, 3, 3), ones, zeros, None, dilation=0)
    with pytest.raises(ValueError, match="groups: out_channels must be divisible"):
        ops.ConvWeight(weight(4, 3, 3), ones, zeros, None, groups=3)
    packed = ops.ConvWeight(weight(4, 3, 3), ones, zeros, None)
    x = torch.zeros((2, 3, 8), dtype=torch.uint8)
    call = (0.1, 0, 0.1, 0, octavo.quint8)
    with pytest.raises(ValueError, match=r"expected a \(N, C, L\) or \(C, L\) input"):
        packed(x[None], *call)
    with pytest.raises(ValueError, match="expected 3 channels"):
        packed(x[:, :2], *call)
    with pytest.raises(RuntimeError, match="image of 2 is smaller than the kernel of 3"):
        packed(x[..., :2], *call)
    with pytest.raises(TypeError, match=r"uint8 or torch\.int8, got torch\.float32"):
        packed(x.float(), *call)
    with pytest.raises(ValueError, match=r"add: expected the output's shape \(2, 4, 6\)"):
        packed(x, *call, add=x)
    with pytest.raises(ValueError, match=r"add: expected the output's shape \(4, 6\)"):
        packed(x[0], *call, add=x)
    for clamp in ((1.0, 0.5), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match=r"clamp: the lower bound .* must not exceed"):
            packed(x, *call, clamp=clamp)
    padded = ops.ConvWeight(weight(4, 3, 3), ones, zeros, None, padding=2)
    with pytest.raises(RuntimeError, match="input: the image is empty"):
        padded(x[..., :0], *call)
