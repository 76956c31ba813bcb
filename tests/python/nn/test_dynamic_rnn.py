"""Dynamically quantized LSTM and GRU: against NumPy to the bit, against float torch within the
quantization error, and against torch.ao's own."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import octavo
import recurrent_support as ref
from module_support import generator, threads
from octavo import backend
from octavo.nn.quantized import dynamic as nnqd
from torch_oracle import torch_quantized

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
QUANTIZED: dict[str, Any] = {"LSTM": nnqd.LSTM, "GRU": nnqd.GRU}


def float_module(mode: str, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    return getattr(nn, mode)(*args, **kwargs).eval()


def expected(module: Any, x: Tensor, sizes: list[int], states: list[Tensor]) -> Any:
    """Output rows and final states, by the definition; ``x`` holds rows, step by step."""
    rows, dtype = x.float().numpy(), x.dtype
    finals = [state.clone() for state in states]
    how = {"per_tensor": module.per_tensor, "reduce_range": module.reduce_range}
    directions = 2 if module.bidirectional else 1
    for index in range(module.num_layers):
        outs = []
        for direction in range(directions):
            end = f"_l{index}" + ("_reverse" if direction else "")
            weights = tuple(module._packed.get(f"weight_{k}{end}") for k in ("ih", "hh", "hr"))
            at = index * directions + direction
            out, h, c = ref.layer(
                module.mode,
                weights,
                rows,
                sizes,
                states[0][at].numpy(),
                states[1][at].numpy() if module.mode == "LSTM" else None,
                direction == 1,
                **how,
            )
            outs.append(out)
            finals[0][at] = torch.from_numpy(h)
            if c is not None:
                finals[1][at] = torch.from_numpy(c)
        rows = torch.from_numpy(np.concatenate(outs, axis=1)).to(dtype).float().numpy()
    return torch.from_numpy(rows).to(dtype), [state.to(dtype) for state in finals]


def states_of(result: Any) -> list[Tensor]:
    return list(result[1]) if isinstance(result[1], tuple) else [result[1]]


def as_hx(states: list[Tensor]) -> Any:
    return tuple(states) if len(states) == 2 else states[0]


def same(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.nan_to_num(77), b.nan_to_num(77))
    )


@pytest.mark.kernel
@settings(max_examples=60)
@given(data=st.data())
def test_equals_the_definition(isa: str, data: Any) -> None:
    draw = data.draw
    mode = draw(st.sampled_from(["LSTM", "GRU"]))
    inputs, hidden = draw(st.integers(1, 40)), draw(st.integers(2, 40))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if mode == "LSTM" and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    seed = draw(st.integers(0, 1000))
    module = QUANTIZED[mode].from_float(
        float_module(mode, inputs, hidden, seed=seed, **options),
        per_tensor=draw(st.booleans()),
        reduce_range=draw(st.booleans()),
    )
    g = generator(seed)
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(FLOATS))
    form = draw(st.sampled_from(["batched", "unbatched", "packed", "packed sorted"]))
    batch = 1 if form == "unbatched" else batch
    x = (torch.randn(steps, batch, inputs, generator=g) * 3).to(dtype)
    count = options["num_layers"] * (2 if options["bidirectional"] else 1)
    outputs = options.get("proj_size", 0) or hidden
    states = [torch.zeros(count, batch, outputs), torch.zeros(count, batch, hidden)]
    states = states[: 2 if mode == "LSTM" else 1]
    given_hx = draw(st.booleans())
    if given_hx:
        states = [torch.randn(s.shape, generator=g).to(dtype).float() for s in states]
    hx = as_hx([s.to(dtype) for s in states]) if given_hx else None
    if form.startswith("packed"):
        lengths = [steps, *(draw(st.integers(1, steps)) for _ in range(batch - 1))]
        if form == "packed sorted":
            lengths.sort(reverse=True)
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        result = module(packed, hx)
        assert isinstance(result[0], PackedSequence)
        order, restore = packed.sorted_indices, packed.unsorted_indices
        rows, finals = expected(
            module, packed.data, packed.batch_sizes.tolist(), [s[:, order] for s in states]
        )
        assert same(result[0].data, rows)
        assert torch.equal(result[0].batch_sizes, packed.batch_sizes)
        assert torch.equal(result[0].unsorted_indices, restore)
        finals = [s[:, restore] for s in finals]
    else:
        given_x = x[:, 0] if form == "unbatched" else x
        if form == "unbatched":
            hx = None if hx is None else as_hx([s.to(dtype)[:, 0] for s in states])
        elif options["batch_first"]:
            given_x = x.transpose(0, 1)
        result = module(given_x, hx)
        rows, finals = expected(module, x.reshape(-1, inputs), [batch] * steps, states)
        want = rows.view(steps, batch, -1)
        if form == "unbatched":
            want, finals = want[:, 0], [s[:, 0] for s in finals]
        elif options["batch_first"]:
            want = want.transpose(0, 1)
        assert same(result[0], want)
    for got, final in zip(states_of(result), finals, strict=True):
        assert same(got, final)
    with threads(2):
        again = states_of(module(packed if form.startswith("packed") else given_x, hx))
    assert all(same(a, b) for a, b in zip(again, states_of(result), strict=True))
    assert backend.last_kernel().endswith(f"__{isa}")


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_every_isa_gives_the_same_bits(mode: str) -> None:
    module = QUANTIZED[mode].from_float(float_module(mode, 60, 130, 2, bidirectional=True))
    x = torch.randn(20, 3, 60, generator=generator(1))
    results = []
    for isa in backend.supported():
        with backend.force(isa):
            results.append(module(x))
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert all(map(torch.equal, states_of(results[0]), states_of(other)))


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_a_sequence_does_not_depend_on_the_others(mode: str) -> None:
    module = QUANTIZED[mode].from_float(float_module(mode, 24, 32, 2, bidirectional=True))
    x = torch.randn(9, 5, 24, generator=generator(2))
    x[:, 3] *= 1e3
    whole = module(x)[0]
    for b in range(5):
        assert torch.equal(module(x[:, b : b + 1])[0], whole[:, b : b + 1])
        assert torch.equal(module(x[:, b])[0], whole[:, b])
    lengths = [9, 2, 5, 9, 1]
    packed = pack_sequence([x[:n, b] for b, n in enumerate(lengths)], enforce_sorted=False)
    padded, got = nn.utils.rnn.pad_packed_sequence(module(packed)[0])
    assert got.tolist() == lengths
    for b, n in enumerate(lengths):
        assert torch.equal(padded[:n, b], module(x[:n, b])[0])


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stay_in_their_sequence(mode: str, bad: float) -> None:
    module = QUANTIZED[mode].from_float(float_module(mode, 10, 12))
    x = torch.randn(6, 3, 10, generator=generator(3))
    clean = module(x)[0]
    x[2, 1, 4] = bad
    y = module(x)[0]
    assert bool(y[2:, 1].isnan().all())
    assert torch.equal(y[:2, 1], clean[:2, 1])
    assert torch.equal(y[:, [0, 2]], clean[:, [0, 2]])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
@pytest.mark.parametrize("batch", [1, 8])
def test_is_close_to_float_and_not_worse_than_torch(mode: str, batch: int) -> None:
    module = float_module(mode, 128, 192, 2)
    x = torch.randn(25, batch, 128, generator=generator(4))
    with torch.no_grad():
        want = module(x)[0]
    ours = relative(QUANTIZED[mode].from_float(module)(x)[0], want)
    assert ours < 0.02
    with torch_quantized() as t:
        if "fbgemm" not in t.backends.quantized.supported_engines:
            pytest.skip("this torch has no fbgemm engine")
        t.backends.quantized.engine = "fbgemm"
        tq = pytest.importorskip("torch.ao.quantization")
        theirs = tq.quantize_dynamic(nn.Sequential(module), {getattr(nn, mode)}, t.qint8)
        assert ours <= relative(theirs(x)[0], want)


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_torch_compatible_settings_agree_with_torch(mode: str) -> None:
    """One scale of 7 bits for the batch and one for each weight: torch's arithmetic, whose sigmoid
    and tanh differ from ours in the last bits, so a hidden state may round to the next step."""
    module = float_module(mode, 64, 96)
    with torch_quantized() as t:
        if "fbgemm" not in t.backends.quantized.supported_engines:
            pytest.skip("this torch has no fbgemm engine")
        t.backends.quantized.engine = "fbgemm"
        tq = pytest.importorskip("torch.ao.quantization")
        theirs = tq.quantize_dynamic(nn.Sequential(module), {getattr(nn, mode)}, t.qint8)
        x = torch.randn(30, 4, 64, generator=generator(5))
        want = theirs(x)[0]
        weights = theirs[0].get_weight()
    ours = QUANTIZED[mode].from_float(module, per_tensor=True, reduce_range=True)
    entries: dict[str, Any] = dict(ours.get_bias())
    for name, w in weights.items():
        entries[name] = octavo.QTensor.from_int_repr(
            w.int_repr(), float(w.q_scale()), int(w.q_zero_point())
        )
    ours.set_weight_bias(entries)
    assert relative(ours(x)[0], want) < 2e-3


def test_dropout_acts_between_layers_in_training() -> None:
    module = nnqd.LSTM.from_float(float_module("LSTM", 8, 16, 2, dropout=0.5))
    x = torch.randn(4, 3, 8, generator=generator(6))
    assert not module.training
    assert torch.equal(module(x)[0], module(x)[0])
    module.train()
    assert not torch.equal(module(x)[0], module(x)[0])
    first = nnqd.LSTM.from_float(nn.LSTM(8, 16, 1).eval())
    first.train()
    assert torch.equal(first(x)[0], first(x)[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_empty_batch(batch_first: bool) -> None:
    lstm = float_module("LSTM", 4, 6, 2, batch_first=batch_first, bidirectional=True, proj_size=3)
    x = torch.zeros((0, 5, 4) if batch_first else (5, 0, 4))
    y, (h, c) = nnqd.LSTM.from_float(lstm)(x)
    want, (want_h, want_c) = lstm(x)
    assert (y.shape, h.shape, c.shape) == (want.shape, want_h.shape, want_c.shape)


def test_strides_gradients_and_unchanged_arguments() -> None:
    module = nnqd.GRU.from_float(float_module("GRU", 6, 5))
    x = torch.randn(4, 3, 12, generator=generator(7))[..., ::2].requires_grad_()
    h = torch.randn(3, 1, 5, generator=generator(8)).transpose(0, 1)
    before = h.clone()
    y, last = module(x, h)
    assert torch.equal(h, before)
    assert not y.requires_grad
    assert torch.equal(y, module(x.detach().contiguous(), h.contiguous())[0])
    assert torch.equal(last[0], y[-1])


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_state_dict_pickle_and_copies(mode: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    if mode == "LSTM":
        options["proj_size"] = 5
    source = float_module(mode, 7, 9, **options)
    module = QUANTIZED[mode].from_float(source, reduce_range=True)
    x = torch.randn(4, 2, 7, generator=generator(9))
    want = module(x)[0]
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    names = {name for name, _ in source.named_parameters()}
    weights = {name for name in names if name.startswith("weight")}
    assert set(state) == (names - weights) | {
        name + end for name in weights for end in ("_int8", "_scale", "_zero_point")
    }
    assert all(v.dtype == torch.int8 for k, v in state.items() if k.endswith("_int8"))
    other = QUANTIZED[mode](7, 9, **options, reduce_range=True)
    assert not torch.equal(other(x)[0], want)
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x)[0], want)
        assert twin.reduce_range
    twin = copy.deepcopy(module)
    twin.set_weight_bias({**other.get_weight(), **other.get_bias()})
    assert torch.equal(twin(x)[0], want)


def test_checkpoints_that_do_not_fit_change_nothing() -> None:
    source = float_module("LSTM", 7, 9)
    module = nnqd.LSTM.from_float(source)
    x = torch.randn(4, 2, 7)
    want = module(x)[0]
    with pytest.raises(RuntimeError, match=r"float one \('weight_ih_l0' is torch.float32\)"):
        module.load_state_dict(source.state_dict(), strict=False)
    state = module.state_dict()
    del state["weight_hh_l0_scale"]
    with pytest.raises(RuntimeError, match="weight_hh_l0_scale"):
        module.load_state_dict(state, strict=False)
    state = module.state_dict()
    state["weight_hh_l0_int8"] = state["weight_hh_l0_int8"][:, :-1]
    with pytest.raises(RuntimeError, match=r"'weight_hh_l0_int8' must have shape \[36, 9\]"):
        module.load_state_dict(state)
    state = module.state_dict()
    state["weight_ih_l0_scale"] = -state["weight_ih_l0_scale"]
    with pytest.raises(RuntimeError, match="weight_ih_l0"):
        module.load_state_dict(state)
    assert torch.equal(module(x)[0], want)
    assert nn.ModuleList([module]).load_state_dict({}, strict=False).missing_keys


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be greater than zero"),
        ({"input_size": 0}, "input_size must be greater than zero"),
        ({"num_layers": 0}, "num_layers must be greater than zero"),
        ({"dropout": 2}, "dropout must be a probability"),
        ({"dropout": True}, "dropout must be a probability"),
        ({"proj_size": -1}, "proj_size must be 0"),
        ({"proj_size": 5}, "proj_size must be 0"),
        ({"hidden_size": 1.5}, "hidden_size must be an int"),
    ],
)
def test_wrong_constructor_arguments(arguments: dict[str, Any], message: str) -> None:
    arguments = {"input_size": 4, "hidden_size": 5, **arguments}
    with pytest.raises((TypeError, ValueError)) as torch_error:
        nn.LSTM(**arguments)
    with pytest.raises(torch_error.type, match=message):
        nnqd.LSTM(**arguments)


def test_constructor_warnings_and_dtype() -> None:
    for kind in (nnqd.LSTM, nnqd.GRU):
        with pytest.warns(UserWarning, match=f"{kind.__name__}: .* does nothing") as caught:
            kind(4, 5, 1, dropout=0.5)
        assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="qint8"):
        nnqd.GRU(4, 5, dtype=torch.float16)
    assert repr(nnqd.LSTM(4, 5, 2, batch_first=True)) == (
        "DynamicQuantizedLSTM(4, 5, num_layers=2, batch_first=True, activations=per_row, bits=8)"
    )


H = torch.zeros(2, 2, 5)
WRONG_CALLS: list[tuple[Any, Any, str]] = [
    (torch.zeros(4), None, "2-D .unbatched. or 3-D"),
    (torch.zeros(1, 3, 2, 4), None, "2-D .unbatched. or 3-D"),
    (torch.zeros(3, 2, 3), None, "input_size = 4"),
    (torch.zeros(0, 2, 4), None, "at least one time step"),
    (torch.zeros(3, 2, 4), (H[0], H[0]), r"h_0 must have shape \(2, 2, 5\).*batched"),
    (torch.zeros(3, 4), (H, H), r"h_0 must have shape \(2, 5\).*unbatched"),
    (torch.zeros(3, 2, 4), (H[:, :1], H[:, :1]), r"h_0 must have shape \(2, 2, 5\)"),
    (torch.zeros(3, 2, 4), (H, H[:, :, :4]), r"c_0 must have shape \(2, 2, 5\)"),
    (torch.zeros(3, 2, 4), (H.double(), H.double()), "dtype torch.float32"),
    (torch.zeros(3, 2, 4), H, "pair"),
    (torch.zeros(3, 2, 4), (H, H, H), "pair"),
]


@pytest.mark.parametrize(("x", "hx", "message"), WRONG_CALLS)
def test_wrong_calls_raise_what_torch_raises(x: Tensor, hx: Any, message: str) -> None:
    source = nn.LSTM(4, 5, 2)
    with pytest.raises((TypeError, ValueError, RuntimeError)) as torch_error:
        source(x, hx)
    module = nnqd.LSTM.from_float(source)
    module._qualified_name = "encoder.rnn"
    with pytest.raises(torch_error.type, match=rf"encoder\.rnn.*{message}"):
        module(x, hx)


def test_errors_of_our_own() -> None:
    module = nnqd.GRU.from_float(nn.GRU(4, 5))
    module._qualified_name = "rnn"
    with pytest.raises(TypeError, match=r"rnn.*float32, bfloat16 or float16.*float\(\)"):
        module(torch.zeros(3, 2, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"rnn.*Dequantize it first"):
        module(octavo.quantize_per_tensor(torch.zeros(3, 2, 4), 0.1, 0, octavo.quint8))
    with pytest.raises(TypeError, match=r"rnn.*h_0 must be a tensor"):
        module(torch.zeros(3, 2, 4), (H, H))
    with pytest.raises(RuntimeError, match=r"rnn.*CPU tensor of the input's dtype"):
        module(torch.zeros(3, 2, 4), torch.zeros(1, 2, 5, device="meta"))
    packed = pack_padded_sequence(torch.zeros(3, 2, 4), torch.tensor([3, 2]))
    with pytest.raises(RuntimeError, match=r"rnn.*shape"):
        module(packed, torch.zeros(1, 1, 5))
    broken = PackedSequence(torch.zeros(4, 4), torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"rnn.*batch_sizes"):
        module(broken)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.GRU"):
        nnqd.GRU.from_float(nn.LSTM(4, 5))
    with pytest.raises(ValueError, match="expected exactly the entries"):
        module.set_weight_bias(module.get_weight())
    source = nn.GRU(4, 5)
    with torch.no_grad():
        source.weight_hh_l0[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"weight_hh_l0.*NaN"):
        nnqd.GRU.from_float(source)


def test_qconfig_chooses_the_weight_observer() -> None:
    from octavo import quantization as oq

    source = nn.LSTM(4, 5)
    assert nnqd.LSTM.from_float(source)._packed["weight_hh_l0"].scales.numel() == 20
    source.qconfig = oq.QConfig(activation=oq.default_observer, weight=oq.default_weight_observer)
    assert nnqd.LSTM.from_float(source)._packed["weight_hh_l0"].scales.numel() == 1
    source.qconfig = oq.QConfig(activation=oq.default_observer, weight=oq.default_observer)
    with pytest.raises(TypeError, match=r"weight_ih_l0.*qint8"):
        nnqd.LSTM.from_float(source)
