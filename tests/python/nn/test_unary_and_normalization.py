"""Quantized activation functions and normalizations: results, conversion, states, the oracle."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normalize_reference as nref
import octavo
import octavo.quantization as tq
import reference as ref
from module_observers import observed
from module_support import as_ref, generator, output_of, random_q
from octavo import QTensor
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import functional as qF
from torch_oracle import torch_quantized

IMAGE = (3, 8, 5, 6)


def with_statistics(bn: Any) -> Any:
    """A batch or instance norm that has seen something."""
    g = generator(4)
    with torch.no_grad():
        for parameter in bn.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
        if bn.running_mean is not None:
            bn.running_mean.copy_(torch.randn(bn.running_mean.shape, generator=g))
            bn.running_var.copy_(torch.rand(bn.running_var.shape, generator=g) + 0.1)
            bn.num_batches_tracked.fill_(7)
    return bn.eval()


def random_affine(norm: Any) -> Any:
    g = generator(5)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return norm.eval()


# Float module, quantized class, shape of the input.
CASES: dict[str, tuple[Callable[[], nn.Module], Any, tuple[int, ...]]] = {
    "Hardswish": (nn.Hardswish, nnq.Hardswish, IMAGE),
    "ELU": (lambda: nn.ELU(0.6), nnq.ELU, IMAGE),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), nnq.LeakyReLU, IMAGE),
    "Sigmoid": (nn.Sigmoid, nnq.Sigmoid, IMAGE),
    "Tanh": (nn.Tanh, nnq.Tanh, IMAGE),
    "Hardsigmoid": (nn.Hardsigmoid, nnq.Hardsigmoid, IMAGE),
    "GELU": (nn.GELU, nnq.GELU, IMAGE),
    "GELU tanh": (lambda: nn.GELU("tanh"), nnq.GELU, IMAGE),
    "SiLU": (nn.SiLU, nnq.SiLU, IMAGE),
    "Softmax": (lambda: nn.Softmax(1), nnq.Softmax, IMAGE),
    "PReLU": (nn.PReLU, nnq.PReLU, IMAGE),
    "PReLU per channel": (lambda: random_affine(nn.PReLU(8)), nnq.PReLU, IMAGE),
    "BatchNorm1d": (lambda: with_statistics(nn.BatchNorm1d(8)), nnq.BatchNorm1d, (3, 8, 9)),
    "BatchNorm1d rows": (lambda: with_statistics(nn.BatchNorm1d(8)), nnq.BatchNorm1d, (3, 8)),
    "BatchNorm2d": (lambda: with_statistics(nn.BatchNorm2d(8)), nnq.BatchNorm2d, IMAGE),
    "BatchNorm2d plain": (
        lambda: with_statistics(nn.BatchNorm2d(8, affine=False)),
        nnq.BatchNorm2d,
        IMAGE,
    ),
    "BatchNorm3d": (lambda: with_statistics(nn.BatchNorm3d(8)), nnq.BatchNorm3d, (2, 8, 3, 4, 5)),
    "BNReLU2d": (
        lambda: nni.BNReLU2d(with_statistics(nn.BatchNorm2d(8)), nn.ReLU()).eval(),
        nniq.BNReLU2d,
        IMAGE,
    ),
    "BNReLU3d": (
        lambda: nni.BNReLU3d(with_statistics(nn.BatchNorm3d(8)), nn.ReLU()).eval(),
        nniq.BNReLU3d,
        (2, 8, 3, 4, 5),
    ),
    "LayerNorm": (lambda: random_affine(nn.LayerNorm(6)), nnq.LayerNorm, IMAGE),
    "LayerNorm two axes": (lambda: random_affine(nn.LayerNorm((5, 6))), nnq.LayerNorm, IMAGE),
    "LayerNorm no bias": (
        lambda: random_affine(nn.LayerNorm(6, bias=False)),
        nnq.LayerNorm,
        IMAGE,
    ),
    "LayerNorm plain": (
        lambda: nn.LayerNorm(6, elementwise_affine=False),
        nnq.LayerNorm,
        IMAGE,
    ),
    "GroupNorm": (lambda: random_affine(nn.GroupNorm(4, 8)), nnq.GroupNorm, IMAGE),
    "GroupNorm rows": (lambda: random_affine(nn.GroupNorm(4, 8)), nnq.GroupNorm, (3, 8)),
    "InstanceNorm1d": (
        lambda: random_affine(nn.InstanceNorm1d(8, affine=True)),
        nnq.InstanceNorm1d,
        (3, 8, 9),
    ),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8), nnq.InstanceNorm2d, IMAGE),
    "InstanceNorm2d unbatched": (lambda: nn.InstanceNorm2d(8), nnq.InstanceNorm2d, IMAGE[1:]),
    "InstanceNorm2d statistics": (
        lambda: with_statistics(nn.InstanceNorm2d(8, track_running_stats=True)),
        nnq.InstanceNorm2d,
        IMAGE,
    ),
    "InstanceNorm3d": (
        lambda: random_affine(nn.InstanceNorm3d(8, affine=True)),
        nnq.InstanceNorm3d,
        (2, 8, 3, 4, 5),
    ),
}
IN_MAPPING = set(CASES) - {"Sigmoid", "Tanh", "Hardsigmoid", "Softmax"}


def calibrated(name: str) -> tuple[Any, Any, QTensor, Tensor]:
    """Float module with an observer that has seen its output, its quantized form, an input, and
    the float output for it."""
    make, cls, shape = CASES[name]
    module: Any = make()
    x = random_q(shape, generator(7), 0.03, 120)
    expected = module(x.dequantize()).detach()
    module.activation_post_process = tq.MinMaxObserver()
    module.activation_post_process(expected)
    return module, cls.from_float(module), x, expected


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_is_the_float_result_rounded(isa: str, name: str) -> None:
    _, module, x, expected = calibrated(name)
    got = module(x)
    scale, zero = module._scale, module._zero_point
    assert (got.q_scale(), got.q_zero_point(), got.dtype) == (scale, zero, octavo.quint8)
    exact = expected.double() / scale + zero
    # Half a step, and the roundings of the float result.
    error = (got.int_repr().double() - exact.clamp(0, 255)).abs().max().item()
    assert error <= 0.5 + 2e-3
    assert got.int_repr().unique().numel() > 1


@pytest.mark.parametrize("name", CASES)
def test_memory_formats_agree(name: str) -> None:
    _, module, x, _ = calibrated(name)
    plain = module(x).int_repr()
    for form in nref.layouts(x.int_repr()):
        q = QTensor.from_int_repr(form, x.q_scale(), x.q_zero_point())
        assert torch.equal(module(q).int_repr(), plain)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [octavo.quint8, octavo.qint8], ids=str)
def test_states_and_copies(name: str, dtype: Any) -> None:
    source, _, x, _ = calibrated(name)
    cls = CASES[name][1]
    low, high = source.activation_post_process.min_val, source.activation_post_process.max_val
    source.activation_post_process = tq.MinMaxObserver(dtype=dtype)
    source.activation_post_process(torch.stack([low, high]))
    module = cls.from_float(source)
    expected = module(x)
    assert expected.dtype is dtype
    state = module.state_dict()
    assert {"scale", "zero_point"} <= state.keys()
    assert all(type(value) is Tensor for value in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = blank(module)
    missing = fresh.load_state_dict(torch.load(file, weights_only=True))
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    for other in (fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        got = other(x)
        assert (got.q_scale(), got.q_zero_point()) == (expected.q_scale(), expected.q_zero_point())
        assert got.dtype is dtype
        assert torch.equal(got.int_repr(), expected.int_repr())
        assert repr(other) == repr(module)
    module.half()
    assert torch.equal(module(x).int_repr(), expected.int_repr())
    assert module.state_dict()["scale"].dtype == torch.float32


def blank(module: Any) -> Any:
    """The module as it was constructed, with other numbers in it."""
    other = copy.deepcopy(module)
    other._set_output(1.0, 0, None)
    for name in getattr(other, "_PARAMETERS", ()):
        value = getattr(other, name)
        if value is not None:
            setattr(other, name, torch.zeros_like(value))
    return other


def test_state_dict_keys_are_torchs() -> None:
    keys = {name: set(calibrated(name)[1].state_dict()) for name in CASES}
    output = {"scale", "zero_point"}
    affine = {"weight", "bias", *output}
    bn = {*affine, "running_mean", "running_var", "num_batches_tracked"}
    for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BNReLU2d", "BNReLU3d"):
        assert keys[name] == bn
    for name in ("LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm3d"):
        assert keys[name] == affine
    for name in ("Hardswish", "LeakyReLU", "ELU", "Sigmoid", "Softmax", "InstanceNorm2d"):
        assert keys[name] == output
    assert keys["PReLU"] == {"weight", *output}


@pytest.mark.parametrize("name", sorted(IN_MAPPING))
def test_prepare_and_convert(name: str) -> None:
    make, cls, shape = CASES[name]
    model = nn.Sequential(tq.QuantStub(), make(), tq.DeQuantStub()).eval()
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    x = torch.randn(4, *shape, generator=generator(3))
    for image in x:
        prepared(image)
    report = {row.name: row.becomes for row in tq.explain(prepared)}
    int8 = tq.convert(prepared)
    assert type(int8[1]) is cls
    assert report["1"] == f"quantized.{cls.__name__}"
    assert int8[1]._qualified_name == "1"
    error = (int8(x[0]) - model(x[0])).norm() / model(x[0]).norm()
    assert error < 0.05


def test_dropout() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Dropout(0.3), tq.DeQuantStub())
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model.eval())
    x = torch.randn(3, 4)
    prepared(x)
    int8 = tq.convert(prepared)
    assert type(int8[1]) is nnq.Dropout
    assert (int8[1].p, int8[1].inplace) == (0.3, False)
    q = int8[0](x)
    assert int8[1].train()(q) is q
    with pytest.raises(TypeError, match="Dropout '1': input must be a quantized tensor"):
        int8[1](x)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Dropout"):
        nnq.Dropout.from_float(nn.Linear(1, 1))


FIXED: dict[str, tuple[nn.Module, Callable[[Any], Any], float, int]] = {
    "sigmoid": (nn.Sigmoid(), torch.sigmoid, 1 / 256, 0),
    "F.sigmoid": (nn.Sigmoid(), F.sigmoid, 1 / 256, 0),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid, 1 / 256, 0),
    "tanh": (nn.Tanh(), torch.tanh, 2 / 256, 128),
    "Tensor.tanh": (nn.Tanh(), lambda x: x.tanh(), 2 / 256, 128),
    "softmax": (nn.Softmax(-1), lambda x: torch.softmax(x, -1), 1 / 256, 0),
    "F.softmax": (nn.Softmax(1), lambda x: F.softmax(x, dim=1), 1 / 256, 0),
}


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
def test_fixed_output_parameters(name: str, dtype: str) -> None:
    module, function, scale, zero = FIXED[name]
    qdtype = getattr(octavo, dtype)
    x = random_q(IMAGE, generator(1), 0.04, 120 + qdtype.qmin, dtype)
    got = function(x)
    assert (got.q_scale(), got.q_zero_point(), got.dtype) == (scale, zero + qdtype.qmin, qdtype)
    exact = (function(x.dequantize()) / scale + got.q_zero_point()).clamp(qdtype.qmin, qdtype.qmax)
    assert (got.int_repr() - exact).abs().max() <= 0.5 + 1e-3
    assert torch.equal(module(x).int_repr(), got.int_repr())
    report = tq.explain(nn.Sequential(tq.QuantStub(), module), {"": tq.get_default_qconfig()})
    assert report[1].reason == "works on quantized tensors as it is"


SAME_QPARAMS: dict[str, tuple[Callable[[Any], Any], str, tuple[float, ...]]] = {
    "F.gelu": (F.gelu, "gelu", ()),
    "F.gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh", ()),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.3), "leaky_relu", (0.3,)),
    "F.threshold": (lambda x: F.threshold(x, 0.2, -0.4), "threshold", (0.2, -0.4)),
    "qF.leaky_relu": (lambda x: qF.leaky_relu(x, 0.3), "leaky_relu", (0.3,)),
    "qF.threshold": (lambda x: qF.threshold(x, 0.2, -0.4), "threshold", (0.2, -0.4)),
    "qF.gelu": (lambda x: qF.gelu(x), "gelu", ()),
}


@pytest.mark.parametrize("name", SAME_QPARAMS)
def test_qparams_of_the_input(name: str) -> None:
    function, reference, parameters = SAME_QPARAMS[name]
    x = random_q((4, 70), generator(1), 0.04, 120)
    got = function(x)
    assert (got.q_scale(), got.q_zero_point()) == (x.q_scale(), x.q_zero_point())
    values = as_ref(x)
    np.testing.assert_array_equal(
        got.int_repr().numpy(), nref.unary(reference, values, values, parameters)
    )


def test_in_place() -> None:
    x = random_q((4, 70), generator(1), 0.04, 120)
    for function in (F.leaky_relu, F.hardsigmoid, qF.leaky_relu, qF.hardsigmoid):
        q = QTensor.from_int_repr(x.int_repr().clone(), 0.04, 120)
        assert function(q, inplace=True) is q
        exact = (
            function(x.dequantize(), inplace=True)
            if function in (F.leaky_relu, F.hardsigmoid)
            else None
        )
        if exact is not None:
            assert (q.dequantize() - exact).abs().max() <= 0.0201


WITH_QPARAMS: dict[str, tuple[Callable[..., Any], str, tuple[float, ...]]] = {
    "hardswish": (qF.hardswish, "hardswish", ()),
    "elu": (lambda x, s, z: qF.elu(x, s, z, 0.4), "elu", (0.4, 1.0, 1.0)),
    "celu": (lambda x, s, z: qF.celu(x, s, z, 0.4), "celu", (0.4,)),
    "silu": (qF.silu, "silu", ()),
    "mish": (qF.mish, "mish", ()),
    "gelu": (lambda x, s, z: qF.gelu(x, "tanh", s, z), "gelu_tanh", ()),
    "leaky_relu": (lambda x, s, z: qF.leaky_relu(x, 0.2, False, s, z), "leaky_relu", (0.2,)),
}


@pytest.mark.kernel
@pytest.mark.parametrize("name", WITH_QPARAMS)
def test_functional_with_output_parameters(isa: str, name: str) -> None:
    function, reference, parameters = WITH_QPARAMS[name]
    x = random_q((4, 70), generator(1), 0.04, 120)
    got = function(x, 0.03, 17)
    out = ref.Q(np.empty(0, np.uint8), got.q_scale(), got.q_zero_point())
    assert (out.scale, out.zero) == (pytest.approx(0.03), 17)
    np.testing.assert_array_equal(
        got.int_repr().numpy(), nref.unary(reference, as_ref(x), out, parameters)
    )
    with pytest.raises(TypeError, match=r"expected a QTensor, got torch\.float32"):
        function(x.dequantize(), 0.03, 17)
    with pytest.raises(ValueError, match="scale"):
        function(x, 0.0, 17)
    with pytest.raises(ValueError, match="zero_point"):
        function(x, 0.1, 256)


def test_functional_refusals() -> None:
    x = random_q((4, 7), generator(1))
    with pytest.raises(ValueError, match="alpha must not be 0"):
        qF.celu(x, 0.1, 0, 0.0)
    with pytest.raises(ValueError, match="both scale and zero_point"):
        qF.leaky_relu(x, scale=0.1)
    with pytest.raises(ValueError, match="both scale and zero_point"):
        qF.gelu(x, zero_point=1)
    with pytest.raises(ValueError, match="approximate must be"):
        F.gelu(x, approximate="other")
    with pytest.raises(ValueError, match="dim must be given"):
        nn.Softmax()(x)
    with pytest.raises(IndexError, match="dim 2 is out of range"):
        torch.softmax(x, 2)
    with pytest.raises(TypeError, match=r"softmax.*dequantize\(\) it for torch\.float32"):
        torch.softmax(x, 1, dtype=torch.float32)
    per_channel = QTensor.from_int_repr(x.int_repr(), torch.ones(4), torch.zeros(4).int(), 0)
    with pytest.raises(TypeError, match="scale per channel"):
        torch.sigmoid(per_channel)
    with pytest.raises(TypeError, match="8-bit storage"):
        torch.tanh(QTensor.from_int_repr(x.int_repr().int(), 0.1, 0))


@pytest.mark.parametrize("name", CASES)
def test_module_refusals(name: str) -> None:
    source, module, x, _ = calibrated(name)
    with pytest.raises(TypeError, match="must be a quantized tensor"):
        module(x.dequantize())
    cls = CASES[name][1]
    with pytest.raises(TypeError, match="expected"):
        cls.from_float(observed(nn.Linear(2, 2)))
    del source.activation_post_process
    with pytest.raises(ValueError, match="no activation observer"):
        cls.from_float(source)
    with pytest.raises(ValueError, match="scale"):
        module.scale = 0.0
    state = module.state_dict()
    del state["scale"]
    with pytest.raises(RuntimeError, match="scale"):
        module.load_state_dict(state)


def test_shapes_are_checked() -> None:
    q = random_q((2, 4, 3, 3), generator(0))
    for module in (
        nnq.BatchNorm2d(5),
        nnq.BatchNorm3d(4),
        nnq.GroupNorm(1, 5, None, None, 0.1, 0),
        nnq.InstanceNorm2d(5, None, None, 0.1, 0),
        nnq.PReLU(0.1, 0, 5),
    ):
        with pytest.raises(RuntimeError, match=rf"^{type(module).__name__}: the input must"):
            module(q)
    with pytest.raises(ValueError, match=r"^LayerNorm: layer_norm: the input must end in"):
        nnq.LayerNorm(4, None, None, 0.1, 0)(q)
    with pytest.raises(ValueError, match="num_groups must divide"):
        nnq.GroupNorm(3, 4, None, None, 0.1, 0)
    with pytest.raises(ValueError, match=r"weight must have shape \[4\], got \[3\]"):
        nnq.LayerNorm(4, torch.ones(3), None, 0.1, 0)
    with pytest.raises(TypeError, match="bias must be a float tensor"):
        nnq.LayerNorm(4, None, torch.ones(4).int(), 0.1, 0)
    with pytest.raises(ValueError, match="weight holds NaN"):
        nnq.PReLU(0.1, 0).set_weight(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="no running statistics"):
        nnq.BatchNorm2d.from_float(observed(nn.BatchNorm2d(4, track_running_stats=False)))
    with pytest.raises(ValueError, match="Hardswish: output zero"):
        nnq.Hardswish(0.1, 200)(random_q((3,), generator(0), dtype="qint8"))


def test_bad_states_change_nothing() -> None:
    _, module, x, _ = calibrated("BatchNorm2d")
    before = module(x).int_repr()
    for key, value, message in (
        ("running_var", torch.ones(7), r"'running_var' must have shape \[8\]"),
        ("weight", torch.ones(8).double(), r"'weight' must be torch\.float32"),
        ("bias", torch.full((8,), float("inf")), "'bias' holds NaN or Inf"),
        ("scale", torch.tensor(-1.0), "scale"),
    ):
        with pytest.raises(RuntimeError, match=message):
            module.load_state_dict({**module.state_dict(), key: value})
        assert torch.equal(module(x).int_repr(), before)


def test_batch_norm_follows_its_parameters() -> None:
    _, module, x, _ = calibrated("BatchNorm2d")
    before = module(x).int_repr()
    module.weight.mul_(0.0)
    changed = module(x).int_repr()
    assert not torch.equal(before, changed)
    assert all(len(channel.unique()) == 1 for channel in changed.transpose(0, 1))


def test_prelu_leaves_positive_inputs_alone() -> None:
    """torch multiplies them by 1.0 rounded to the grid of the slopes."""
    module = nnq.PReLU(0.05, 10, 1)
    module.set_weight(octavo.quantize_per_tensor(torch.tensor([0.3]), 0.3 / 255, 0, octavo.quint8))
    x = octavo.quantize_per_tensor(
        torch.tensor([-5.0, -0.5, 0.0, 1.0, 6.0]), 0.05, 100, octavo.quint8
    )
    assert module(x).int_repr().tolist() == [0, 7, 10, 30, 130]


def torch_module(name: str, module: Any, source: Any) -> Any:
    """torch.ao's quantized module with the same parameters and output."""
    tnnq, tnniq = torch.ao.nn.quantized, torch.ao.nn.intrinsic.quantized
    kind = name.split()[0]
    cls = getattr(tnniq if kind.startswith("BNReLU") else tnnq, kind)
    scale, zero = module._scale, module._zero_point
    if kind.startswith(("BatchNorm", "BNReLU")):
        theirs = cls(8, module.eps)
        theirs.load_state_dict(
            {
                **bn_state(source),
                "scale": torch.tensor(scale),
                "zero_point": torch.tensor(zero),
            }
        )
        return theirs.eval()
    if kind.startswith(("LayerNorm", "GroupNorm", "InstanceNorm")):
        parameters = (source.weight, source.bias, scale, zero, source.eps)
        if kind == "LayerNorm":
            return cls(source.normalized_shape, *parameters)
        if kind == "GroupNorm":
            return cls(source.num_groups, source.num_channels, *parameters)
        return cls(source.num_features, *parameters)
    if kind == "ELU":
        return cls(scale, zero, source.alpha)
    if kind == "Softmax":
        return cls(source.dim, scale, zero)
    if kind == "LeakyReLU":
        return cls(scale, zero, source.negative_slope)
    return cls(scale, zero)


def bn_state(source: Any) -> dict[str, Tensor]:
    bn = source[0] if isinstance(source, nn.Sequential) else source
    return {k: v for k, v in bn.state_dict().items() if not k.startswith("activation")}


# torch.ao has no static modules of these, but for a PReLU that rounds its weights.
WITHOUT_ORACLE = ("GELU", "Hardsigmoid", "PReLU", "SiLU", "Tanh")
ORACLES = sorted(
    name
    for name in CASES
    if name.split()[0] not in WITHOUT_ORACLE
    and name
    not in (
        "InstanceNorm2d statistics",
        "InstanceNorm2d unbatched",
        "BatchNorm2d plain",
        "BatchNorm1d",
        "BatchNorm1d rows",
        "LayerNorm no bias",
        "GroupNorm rows",
        "LayerNorm plain",
    )
)


@pytest.mark.parametrize("name", ORACLES)
def test_within_one_step_of_torch(name: str) -> None:
    source, module, x, _ = calibrated(name)
    with torch_quantized() as oracle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch_module(name, module, source)
        q = oracle._make_per_tensor_quantized_tensor(x.int_repr(), x.q_scale(), x.q_zero_point())
        expected = theirs(q).int_repr()
    difference = (module(x).int_repr().int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.05


# torch has no softmax of quantized tensors without output parameters.
FUNCTIONS = [name for name in FIXED if not name.endswith("softmax")]


@pytest.mark.parametrize("name", [*FUNCTIONS, "F.gelu", "F.leaky_relu", "F.threshold"])
def test_functions_within_one_step_of_torch(name: str) -> None:
    function = FIXED[name][1] if name in FIXED else SAME_QPARAMS[name][0]
    for dtype in ("quint8", "qint8"):
        x = random_q((40, 90), generator(1), 0.04, 20, dtype)
        got = function(x)
        with torch_quantized() as oracle:
            q = oracle._make_per_tensor_quantized_tensor(x.int_repr(), 0.04, 20)
            expected = function(q)
        assert got.q_scale() == pytest.approx(expected.q_scale())
        assert got.q_zero_point() == expected.q_zero_point()
        steps = got.int_repr().int() - expected.int_repr().int()
        if name == "F.threshold":  # torch's dequantized values are off in the last bit
            ties = (x.dequantize() - 0.2).abs() < 1e-6
            exact = F.threshold(x.dequantize(), 0.2, -0.4)[ties]
            torch.testing.assert_close(got.dequantize()[ties], exact, atol=1e-6, rtol=0)
            steps = steps[~ties]
        assert steps.abs().max() <= 1


def test_reads_as_in_torch() -> None:
    assert repr(nnq.Hardswish(0.5, 3)) == "QuantizedHardswish(scale=0.5, zero_point=3)"
    assert repr(nnq.ELU(0.5, 3)) == "QuantizedELU(alpha=1.0, scale=0.5, zero_point=3)"
    sigmoid = nnq.Sigmoid(0.5, 3)
    assert (sigmoid.output_scale, sigmoid.output_zero_point) == (0.5, 3)
    assert output_of(sigmoid).zero == 3
    norm = nnq.LayerNorm((2, 3), None, None, 0.5, 3)
    assert repr(norm) == "QuantizedLayerNorm((2, 3), eps=1e-05, scale=0.5, zero_point=3)"


def test_batch_norm_of_inference_mode() -> None:
    _, module, x, _ = calibrated("BatchNorm2d")
    expected = module(x)._int
    with torch.inference_mode():
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(module, name, getattr(module, name).clone())
        assert torch.equal(module(x)._int, expected)
        module.bias.add_(1.0)
        assert not torch.equal(module(x)._int, expected)
