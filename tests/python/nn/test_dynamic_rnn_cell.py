"""Dynamically quantized LSTMCell, GRUCell and RNNCell: against NumPy to the bit, against the
layers, and against float torch."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import recurrent_support as ref
from module_support import generator
from octavo import backend
from octavo.nn.quantized import dynamic as nnqd

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
QUANTIZED: dict[str, Any] = {
    "LSTMCell": nnqd.LSTMCell,
    "GRUCell": nnqd.GRUCell,
    "RNNCell": nnqd.RNNCell,
}
NAMES = sorted(QUANTIZED)


def float_cell(name: str, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    return getattr(nn, name)(*args, **kwargs).eval()


def as_list(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.kernel
@given(
    name=st.sampled_from(NAMES),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 70),
    batch=st.integers(0, 5),
    bias=st.booleans(),
    relu=st.booleans(),
    per_tensor=st.booleans(),
    reduce_range=st.booleans(),
    given_hx=st.booleans(),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(
    isa: str,
    name: str,
    inputs: int,
    hidden: int,
    batch: int,
    bias: bool,
    relu: bool,
    per_tensor: bool,
    reduce_range: bool,
    given_hx: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    options = {"nonlinearity": "relu"} if relu and name == "RNNCell" else {}
    source = float_cell(name, inputs, hidden, bias, seed=seed, **options)
    module = QUANTIZED[name].from_float(source, per_tensor=per_tensor, reduce_range=reduce_range)
    g = generator(seed)
    x = (torch.randn(batch, inputs, generator=g) * 3).to(dtype)
    count = 2 if name == "LSTMCell" else 1
    states = [torch.zeros(batch, hidden) for _ in range(count)]
    if given_hx:
        states = [torch.randn(batch, hidden, generator=g).to(dtype).float() for _ in range(count)]
    hx: Any = [s.to(dtype) for s in states]
    hx = (tuple(hx) if count == 2 else hx[0]) if given_hx else None
    got = as_list(module(x, hx))
    weights = (module._packed["weight_ih"], module._packed["weight_hh"], None)
    arrays = [s.numpy() for s in states]
    if batch:
        _, h, c = ref.layer(
            module._mode(),
            weights,
            x.float().numpy(),
            [batch],
            arrays[0],
            arrays[1] if count == 2 else None,
            False,
            per_tensor=per_tensor,
            reduce_range=reduce_range,
        )
        for y, want in zip(got, [h, c], strict=False):
            assert y.dtype == dtype
            assert torch.equal(y, torch.from_numpy(want).to(dtype))
        one = as_list(module(x[0], None if hx is None else pick(hx, 0)))
        if not per_tensor:
            assert all(torch.equal(a, b[0]) for a, b in zip(one, got, strict=True))
        assert one[0].shape == (hidden,)
        assert backend.last_kernel().endswith(f"__{isa}")
    else:
        assert [y.shape for y in got] == [(0, hidden)] * count


def pick(hx: Any, index: int) -> Any:
    return tuple(s[index] for s in hx) if isinstance(hx, tuple) else hx[index]


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_steps_of_a_cell_are_the_layer(name: str) -> None:
    layer: Any = getattr(nnqd, name)(6, 11)
    cell = QUANTIZED[f"{name}Cell"].from_float(float_cell(f"{name}Cell", 6, 11))
    entries = {**cell.get_weight(), **cell.get_bias()}
    layer.set_weight_bias({f"{key}_l0": value for key, value in entries.items()})
    x = torch.randn(7, 3, 6, generator=generator(1))
    hx = None
    outputs = []
    for t in range(7):
        hx = cell(x[t], hx)
        outputs.append(hx[0] if name == "LSTM" else hx)
    assert torch.equal(torch.stack(outputs), layer(x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_is_close_to_float(name: str) -> None:
    source = float_cell(name, 64, 80)
    x = torch.randn(10, 64, generator=generator(2))
    with torch.no_grad():
        want = as_list(source(x))[0]
    got = as_list(QUANTIZED[name].from_float(source)(x))[0]
    assert float((got - want).norm() / want.norm()) < 0.02


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_pickle_and_copies(name: str, bias: bool) -> None:
    module = QUANTIZED[name].from_float(float_cell(name, 5, 6, bias), per_tensor=True)
    x = torch.randn(3, 5)
    want = as_list(module(x))[0]
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = QUANTIZED[name](5, 6, bias, per_tensor=True)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(as_list(twin(x))[0], want)


H = torch.zeros(2, 5)
WRONG_CALLS: list[tuple[Any, Any, str]] = [
    (torch.zeros(3, 2, 4), None, "1-D .unbatched. or 2-D"),
    (torch.zeros(2, 3), None, "input_size = 4"),
    (torch.zeros(2, 4), (H[:1], H[:1]), r"hx\[0\] must have shape \(2, 5\)"),
    (torch.zeros(2, 4), (H[None], H[None]), r"hx\[0\] must have 1 or 2 dimensions"),
    (torch.zeros(2, 4), (H[:, :4], H[:, :4]), r"hx\[0\] must have shape \(2, 5\)"),
    (torch.zeros(4), (H, H), r"hx\[0\] must have shape \(5,\)"),
    (torch.zeros(2, 4), (H.double(), H.double()), "dtype torch.float32"),
    (torch.zeros(2, 4), H, "pair"),
]


@pytest.mark.parametrize(("x", "hx", "message"), WRONG_CALLS)
def test_wrong_calls_raise_what_torch_raises(x: Tensor, hx: Any, message: str) -> None:
    source = nn.LSTMCell(4, 5)
    with pytest.raises((TypeError, ValueError, RuntimeError)) as torch_error:
        source(x, hx)
    module = nnqd.LSTMCell.from_float(source)
    module._qualified_name = "cell"
    with pytest.raises(torch_error.type, match=rf"cell.*{message}"):
        module(x, hx)


def test_errors_of_our_own() -> None:
    with pytest.raises(ValueError, match=r"nonlinearity must be 'tanh' or 'relu'"):
        nnqd.RNNCell(3, 4, nonlinearity="sigmoid")
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        nnqd.GRUCell(3, 0)
    with pytest.raises(TypeError, match="hx must be a tensor"):
        nnqd.GRUCell(4, 5)(torch.zeros(2, 4), (H, H))
    with pytest.raises(TypeError, match=r"float32, bfloat16 or float16"):
        nnqd.GRUCell(4, 5)(torch.zeros(2, 4).double())
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.RNNCell"):
        nnqd.RNNCell.from_float(nn.GRUCell(4, 5))
    assert repr(nnqd.RNNCell(3, 4, nonlinearity="relu")) == (
        "DynamicQuantizedRNNCell(3, 4, activations=per_row, bits=8, nonlinearity=relu)"
    )
