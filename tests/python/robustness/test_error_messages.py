"""What users of other int8 tools have met as cryptic errors: here each either works, or its message
says what was wrong, in which module, and what to do.

Weight norm and parametrizations: quantization/test_fold.py. NaN, uncalibrated models, bfloat16:
robustness/test_unusual_models.py. Kernels for this CPU: test_backend.py. Checkpoints:
nn/test_state_dict.py, quantization/test_load_quantized.py.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from module_support import generator, random_q
from octavo.nn import qat as nnqat
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd


def converted(model: nn.Module, data: Tensor) -> Any:
    model.eval().qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared = tq.prepare(model)
    prepared(data)
    return tq.convert(prepared)


def message(error: type[Exception], function: Any, *args: Any) -> str:
    with pytest.raises(error) as info:
        function(*args)
    return str(info.value)


IMAGE = torch.randn(1, 3, 8, 8, generator=generator(1))


def test_no_engine_has_to_be_chosen() -> None:
    """torch: "Didn't find engine for operation quantized::linear_prepack NoQEngine", and "unknown
    architecure"
    """
    script = (
        "import torch, octavo\n"
        "from octavo.quantization import quantize_dynamic\n"
        "print(quantize_dynamic(torch.nn.Linear(4, 3))(torch.ones(2, 4)).shape)\n"
        "print(octavo.backend.current() in octavo.backend.supported())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.splitlines() == ["torch.Size([2, 3])", "True"], done.stderr


class Branching(nn.Module):
    """Calls its parts by hand, one of them from a method."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def head(self, x: Tensor) -> Tensor:
        return self.body(x)  # the line that errors point to

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_a_float_tensor_in_a_quantized_module_names_both_and_where_it_came_from() -> None:
    """torch: "Could not run 'quantized::conv2d.new' with arguments from the 'CPU' backend", and the
    thirty backends.
    """
    model = nn.Sequential(
        nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)),
    )
    int8 = converted(model, IMAGE)
    int8[0] = nn.Conv2d(3, 4, 3)  # no longer quantized
    text = message(TypeError, int8, IMAGE)
    assert text.startswith("Conv2d '1.1': input must be a quantized tensor")
    assert "a plain float32 tensor of shape (1, 4, 3, 3), the output of '1.0' (MaxPool2d)." in text
    assert "Put an octavo.quantization.QuantStub before this module" in text
    first = nn.Sequential(nn.Sequential(int8[1][1]))
    assert "the input of the model." in message(TypeError, first, IMAGE)
    after = nn.Sequential(nn.Sequential(nn.Softsign()), nn.Sequential(int8[1][1]))
    assert "the output of '0' (Sequential)." in message(TypeError, after, IMAGE)
    branching = nn.Sequential(Branching(int8[1][1]))
    text = message(TypeError, branching, IMAGE)
    assert "in the forward of '0' (Branching) (test_error_messages.py:" in text
    assert "return self.body(x)  # the line that errors point to)" in text
    assert "shape (1, 3, 8, 8). Put" in message(TypeError, int8[1][1], IMAGE)


def test_float_tensors_in_functionals_are_told_too() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.add = tq.QuantStub(), nnq.FloatFunctional()

        def forward(self, x: Tensor, quantize: bool = True) -> Tensor:
            y = self.quant(x)
            return self.add.add(y, y if quantize else x)

    int8 = converted(Sum(), IMAGE)
    text = message(TypeError, int8, IMAGE, False)
    assert "QFunctional 'add'" in text
    assert "a plain float32 tensor" in text
    assert "return self.add.add(y, y if quantize else x)" in text


def test_a_quantized_tensor_in_a_dynamic_module_names_where_it_came_from() -> None:
    for layer, x in (
        (nn.Linear(4, 3), torch.randn(2, 4)),
        (nn.LSTM(4, 3), torch.randn(2, 1, 4)),
        (nn.Conv1d(4, 3, 1), torch.randn(2, 4, 5)),
    ):
        model = nn.Sequential(nnq.Quantize(0.1, 0, octavo.quint8), layer)
        int8 = tq.quantize_dynamic(model, {type(layer)})
        text = message(TypeError, int8, x)
        assert text.startswith(f"{type(layer).__name__} '1': input must be a float32, bfloat16")
        assert "the output of '0' (Quantize). Dequantize it first" in text


class Around(nn.Module):
    """A float part in the middle of a quantized model."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.quant = tq.QuantStub()
        inner = nn.Sequential(part) if isinstance(part, nn.Module) else Of(part)
        self.blocks = nn.Sequential(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.quant(x))


class Of(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("part", "place", "operation", "advice"),
    [
        (lambda x: x + x, "Of 'blocks.0'", "add", r"FloatFunctional().add "),
        (lambda x: x * x, "Of 'blocks.0'", "mul", r"FloatFunctional().mul "),
        (lambda x: x / 2, "Of 'blocks.0'", "div", "dequantize()"),
        (lambda x: x.float(), "Of 'blocks.0'", "float", "dequantize()"),
        (nn.functional.softplus, "Of 'blocks.0'", "softplus", "DeQuantStub before it"),
        (nn.SiLU(), "SiLU 'blocks.0.0'", "silu", "DeQuantStub before it"),
        (nn.Conv2d(3, 3, 1), "Conv2d 'blocks.0.0'", "conv2d", "give it a qconfig"),
        (nn.Linear(8, 3), "Linear 'blocks.0.0'", "linear", "give it a qconfig"),
        (nn.BatchNorm2d(3), "BatchNorm2d 'blocks.0.0'", "batch_norm", "give it a qconfig"),
        (nn.LSTM(8, 3), "LSTM 'blocks.0.0'", "lstm", "DeQuantStub before it"),
        (nn.GRU(8, 3), "GRU 'blocks.0.0'", "gru", "DeQuantStub before it"),
        (nn.RNN(8, 3), "RNN 'blocks.0.0'", "rnn", "DeQuantStub before it"),
        (nn.GRUCell(8, 3), "GRUCell 'blocks.0.0'", "gru", "DeQuantStub before it"),
    ],
)
def test_a_quantized_tensor_in_a_float_operation_names_module_operation_and_cure(
    part: Any, place: str, operation: str, advice: str
) -> None:
    """torch: "Could not run 'aten::add.out' with arguments from the 'QuantizedCPU' backend" """
    if isinstance(part, nn.Module):
        part.qconfig = None  # type: ignore[assignment]
    recurrent = isinstance(part, (nn.LSTM, nn.GRU, nn.RNN, nn.GRUCell))
    x = IMAGE[0, 0] if recurrent else IMAGE
    model = Around(part).eval()
    model.qconfig = tq.get_default_qconfig()  # type: ignore[assignment]
    prepared: Any = tq.prepare(model)
    prepared.quant(x)
    text = message(TypeError, tq.convert(prepared), x)
    assert text.startswith(f"{place}: ")
    assert f"{operation}" in text.partition("does not support")[0]
    assert "does not support a quantized tensor (octavo.quint8, shape" in text
    assert advice in text


def test_layers_that_torch_asserts_are_exact_types() -> None:
    """torch: "nnq.dynamic.Linear.from_float only works for ... got ParametrizedLinear", or
    NonDynamicallyQuantizableLinear
    """
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    int8: Any = tq.quantize_dynamic(encoder, {nn.Linear})
    assert isinstance(int8.self_attn, nnqd.MultiheadAttention)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(int8(x), encoder(x), rtol=0, atol=0.1)
    made = nnqd.Linear.from_float(nn.MultiheadAttention(8, 2).out_proj)
    assert made.in_features == 8
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))
    exact = nn.Linear(8, 3)
    with torch.no_grad():
        exact.weight.copy_(computed.weight)
        exact.bias.copy_(computed.bias)
    ours, want = (nnqd.Linear.from_float(linear)(x) for linear in (computed, exact))
    assert torch.equal(ours, want)
    computed.qconfig = tq.get_default_qat_qconfig()
    with pytest.raises(ValueError, match=r"Linear\.from_float.*computed.*prepare_qat\(\) folds"):
        nnqat.Linear.from_float(computed)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions_take_per_channel_weights(rank: int) -> None:
    """torch: "Per channel weight observer is not supported yet for ConvTranspose{n}d" """
    layer = getattr(nn, f"ConvTranspose{rank}d")(3, 4, 2)
    with torch.no_grad():
        layer.weight[:, 1] *= 100  # a scale for the whole weight would cost the others their levels
    x = torch.randn(2, 3, *(5,) * rank)
    int8 = converted(nn.Sequential(tq.QuantStub(), layer, tq.DeQuantStub()), x)
    assert int8[1].weight().q_per_channel_scales().numel() == 4
    dynamic = tq.quantize_dynamic(layer, {type(layer)})
    for channel in (0, 2, 3):
        want = layer(x)[:, channel]
        error = (dynamic(x)[:, channel] - want).abs().max()
        assert error < 0.02 * want.abs().max()


def test_projections_of_an_lstm() -> None:
    """torch: "The number of rows in the packB should be equal to K" """
    layer = nn.LSTM(6, 8, 2, proj_size=3, bidirectional=True)
    int8 = tq.quantize_dynamic(nn.Sequential(layer))
    x = torch.randn(5, 2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of its slow path
        want, (want_h, want_c) = layer(x)
    y, (h, c) = int8(x)
    for ours, theirs in ((y, want), (h, want_h), (c, want_c)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (3, 6)),
        (nn.Conv2d(6, 5, 3), (2, 6, 5, 5)),
        (nn.ConvTranspose2d(6, 5, 3), (2, 6, 5, 5)),
        (nn.LSTM(6, 5), (3, 2, 6)),
        (nn.GRU(6, 5), (3, 2, 6)),
        (nn.GRUCell(6, 5), (3, 6)),
        (nn.LSTMCell(6, 5), (3, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_shorter_floats_in_and_out(layer: nn.Module, shape: Any, dtype: torch.dtype) -> None:
    """torch: "expected scalar type Float but found BFloat16" """
    x = torch.randn(shape).to(dtype)
    int8 = tq.quantize_dynamic(layer, {type(layer)})
    out, exact = int8(x), int8(x.float())
    out, exact = (y[0] if isinstance(y, tuple) else y for y in (out, exact))
    assert out.dtype is dtype
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["linear", "conv", "lstm", "attention"])
def test_nan_comes_out_as_nan_and_stays_where_it_was(kind: str) -> None:
    """torch: "In ChooseQuantizationParams, min should be less than or equal to max" """
    layer, x, spoil = {
        "linear": (nn.Linear(6, 5), torch.randn(4, 6), (1, 2)),
        "conv": (nn.Conv1d(6, 5, 3), torch.randn(4, 6, 7), (1, 2, 3)),
        "lstm": (nn.LSTM(6, 5, batch_first=True), torch.randn(4, 3, 6), (1, 0, 2)),
        "attention": (nn.MultiheadAttention(6, 2, batch_first=True), torch.randn(4, 3, 6), (1, 0)),
    }[kind]
    int8 = tq.quantize_dynamic(layer, {type(layer)})

    def run(value: Tensor) -> Tensor:
        y = int8(value, value, value) if kind == "attention" else int8(value)
        return y[0] if isinstance(y, tuple) else y

    clean = run(x)
    x[spoil] = float("nan")
    soiled = run(x)
    assert soiled[1].isnan().all()
    rest = [0, 2, 3]
    assert torch.equal(soiled[rest], clean[rest])


def test_quantized_checkpoints_in_float_models_are_told_by_their_keys() -> None:
    """torch: "Missing key(s) ... Unexpected key(s) ... _packed_params". Nothing is loaded in part,
    and load_quantized takes the file.
    """
    model = nn.Sequential(nn.Linear(6, 5))
    state = tq.quantize_dynamic(model).state_dict()
    text = message(RuntimeError, model.load_state_dict, state)
    assert '"0.weight_int8"' in text
    assert '"0.weight_scale"' in text
    x = torch.randn(3, 6)
    assert torch.equal(tq.load_quantized(model, state)(x), tq.quantize_dynamic(model)(x))


def test_a_tensor_of_a_dtype_that_no_layer_takes() -> None:
    model = converted(nn.Sequential(tq.QuantStub(), nn.Linear(6, 5)), torch.randn(3, 6))
    text = message(TypeError, model, torch.ones(3, 6, dtype=torch.float64))
    assert text.startswith("Quantize '0': the input must be a float32, bfloat16 or float16 tensor")
    assert "got a plain float64 tensor of shape (3, 6); call .float() first" in text
    text = message(
        TypeError, model[1], octavo.quantize_per_tensor(torch.ones(3, 6), 1.0, 0, octavo.qint32)
    )
    assert text.startswith("Linear '1': input must be a quantized tensor of dtype octavo.quint8")
    assert "got a quantized tensor (octavo.qint32" in text
    text = message(RuntimeError, model[1], random_q((3, 7), generator(0)))
    assert "Linear '1'" in text
    assert "in_features = 6" in text
    assert "(3, 7)" in text
