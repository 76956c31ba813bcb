"""Wrong inputs and arguments of quantized modules: errors name the module, the input, the cure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import octavo
from module_observers import Config, Observer, WeightObserver, observed
from module_support import generator, random_conv, random_linear, random_q, random_weight
from octavo import QTensor
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq


def named(module: Any) -> Any:
    module._qualified_name = "layer1.0.body"
    return module


MODULES = {
    "Linear": lambda: random_linear(6, 5),
    "LinearReLU": lambda: random_linear(6, 5, relu=True),
    "Conv2d": lambda: random_conv(6, 5, 3),
    "ConvReLU2d": lambda: random_conv(6, 5, 3, relu=True),
    "ReLU6": nnq.ReLU6,
    "MaxPool2d": lambda: nnq.MaxPool2d(2),
}


def image(channels: int = 6, dtype: str = "quint8", size: int = 6) -> QTensor:
    return random_q((2, channels, size, size), generator(0), dtype=dtype)


def per_channel() -> QTensor:
    values = image().int_repr()
    return QTensor.from_int_repr(values, torch.ones(6), torch.zeros(6, dtype=torch.int64), axis=1)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize(
    ("make", "got", "cure"),
    [
        (lambda: torch.ones(2, 6, 6, 6), "a plain float32 tensor of shape", "QuantStub"),
        (lambda: torch.ones(2, 6, 6, 6).bfloat16(), "a plain bfloat16 tensor", "QuantStub"),
        (lambda: torch.ones(2, 6, 6, 6).byte(), "a plain uint8 tensor", "quantize_per_tensor"),
        (
            lambda: octavo.quantize_per_tensor(torch.ones(2, 6, 6, 6), 1.0, 0, octavo.qint32),
            "a quantized tensor (octavo.qint32",
            "quantize it again",
        ),
        (per_channel, "per_channel_affine", "quantize it again"),
        (lambda: None, "NoneType None", "quantize_per_tensor"),
        (lambda: 3, "int 3", "quantize_per_tensor"),
    ],
)
def test_only_activations_are_accepted(kind: str, make: Any, got: str, cure: str) -> None:
    module = named(MODULES[kind]())
    with pytest.raises(TypeError) as info:
        module(make())
    message = str(info.value)
    assert message.startswith(f"{kind} 'layer1.0.body': input must be a quantized tensor")
    assert got in message
    assert cure in message


@pytest.mark.parametrize("kind", MODULES)
def test_both_8_bit_dtypes_are_accepted(kind: str) -> None:
    for dtype in ("quint8", "qint8"):
        assert isinstance(MODULES[kind]()(image(dtype=dtype)), QTensor)


def test_wrong_number_of_features() -> None:
    module = named(random_linear(6, 5))
    for shape in ((2, 7), (6, 0), (3,), ()):
        with pytest.raises(RuntimeError, match=r"Linear 'layer1\.0\.body'.*in_features = 6"):
            module(random_q(shape, generator(0)))


@pytest.mark.parametrize("shape", [(2, 5, 6, 6), (6, 6), (6,), (1, 2, 6, 6, 6), (2, 0, 6, 6)])
def test_wrong_channels_or_rank(shape: tuple[int, ...]) -> None:
    module = named(random_conv(6, 5, 3))
    with pytest.raises(RuntimeError, match=r"Conv2d 'layer1\.0\.body'.*\[N, 6, H, W\].*got"):
        module(random_q(shape, generator(0)))


@pytest.mark.parametrize("size", [(2, 9), (9, 2), (0, 9), (9, 0)])
def test_kernel_larger_than_the_image(size: tuple[int, int]) -> None:
    module = named(random_conv(6, 5, 3))
    with pytest.raises(RuntimeError, match=r"Conv2d 'layer1\.0\.body'.*smaller than the kernel"):
        module(random_q((1, 6, *size), generator(0)))


@pytest.mark.parametrize(("mode", "padding"), [("reflect", 4), ("circular", 5), ("replicate", 1)])
def test_padding_larger_than_the_image(mode: str, padding: int) -> None:
    module = named(random_conv(6, 5, 1, padding=padding, padding_mode=mode))
    size = 0 if mode == "replicate" else 4
    with pytest.raises(RuntimeError, match=r"Conv2d 'layer1\.0\.body': padding .* too large"):
        module(random_q((1, 6, size, 4), generator(0)))


def test_residual_of_another_shape_or_kind() -> None:
    module = named(random_conv(6, 6, 3, cls=nniq.ConvAdd2d, padding=1))
    with pytest.raises(ValueError, match=r"ConvAdd2d 'layer1\.0\.body': add: expected the output"):
        module(image(), image(size=5))
    with pytest.raises(TypeError, match=r"'layer1\.0\.body': extra_input must be a quantized"):
        module(image(), torch.ones(2, 6, 6, 6))


def test_pooling_errors() -> None:
    module = named(nnq.MaxPool2d(2))
    with pytest.raises(RuntimeError, match=r"MaxPool2d 'layer1\.0\.body'.*\[N, C, H, W\]"):
        module(random_q((4, 4), generator(0)))
    with pytest.raises(RuntimeError, match=r"MaxPool2d 'layer1\.0\.body'.*too small"):
        module(random_q((1, 1, 1, 1), generator(0)))
    with pytest.raises(ValueError, match=r"MaxPool2d 'layer1\.0\.body'.*half the kernel"):
        named(nnq.MaxPool2d(2, padding=2))(image())
    with pytest.raises(ValueError, match="return_indices"):
        nnq.MaxPool2d(2, return_indices=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nnq.Linear(-1, 3), "sizes must be >= 0"),
        (lambda: nnq.Linear(2, 3, dtype=torch.float16), r"must be octavo\.qint8"),
        (lambda: nnq.Linear(2, 3, dtype=octavo.quint8), r"must be octavo\.qint8"),
        (lambda: nnq.Linear(70_000, 3), "65793|int32"),
        (lambda: nnq.Conv2d(70_000, 1, 1), "65793|int32"),
        (lambda: nnq.Conv2d(3, 4, 0), "kernel_size must be an int >= 1"),
        (lambda: nnq.Conv2d(3, 4, (1, 2, 3)), "kernel_size must be an int >= 1 or 2 of them"),
        (lambda: nnq.Conv2d(3, 4, 1, stride=0), "stride must be an int >= 1"),
        (lambda: nnq.Conv2d(3, 4, 1, padding=-1), "padding must be an int >= 0"),
        (lambda: nnq.Conv2d(3, 4, 1, dilation=0), "dilation must be an int >= 1"),
        (lambda: nnq.Conv2d(3, 4, 1, padding="full"), "'same' or 'valid', got 'full'"),
        (lambda: nnq.Conv2d(3, 4, 1, 2, padding="same"), "padding='same' needs stride 1"),
        (lambda: nnq.Conv2d(3, 4, 1, groups=2), "divisible by groups"),
        (lambda: nnq.Conv2d(4, 3, 1, groups=2), "divisible by groups"),
        (lambda: nnq.Conv2d(3, 4, 1, groups=0), "must be >= 1"),
        (lambda: nnq.Conv2d(0, 4, 1), "must be >= 1"),
        (lambda: nnq.Conv2d(3, 4, 1, padding_mode="mirror"), "padding_mode must be one of"),
        (lambda: nnq.Conv2d(3, 4, 1, device="meta"), "run on the CPU, got device meta"),
        (lambda: nnq.Conv2d(3, 4, 1, dtype=octavo.quint8), r"must be octavo\.qint8"),
        (lambda: nnq.Quantize(0.0, 0, octavo.quint8), "scale: must be finite and positive"),
        (lambda: nnq.Quantize(float("nan"), 0, octavo.quint8), "scale: must be finite"),
        (lambda: nnq.Quantize(1.0, 256, octavo.quint8), r"zero_point: 256 is outside \[0, 255\]"),
        (lambda: nnq.Quantize(1.0, 128, octavo.qint8), r"zero_point: 128 is outside"),
    ],
)
def test_wrong_constructor_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [(0.0, 0), (-1.0, 0), (float("nan"), 0), (float("inf"), 0), (1e-50, 0), (1.0, 256), (1.0, -1)],
)
def test_wrong_output_qparams_change_nothing(scale: float, zero_point: int) -> None:
    module = named(random_linear(6, 5))
    before = module.scale, module.zero_point
    name, value = ("zero_point", zero_point) if scale == 1.0 else ("scale", scale)
    with pytest.raises(ValueError, match=rf"Linear 'layer1\.0\.body': {name}"):
        setattr(module, name, value)
    assert (module.scale, module.zero_point) == before


@pytest.mark.parametrize(
    ("weight", "bias", "error", "message"),
    [
        (torch.ones(5, 6), None, TypeError, "w must be .* got a plain float32 tensor"),
        (random_q((5, 6), generator(0)), None, TypeError, r"w must be .* got .*octavo\.quint8"),
        (random_weight((6, 5), generator(0)), None, ValueError, r"w must have shape \(5, 6\)"),
        (
            QTensor.from_int_repr(
                torch.zeros(5, 6, dtype=torch.int8), torch.ones(6), torch.zeros(6).long(), axis=1
            ),
            None,
            ValueError,
            "per channel on axis 0, got axis 1",
        ),
        (None, torch.ones(4), ValueError, r"bias must have shape \[5\], got \[4\]"),
        (None, torch.ones(5).int(), TypeError, "bias must be a float tensor or None"),
        (None, [1.0] * 5, TypeError, "bias must be a float tensor or None, got list"),
        (None, torch.full((5,), float("nan")), ValueError, "bias holds NaN or Inf"),
    ],
)
def test_set_weight_bias_refuses(weight: Any, bias: Any, error: Any, message: str) -> None:
    module = named(random_linear(6, 5))
    before = module.state_dict()
    good = random_weight((5, 6), generator(1))
    with pytest.raises(error, match=message) as info:
        module.set_weight_bias(good if weight is None else weight, bias)
    assert "Linear 'layer1.0.body': " in str(info.value)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


class ActivationInt32(Observer):
    def __init__(self) -> None:
        super().__init__(1.0, 0, octavo.qint32)


class Unsigned(WeightObserver):
    dtype = octavo.quint8


class WrongAxis(WeightObserver):
    ch_axis = 1


def broken(**changes: Any) -> Any:
    module = observed(torch.nn.Linear(6, 5))
    for name, value in changes.items():
        if value is None:
            delattr(module, name)
        else:
            setattr(module, name, value)
    return module


def config(observer: type) -> Any:
    result = Config()
    result.weight = observer
    return result


def with_nan(name: str) -> Any:
    module = observed(torch.nn.Linear(6, 5))
    with torch.no_grad():
        getattr(module, name).view(-1)[3] = float("nan")
    return module


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.nn.Conv2d(3, 4, 1), TypeError, r"expected a torch\.nn\.Linear"),
        (lambda: broken(qconfig=None), ValueError, "has no qconfig"),
        (lambda: broken(activation_post_process=None), ValueError, "has no activation observer"),
        (lambda: broken(activation_post_process=torch.nn.Identity()), ValueError, "no activation"),
        (lambda: broken(activation_post_process=ActivationInt32()), TypeError, "quint8 or qint8"),
        (
            lambda: broken(activation_post_process=Observer(1.0, 0, torch.float32)),
            TypeError,
            r"quint8 or qint8, got torch\.float32",
        ),
        (
            lambda: broken(activation_post_process=Observer(float("nan"), 0, octavo.quint8)),
            ValueError,
            "scale: must be finite",
        ),
        (lambda: broken(qconfig=config(Unsigned)), TypeError, "weight observer's dtype must be"),
        (lambda: broken(qconfig=config(WrongAxis)), ValueError, "per channel on axis 0"),
        (lambda: with_nan("weight"), ValueError, "float weight holds 1 NaN or Inf among 30"),
        (lambda: with_nan("bias"), ValueError, "bias holds NaN or Inf"),
        (lambda: observed(torch.nn.Linear(6, 5, device="meta")), ValueError, "meta device"),
    ],
)
def test_from_float_refuses(make: Any, error: Any, message: str) -> None:
    module = make()
    module._qualified_name = "head.fc"
    with pytest.raises(error, match=message) as info:
        nnq.Linear.from_float(module)
    assert "'head.fc'" in str(info.value) or "Linear: scale" in str(info.value)


@pytest.mark.parametrize(
    ("cls", "module"),
    [
        (nnq.Conv2d, torch.nn.Linear(2, 2)),
        (nniq.LinearReLU, torch.nn.Linear(2, 2)),
        (nniq.ConvReLU2d, torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(1, 1, 1))),
        (nniq.ConvAdd2d, torch.nn.Conv2d(1, 1, 1)),
        (nnq.QFunctional, torch.nn.Identity()),
        (nnq.ReLU6, torch.nn.ReLU()),
        (nnq.MaxPool2d, torch.nn.AvgPool2d(2)),
    ],
)
def test_from_float_of_another_kind(cls: Any, module: Any) -> None:
    with pytest.raises(TypeError, match=rf"{cls.__name__}\.from_float.*expected"):
        cls.from_float(module)


def test_qtensor_in_a_float_module() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 5))
    with pytest.raises(TypeError, match=r"(?s)linear.*(DeQuantStub|dequantize)"):
        model(random_q((2, 6), generator(0)))


def test_scales_that_float32_cannot_combine() -> None:
    module = named(random_linear(6, 5))
    module.scale = 1e-38
    x = QTensor.from_int_repr(random_q((2, 6), generator(0)).int_repr(), 1e30, 3)
    with pytest.raises(ValueError, match=r"Linear 'layer1\.0\.body': .*too far apart"):
        module(x)
