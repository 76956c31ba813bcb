"""nn.quantizable.LSTM and what convert makes of it."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import octavo
import octavo.quantization as tq
from octavo.nn import quantizable as nnqa
from octavo.nn import quantized as nnq
from octavo.quantization.numeric_suite import sqnr
from quantization_support import assert_same_qparams, oracle, quietly

# 8 bits give an activation about 40 dB; some ten of them follow one another in each step, and the
# errors of a step go into the next.
STATIC_DB = 25.0
MINMAX = tq.QConfig(
    tq.default_observer.with_args(quant_min=0, quant_max=255),
    tq.default_per_channel_weight_observer,
)
MINMAX_QAT = tq.QConfig(
    tq.FakeQuantize.with_args(observer=tq.MinMaxObserver, quant_min=0, quant_max=255),
    tq.default_per_channel_weight_fake_quant,
)
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.5},
    {"num_layers": 2, "bidirectional": True, "proj_size": 5},
)
INPUTS, HIDDEN = 12, 16


class Net(nn.Module):
    """Float in, float out; states too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.lstm = nn.LSTM(INPUTS, HIDDEN, **kwargs)

    def forward(self, x: Any, states: Any = None) -> tuple[Any, Tensor, Tensor]:
        if isinstance(x, PackedSequence):
            x = PackedSequence(
                self.quant(x.data), x.batch_sizes, x.sorted_indices, x.unsorted_indices
            )
        else:
            x = self.quant(x)
        if states is not None:
            states = tuple(self.quant(state) for state in states)
        y, (h, c) = self.lstm(x, states)
        y = y._replace(data=self.dequant(y.data)) if isinstance(y, PackedSequence) else y
        y = y if isinstance(y, PackedSequence) else self.dequant(y)
        return y, self.dequant(h), self.dequant(c)


def reference(model: Net, *args: Any) -> Any:
    """What the float model computes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections")
        with torch.no_grad():
            return model(*args)


def net(**kwargs: Any) -> Net:
    torch.manual_seed(0)
    model = Net(**kwargs).eval()
    model.qconfig = MINMAX
    return model


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def converted(model: Net, *batches: Any) -> Any:
    prepared = tq.prepare(model)
    for batch in batches:
        prepared(*batch)
    return tq.convert(prepared)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_int8_is_near_float(case: dict[str, Any]) -> None:
    model, x = net(**case), data(7, 5, INPUTS)
    int8 = converted(model, (x,))
    assert type(int8.lstm) is nnq.LSTM
    becomes = {row.name: row.becomes for row in tq.report(int8)}
    assert becomes == {
        "quant": "quantized.Quantize",
        "dequant": "quantized.DeQuantize",
        "lstm": "quantized.LSTM",
    }
    for expected, got in zip(reference(model, x), int8(x), strict=True):
        assert got.shape == expected.shape
        assert sqnr(expected, got) > STATIC_DB


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("split_gates", [False, True])
def test_observed_computes_what_float_does(case: dict[str, Any], split_gates: bool) -> None:
    lstm = net(**case).lstm
    lstm.qconfig = MINMAX
    observed = nnqa.LSTM.from_float(lstm, split_gates=split_gates)
    for x in (data(6, 3, INPUTS), data(6, INPUTS)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LSTM with projections")
            expected = lstm(x)
        got = observed(x)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(bidirectional: bool, enforce_sorted: bool) -> None:
    model = net(num_layers=2, bidirectional=bidirectional)
    lengths = [7, 4, 4, 1] if enforce_sorted else [4, 7, 1, 4]
    packed = pack_padded_sequence(data(7, 4, INPUTS), lengths, enforce_sorted=enforce_sorted)
    directions = 2 if bidirectional else 1
    states = tuple(data(2 * directions, 4, HIDDEN, seed=s) / 4 for s in (2, 3))
    prepared = tq.prepare(model)
    for args in ((packed,), (packed, states)):
        expected, got = reference(model, *args), prepared(*args)
        torch.testing.assert_close(got[0].data, expected[0].data)
        torch.testing.assert_close(got[1:], expected[1:])
    int8 = tq.convert(prepared)
    for args in ((packed,), (packed, states)):
        expected, got = reference(model, *args), int8(*args)
        assert sqnr(expected[0].data, got[0].data) > STATIC_DB
        assert all(sqnr(a, b) > STATIC_DB for a, b in zip(expected[1:], got[1:], strict=True))


def test_each_sequence_of_a_packed_batch_is_as_alone() -> None:
    int8 = converted(net(num_layers=2, bidirectional=True), (data(7, 4, INPUTS),))
    x, lengths = data(7, 3, INPUTS), [7, 5, 2]
    packed, hidden, cell = int8(pack_padded_sequence(x, lengths))
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    for i, length in enumerate(lengths):
        alone = int8(x[:length, i : i + 1])
        assert torch.equal(padded[:length, i], alone[0][:, 0])
        assert torch.equal(hidden[:, i], alone[1][:, 0])
        assert torch.equal(cell[:, i], alone[2][:, 0])


def test_results_do_not_depend_on_the_batch_or_on_a_batch_dimension() -> None:
    int8 = converted(net(), (data(7, 4, INPUTS),))
    x = data(5, 3, INPUTS)
    whole = int8(x)
    alone = int8(x[:, 1])
    assert torch.equal(whole[0][:, 1], alone[0])
    assert torch.equal(whole[1][:, 1], alone[1])


def test_steps_are_those_of_the_cell() -> None:
    """All steps' input gates at once give the bits of one step after the other."""
    int8 = converted(net(), (data(7, 4, INPUTS),))
    x = int8.quant(data(6, 4, INPUTS))
    outputs, (hidden, cell) = int8.lstm(x)
    states = None
    for step in range(6):
        states = int8.lstm.layers[0].layer_fw.cell(x[step], states)
        assert torch.equal(states[0].int_repr(), outputs[step].int_repr())
    assert torch.equal(states[0].int_repr(), hidden[0].int_repr())
    assert torch.equal(states[1].int_repr(), cell[0].int_repr())


class Counting(tq.MinMaxObserver):
    calls = 0

    def forward(self, x_orig: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = super().forward(x_orig)
        return result


def test_each_observer_sees_every_step() -> None:
    model = net(num_layers=2, bidirectional=True)
    model.qconfig = tq.QConfig(Counting, tq.default_per_channel_weight_observer)
    prepared = tq.prepare(model)
    prepared(data(7, 2, INPUTS))
    calls = {
        name: module.calls for name, module in prepared.named_modules() if type(module) is Counting
    }
    inside = {name: count for name, count in calls.items() if ".cell." in name}
    # igates, hgates, gates and the four functionals, in 2 layers and 2 directions
    assert len(inside) == 7 * 4
    assert set(inside.values()) == {7}
    joins = [name for name in calls if "_cat." in name]
    assert len(joins) == 4
    assert all(calls[name] == 1 for name in joins)


def test_initial_states_have_calibrated_qparams() -> None:
    int8 = converted(net(), (data(7, 4, INPUTS),))
    cell = int8.lstm.layers[0].layer_fw.cell
    hidden, memory = cell.initialize_hidden(3, is_quantized=True)
    assert hidden.dtype is octavo.quint8
    assert (hidden.q_scale(), hidden.q_zero_point()) == cell.initial_hidden_state_qparams
    assert hidden.q_scale() == cell.ogate_cy.scale < 0.02
    assert memory.q_scale() == cell.fgate_cx_igate_cgate.scale != 1.0
    assert not hidden.dequantize().any()
    assert not memory.dequantize().any()
    cell.initial_hidden_state_qparams = (0.5, 7)
    assert cell.initialize_hidden(3, True)[0].q_scale() == 0.5


def test_states_of_another_kind_than_the_input_are_refused() -> None:
    int8 = converted(net(), (data(7, 4, INPUTS),))
    x, zeros = int8.quant(data(7, 4, INPUTS)), torch.zeros(1, 4, HIDDEN)
    with pytest.raises(TypeError, match=r"hidden state is a plain float32 tensor.*QuantStub"):
        int8.lstm(x, (zeros, zeros))
    with pytest.raises(TypeError, match=r"Linear 'lstm.layers.0.layer_fw.cell.igates': input must"):
        int8.lstm(data(7, 4, INPUTS))
    with pytest.raises(RuntimeError, match=r"cell state must have shape \(1, 4, 16\)"):
        int8.lstm(x, (int8.quant(zeros), int8.quant(zeros[..., :3])))


@pytest.mark.parametrize("shape", [(7, 4, 3), (4,), (0, 4, INPUTS)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="expected a 2-D"):
        nnqa.LSTM(INPUTS, HIDDEN)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "num_layers must be greater than zero, got 0"),
        ({"num_layers": 1.5}, "num_layers must be an int, got float 1.5"),
        ({"dropout": 1.5}, "dropout must be"),
        ({"dropout": "1"}, "dropout must be"),
        ({"proj_size": HIDDEN}, "proj_size must be"),
    ],
)
@pytest.mark.parametrize("kind", [nnqa.LSTM, nnq.LSTM])
def test_wrong_arguments(kind: Any, arguments: dict[str, Any], message: str) -> None:
    error = TypeError if "an int" in message else ValueError
    with pytest.raises(error, match=f"^LSTM: {message}"):
        kind(INPUTS, HIDDEN, **arguments)


def test_dropout_of_one_layer_is_warned_of() -> None:
    for kind in (nnqa.LSTM, nnq.LSTM):
        with pytest.warns(UserWarning, match="LSTM: .* does nothing") as caught:
            kind(INPUTS, HIDDEN, dropout=0.5)
        assert caught[0].filename == __file__


def test_sources() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.LSTM"):
        nnqa.LSTM.from_float(nn.GRU(2, 2))
    with pytest.raises(ValueError, match="no qconfig"):
        nnqa.LSTM.from_float(nn.LSTM(2, 2))
    with pytest.raises(TypeError, match=r"expected a calibrated octavo.nn.quantizable.LSTM"):
        nnq.LSTM.from_observed(nn.LSTM(2, 2))
    with pytest.raises(NotImplementedError, match=r"octavo.nn.quantizable.LSTM.from_float"):
        nnq.LSTM.from_float(nn.LSTM(2, 2))
    with pytest.raises(NotImplementedError, match=r"octavo.nn.quantized.LSTM.from_observed"):
        nnqa.LSTM.from_observed(nn.LSTM(2, 2))


def test_what_was_not_calibrated_is_named() -> None:
    prepared = tq.prepare(net())
    prepared.quant(data(1, 1, INPUTS))
    with pytest.raises(RuntimeError, match=r"'lstm.layers.0.layer_fw.cell.hgates' \(Linear\)"):
        tq.convert(prepared)


def test_a_parametrized_weight_is_folded_or_named() -> None:
    model, x = net(), data(5, 3, INPUTS)
    nn.utils.parametrizations.weight_norm(model.lstm, "weight_hh_l0")
    model.lstm.qconfig = MINMAX
    with pytest.raises(ValueError, match="'weight_hh_l0' is computed from other tensors"):
        nnqa.LSTM.from_float(model.lstm)
    expected = model(x)
    prepared = tq.prepare(model, inplace=True)  # torch cannot copy such a layer
    torch.testing.assert_close(prepared(x), expected)


def test_hooks_go_on_working() -> None:
    model = net()
    seen = []
    model.lstm.register_forward_hook(lambda module, args, out: seen.append(type(module)))
    x = data(3, 2, INPUTS)
    prepared = tq.prepare(model)
    prepared(x)
    int8 = tq.convert(prepared)
    int8(x)
    assert seen == [nnqa.LSTM, nnq.LSTM]


def test_copies_and_files() -> None:
    model, x = net(num_layers=2, bidirectional=True), data(5, 3, INPUTS)
    prepared = tq.prepare(model)
    prepared(x)
    for again in (pickle.loads(pickle.dumps(prepared)), copy.deepcopy(prepared)):
        torch.testing.assert_close(again(x), prepared(x))
    int8 = tq.convert(prepared)
    expected = int8(x)
    other = converted(net(num_layers=2, bidirectional=True), (data(5, 3, INPUTS, seed=9) * 2,))
    assert not torch.equal(other(x)[0], expected[0])
    other.load_state_dict(int8.state_dict())
    loaded = tq.load_quantized(Net(num_layers=2, bidirectional=True), int8.state_dict())
    fresh = nnq.LSTM(INPUTS, HIDDEN, 2, bidirectional=True)
    fresh.load_state_dict(int8.lstm.state_dict())
    q = int8.quant(x)
    assert torch.equal(fresh(q)[0].int_repr(), int8.lstm(q)[0].int_repr())
    for again in (other, loaded, pickle.loads(pickle.dumps(int8)), copy.deepcopy(int8)):
        assert all(torch.equal(a, b) for a, b in zip(again(x), expected, strict=True))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_qparams_are_torchs(bidirectional: bool) -> None:
    """Each observer of torch's observed module has one here with the same scale and zero point."""
    oracle()
    lstm = net(num_layers=2, bidirectional=bidirectional).lstm
    theirs_in, ours_in = copy.deepcopy(lstm), lstm
    theirs_in.qconfig = quietly(oracle().get_default_qconfig, "qnnpack")
    ours_in.qconfig = tq.get_default_qconfig("qnnpack")
    theirs = quietly(torch.ao.nn.quantizable.LSTM.from_float, theirs_in)
    ours = nnqa.LSTM.from_float(ours_in)
    for seed in range(2):
        x = data(3, 4, INPUTS, seed=seed)
        quietly(theirs, x)
        ours(x)
    found = 0
    mine = dict(ours.named_modules())
    for name, module in theirs.named_modules():
        if name.endswith("activation_post_process"):
            assert_same_qparams(mine[name], module)
            found += 1
    assert found == 7 * 2 * (2 if bidirectional else 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training(case: dict[str, Any]) -> None:
    model = net(**case).train()
    model.qconfig = tq.get_default_qat_qconfig()
    prepared, x = tq.prepare_qat(model), data(7, 4, INPUTS)
    loss = sum(out.square().mean() for out in prepared(x))
    loss.backward()
    for name, parameter in prepared.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    prepared.eval().apply(tq.disable_observer)
    int8 = tq.convert(prepared)
    assert type(int8.lstm) is nnq.LSTM
    # The same levels, but for one step where rounding meets a tie, which later steps carry on.
    for trained, got, part in zip(prepared(x), int8(x), ("output", "hidden", "cell"), strict=True):
        assert sqnr(trained, got) > 40, part


def test_a_training_step_learns() -> None:
    torch.manual_seed(3)
    model = Net().train()
    model.qconfig = MINMAX_QAT
    prepared = tq.prepare_qat(model)
    x = data(3, 8, INPUTS)
    target = x.cumsum(0)[..., :HIDDEN].tanh()
    optimizer = torch.optim.Adam(prepared.parameters(), 0.05)
    losses = []
    for _ in range(30):
        loss = (prepared(x)[0][..., : target.shape[-1]] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    int8 = tq.convert(prepared.eval())
    with torch.no_grad():
        got = (int8(x)[0][..., : target.shape[-1]] - target).square().mean().item()
    assert got < losses[0] / 2


@pytest.mark.parametrize("split_gates", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_cell_of_its_own(split_gates: bool, train: bool) -> None:
    torch.manual_seed(4)
    cell = nn.LSTMCell(INPUTS, HIDDEN).train(train)
    cell.qconfig = MINMAX_QAT if train else MINMAX
    part = nnqa.LSTMCell.from_float(cell, split_gates=split_gates)
    x = data(5, INPUTS)
    torch.testing.assert_close(part(x), cell(x))
    torch.testing.assert_close(part(x[0]), cell(x[0]))
    prepared = (tq.prepare_qat if train else tq.prepare)(part)
    prepared(x, prepared(x))
    int8 = tq.convert(prepared.eval())
    q = octavo.quantize_per_tensor(x, 0.03, 128, octavo.quint8)
    states = int8(q)
    for expected, got in zip(cell(q.dequantize()), states, strict=True):
        assert sqnr(expected, got) > STATIC_DB
    assert sqnr(cell(q.dequantize(), cell(q.dequantize()))[0], int8(q, states)[0]) > 20


def test_a_model_without_a_qconfig_for_it_keeps_its_lstm() -> None:
    model = net()
    model.lstm.qconfig = None
    assert type(tq.prepare(model).lstm) is nn.LSTM
    assert {row.name: row.becomes for row in tq.explain(net())}["lstm"] == "quantized.LSTM"
