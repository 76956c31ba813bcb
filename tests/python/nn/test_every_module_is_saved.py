"""Every public quantized module, training module, observer and fake-quantize: state dicts (also in
files, with weights_only and as safetensors), copies and pickles give back the same module.

A public class that CASES does not know fails a test here.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from module_support import (
    generator,
    random_conv,
    random_linear,
    random_q,
    random_weight,
    set_random,
)
from octavo.nn import qat as nnqat
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.qat import dynamic as nnqatd
from octavo.nn.quantized import dynamic as nnqd

RANKS = (1, 2, 3)
PACKAGES = (nnq, nnqd, nniq, nniqd, nnqat, nnqatd, nniqat, tq)
# Bases of classes that users write.
ABSTRACT = {
    tq.AffineQuantizedObserverBase,
    tq.FakeQuantizeBase,
    tq.ObserverBase,
    tq.UniformQuantizationObserverBase,
}


class Case(NamedTuple):
    """``make(seed)`` gives modules that differ in nothing but what state dicts hold; ``run``, what
    can be seen of one.
    """

    make: Callable[[int], nn.Module]
    run: Callable[[Any], Any]
    stateless: bool = False


def plain(result: Any) -> Iterator[Tensor]:
    """The tensors in a result; a quantized one as integers, scale and zero point."""
    if isinstance(result, octavo.QTensor):
        yield result.int_repr()
        yield torch.tensor([result.q_scale(), result.q_zero_point()], dtype=torch.float64)
    elif isinstance(result, Tensor):
        yield result.detach()
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from plain(part)


def seen(case: Case, module: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return list(plain(case.run(module)))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(map(torch.equal, a, b))


def on_q(*shape: int, **kw: Any) -> Callable[[Any], Any]:
    return lambda module: module(random_q(shape, generator(1), **kw))


def attend_itself(module: Any) -> Any:
    x = random_q((2, 5, 8), generator(1))
    return module(x, x, x)


def on_floats(*shape: int) -> Callable[[Any], Any]:
    return lambda module: module(torch.randn(shape, generator=generator(1)))


def image(rank: int, channels: int = 4) -> tuple[int, ...]:
    return (2, channels, *(6, 5, 4)[:rank])


def filled(module: nn.Module, seed: int) -> Any:
    """Random parameters and statistics."""
    g = generator(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=g)
                tensor.copy_(values.abs() + 0.1 if "var" in name else values)
    return module


def seeded(cls: Any, *args: Any, **kw: Any) -> Callable[[int], Any]:
    """Makes float modules."""
    return lambda seed: filled(cls(*args, **kw), seed).eval()


def from_float(cls: Any, source: Callable[[int], Any], qconfig: Any = None) -> Any:
    def make(seed: int) -> Any:
        module = source(seed)
        if qconfig is not None:
            module.qconfig = qconfig
        return cls.from_float(module)

    return make


# What has a scale of its output and nothing else.


def scaled(cls: Any, *args: Any, **kw: Any) -> Callable[[int], Any]:
    return lambda seed: cls(*args, 0.01 * (seed + 1), 10 + seed, **kw)


def normalized(cls: Any, *args: Any, size: int, **kw: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        weight, bias = torch.randn(2, size, generator=generator(seed))
        return cls(*args, weight, bias, 0.02 * (seed + 1), 100 + seed, **kw)

    return make


def batch_norm(cls: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        module = filled(cls(4), seed)
        module.scale, module.zero_point = 0.02 * (seed + 1), 100 + seed
        return module.eval()

    return make


def prelu(seed: int) -> Any:
    module: Any = nnq.PReLU(0.02 * (seed + 1), 100, 4)
    module.set_weight(torch.rand(4, generator=generator(seed)))
    return module


def functional(seed: int) -> Any:
    module: Any = nnq.QFunctional()
    module.scale, module.zero_point = 0.03 * (seed + 1), 20 + seed
    return module


def with_weight(make: Callable[[], Any]) -> Callable[[int], Any]:
    def filled_module(seed: int) -> Any:
        module = make()
        if hasattr(module, "_set_output"):
            return set_random(module, generator(seed))
        bias = torch.randn(module._outputs(), generator=generator(seed))
        module.set_weight_bias(random_weight(module._weight_shape(), generator(seed)), bias)
        return module

    return filled_module


def activation(cls: Any, *args: Any) -> Callable[[int], Any]:
    """A fused Linear with an activation."""
    return with_weight(lambda: cls(6, 5, *args))


def of_parts(cls: Any, *args: Any) -> Callable[[int], Any]:
    """A module whose parts are quantized ones."""

    def make(seed: int) -> Any:
        module = cls(*args)
        for i, part in enumerate(module.modules()):
            if isinstance(part, nnq.Linear):
                set_random(part, generator(seed + i))
            elif isinstance(part, nnq.QFunctional):
                part.scale, part.zero_point = 0.02 * (seed + 1), 100 + seed
            elif isinstance(part, nnq.Quantize):
                part.scale, part.zero_point = 0.03 * (seed + 1), 90 + seed
        return module

    return make


def attend(module: Any) -> Any:
    q = random_q((5, 3, 8), generator(1))
    return module(q, q, q)


STATIC: dict[Any, Case] = {
    nnq.LSTM: Case(of_parts(nnq.LSTM, 6, 5, 2), on_q(4, 3, 6)),
    nnq.MultiheadAttention: Case(of_parts(nnq.MultiheadAttention, 8, 2), attend),
    nnq.Linear: Case(lambda seed: random_linear(6, 5, seed), on_q(3, 6)),
    nniq.LinearReLU: Case(lambda seed: random_linear(6, 5, seed, relu=True), on_q(3, 6)),
    nnq.Quantize: Case(
        lambda seed: nnq.Quantize(0.02 * (seed + 1), 9 + seed, octavo.quint8), on_floats(3, 6)
    ),
    nnq.DeQuantize: Case(lambda seed: nnq.DeQuantize(), on_q(3, 6), True),
    nnq.Dropout: Case(lambda seed: nnq.Dropout(0.25), on_q(3, 6), True),
    nnq.ReLU6: Case(lambda seed: nnq.ReLU6(), on_q(3, 6, scale=0.1), True),
    nnq.MaxPool2d: Case(lambda seed: nnq.MaxPool2d(2), on_q(*image(2)), True),
    nnq.FloatFunctional: Case(
        lambda seed: nnq.FloatFunctional(), lambda m: m.add(torch.ones(2), torch.ones(2)), True
    ),
    nnq.FXFloatFunctional: Case(
        lambda seed: nnq.FXFloatFunctional(), lambda m: m.add(torch.ones(2), torch.ones(2)), True
    ),
    nnq.QFunctional: Case(
        functional, lambda m: m.add(random_q((9,), generator(1)), random_q((9,), generator(2)))
    ),
    nnq.PReLU: Case(prelu, on_q(*image(2))),
    nnq.ScaledDotProductAttention: Case(scaled(nnq.ScaledDotProductAttention), attend_itself),
    nnq.Softmax: Case(scaled(nnq.Softmax, 1), on_q(3, 6)),
    nnq.LayerNorm: Case(normalized(nnq.LayerNorm, 6, size=6), on_q(3, 6)),
    nnq.GroupNorm: Case(normalized(nnq.GroupNorm, 2, 4, size=4), on_q(*image(2))),
    nniq.BNReLU2d: Case(batch_norm(nniq.BNReLU2d), on_q(*image(2))),
    nniq.BNReLU3d: Case(batch_norm(nniq.BNReLU3d), on_q(*image(3))),
    nniq.ConvAdd2d: Case(
        with_weight(lambda: nniq.ConvAdd2d(4, 4, 1)),
        lambda m: m(random_q(image(2), generator(1)), random_q(image(2), generator(2))),
    ),
    nniq.ConvAddReLU2d: Case(
        with_weight(lambda: nniq.ConvAddReLU2d(4, 4, 1)),
        lambda m: m(random_q(image(2), generator(1)), random_q(image(2), generator(2))),
    ),
}
for _name in ("ELU", "GELU", "Hardsigmoid", "Hardswish", "LeakyReLU", "SiLU", "Sigmoid", "Tanh"):
    STATIC[getattr(nnq, _name)] = Case(scaled(getattr(nnq, _name)), on_q(3, 6))
for _name, _args in {"LinearLeakyReLU": (0.1,), "LinearTanh": ()}.items():
    STATIC[getattr(nniq, _name)] = Case(activation(getattr(nniq, _name), *_args), on_q(3, 6))


class Fed(nn.Module):
    """A float module that a quantized tensor is given to."""

    def __init__(self, part: nn.Module, run: Any) -> None:
        super().__init__()
        self.quant, self.part, self.run = tq.QuantStub(), part, run

    def forward(self, x: Tensor) -> Any:
        return self.run(self.part, self.quant(x))


def of_parts(name: str, *args: Any, run: Any) -> None:
    """Adds a module that is observed part by part."""

    def make(seed: int) -> Any:
        model: Any = Fed(filled(getattr(nn, name)(*args), seed), run).eval()
        model.qconfig = tq.default_qconfig
        prepared = tq.prepare(model)
        prepared(torch.randn(3, 2, 6, generator=generator(seed)))
        return tq.convert(prepared).part

    STATIC[getattr(nnq, name)] = Case(make, lambda m: run(m, random_q((3, 2, 6), generator(1))))


if hasattr(nnq, "LSTM"):
    of_parts("LSTM", 6, 5, run=lambda m, x: m(x))
    of_parts("MultiheadAttention", 6, 2, run=lambda m, x: m(x, x, x))
for _rank in RANKS:
    STATIC |= {
        getattr(nnq, f"Conv{_rank}d"): Case(
            lambda seed, rank=_rank: random_conv(4, 6, 3, seed, rank=rank), on_q(*image(_rank))
        ),
        getattr(nniq, f"ConvReLU{_rank}d"): Case(
            lambda seed, rank=_rank: random_conv(4, 6, 3, seed, relu=True, rank=rank),
            on_q(*image(_rank)),
        ),
        getattr(nniq, f"ConvHardtanh{_rank}d"): Case(
            with_weight(lambda rank=_rank: getattr(nniq, f"ConvHardtanh{rank}d")(4, 6, 3)),
            on_q(*image(_rank)),
        ),
        getattr(nnq, f"ConvTranspose{_rank}d"): Case(
            with_weight(lambda rank=_rank: getattr(nnq, f"ConvTranspose{rank}d")(4, 6, 2)),
            on_q(*image(_rank)),
        ),
        getattr(nnq, f"BatchNorm{_rank}d"): Case(
            batch_norm(getattr(nnq, f"BatchNorm{_rank}d")), on_q(*image(_rank))
        ),
        getattr(nnq, f"InstanceNorm{_rank}d"): Case(
            normalized(getattr(nnq, f"InstanceNorm{_rank}d"), 4, size=4, affine=True),
            on_q(*image(_rank)),
        ),
    }

INDICES = torch.tensor([[1, 5, 0], [3, 3, 7]])
TABLES = {
    cls: Case(
        from_float(cls, seeded(source, 8, 6), tq.float_qparams_weight_only_qconfig),
        lambda m: m(INDICES),
    )
    for cls, source in (
        (nnq.Embedding, nn.Embedding),
        (nnq.EmbeddingBag, nn.EmbeddingBag),
    )
}

DYNAMIC: dict[Any, Case] = {
    nnqd.Linear: Case(from_float(nnqd.Linear, seeded(nn.Linear, 6, 5)), on_floats(3, 6)),
    nnqd.LinearFloat16: Case(
        from_float(nnqd.LinearFloat16, seeded(nn.Linear, 6, 5)), on_floats(3, 6)
    ),
    nnqd.MultiheadAttention: Case(
        from_float(nnqd.MultiheadAttention, seeded(nn.MultiheadAttention, 6, 2)),
        lambda m: m(*[torch.randn(3, 2, 6, generator=generator(1))] * 3),
    ),
    **{
        getattr(nniqd, name): Case(with_weight(lambda name=name: getattr(nniqd, name)(6, 5)), run)
        for name in ("LinearReLU", "LinearGELU")
        for run in [on_floats(3, 6)]
    },
}
for _name in ("LSTM", "GRU"):
    DYNAMIC[getattr(nnqd, _name)] = Case(
        from_float(getattr(nnqd, _name), seeded(getattr(nn, _name), 6, 5, 2, bidirectional=True)),
        on_floats(3, 2, 6),
    )
for _name in ("LSTMCell", "GRUCell", "RNNCell"):
    DYNAMIC[getattr(nnqd, _name)] = Case(
        from_float(getattr(nnqd, _name), seeded(getattr(nn, _name), 6, 5)), on_floats(3, 6)
    )
for _rank in RANKS:
    DYNAMIC |= {
        getattr(nniqd, f"ConvReLU{_rank}d"): Case(
            with_weight(lambda rank=_rank: getattr(nniqd, f"ConvReLU{rank}d")(4, 6, 3)),
            on_floats(*image(_rank)),
        ),
    }
    for _name in (f"Conv{_rank}d", f"ConvTranspose{_rank}d"):
        DYNAMIC[getattr(nnqd, _name)] = Case(
            from_float(getattr(nnqd, _name), seeded(getattr(nn, _name), 4, 6, 2)),
            on_floats(*image(_rank)),
        )


# Modules of quantization-aware training, after some steps.


def trained(cls: Any, *args: Any, run: Any, qconfig: Any = None, **kw: Any) -> Case:
    def make(seed: int) -> Any:
        config = tq.get_default_qat_qconfig() if qconfig is None else qconfig
        module = cls(*args, qconfig=config, **kw)
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                values = torch.randn(parameter.shape, generator=generator(seed))
                parameter.copy_(values.abs() + 0.1 if "bn.weight" in name else values)
        with torch.no_grad():
            run(module.train())
        return module.eval()

    return Case(make, run)


QAT: dict[Any, Case] = {
    nnqat.Linear: trained(nnqat.Linear, 6, 5, run=on_floats(3, 6)),
    nniqat.LinearReLU: trained(nniqat.LinearReLU, 6, 5, run=on_floats(3, 6)),
    nniqat.LinearBn1d: trained(nniqat.LinearBn1d, 6, 5, run=on_floats(3, 6)),
    nnqatd.Linear: trained(
        nnqatd.Linear, 6, 5, run=on_floats(3, 6), qconfig=tq.default_dynamic_qat_qconfig
    ),
    **{
        cls: trained(cls, 8, 6, run=lambda m: m(INDICES), qconfig=tq.default_embedding_qat_qconfig)
        for cls in (nnqat.Embedding, nnqat.EmbeddingBag)
    },
}
for _name, _args in {"LinearLeakyReLU": (0.1,), "LinearTanh": ()}.items():
    _cls = getattr(nniqat, _name)
    QAT[_cls] = trained(_cls, 6, 5, *_args, run=on_floats(3, 6))
for _rank in RANKS:
    for _home, _names in (
        (nnqat, ("Conv",)),
        (nniqat, ("ConvBn", "ConvBnReLU", "ConvBnHardtanh", "ConvReLU", "ConvHardtanh")),
    ):
        for _name in _names:
            _cls = getattr(_home, f"{_name}{_rank}d")
            QAT[_cls] = trained(_cls, 4, 6, 2, run=on_floats(*image(_rank)))


# Observers.


def observed(cls: Any, *args: Any, **kw: Any) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        module = cls(*args, **kw)
        for i in range(2):
            module(torch.randn(4, 3, generator=generator(seed + i)) * (seed + 1))
        return module

    return make


def qparams(module: Any) -> Any:
    return module.calculate_qparams()


def shown(module: Any) -> Any:
    """What identities can be known by: their repr."""
    return torch.tensor(list(repr(module).encode())), module(torch.ones(2))


QFORMS = {"observer": tq.MovingAverageMinMaxObserver, "quant_min": 0, "quant_max": 255}
OBSERVERS: dict[Any, Case] = {
    **{
        cls: Case(observed(cls), qparams)
        for cls in (
            tq.MinMaxObserver,
            tq.MovingAverageMinMaxObserver,
            tq.MovingAveragePerChannelMinMaxObserver,
            tq.PerChannelMinMaxObserver,
        )
    },
    **{
        cls: Case(observed(cls, bins=64), qparams)
        for cls in (tq.HistogramObserver, tq.MSEObserver, tq.PercentileObserver)
    },
    tq.FixedQParamsObserver: Case(
        lambda seed: tq.FixedQParamsObserver(0.5 + seed, 3 + seed), qparams
    ),
    tq.RecordingObserver: Case(
        observed(tq.RecordingObserver), lambda m: m.get_tensor_value(), True
    ),
    **{
        cls: Case(lambda seed, cls=cls: cls(), shown, True)
        for cls in (tq.PlaceholderObserver, tq.NoopObserver, tq.ReuseInputObserver)
    },
    tq.FakeQuantize: Case(observed(tq.FakeQuantize, **QFORMS), on_floats(4, 3)),
    tq.FusedMovingAvgObsFakeQuantize: Case(
        observed(tq.FusedMovingAvgObsFakeQuantize, **QFORMS), on_floats(4, 3)
    ),
    tq.FixedQParamsFakeQuantize: Case(
        lambda seed: tq.FixedQParamsFakeQuantize(
            tq.FixedQParamsObserver.with_args(scale=0.01 * (seed + 1), zero_point=100 + seed)
        ),
        on_floats(4, 3),
    ),
    tq.LearnableFakeQuantize: Case(
        lambda seed: tq.LearnableFakeQuantize(
            **QFORMS, scale=0.01 * (seed + 1), zero_point=100.0 + seed
        ).enable_param_learning(),
        on_floats(4, 3),
    ),
    tq.ChannelScale: Case(
        lambda seed: tq.ChannelScale(torch.full((3,), seed + 1.0)), on_floats(4, 3)
    ),
    tq.QuantStub: Case(lambda seed: tq.QuantStub(), on_floats(4, 3), True),
    tq.DeQuantStub: Case(lambda seed: tq.DeQuantStub(), on_floats(4, 3), True),
    tq.QuantWrapper: Case(
        lambda seed: tq.QuantWrapper(filled(nn.Linear(3, 2), seed)), on_floats(4, 3)
    ),
}

CASES = STATIC | TABLES | DYNAMIC | QAT | OBSERVERS


def name_of(cls: Any) -> str:
    package = cls.__module__.removeprefix("octavo.").partition(".modules")[0]
    return f"{package}.{cls.__name__}"


def every_case(stateful: bool = False) -> Any:
    chosen = [cls for cls, case in CASES.items() if not (stateful and case.stateless)]
    return pytest.mark.parametrize("cls", chosen, ids=name_of)


def public_classes() -> set[Any]:
    found = set()
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) and issubclass(value, nn.Module):
                found.add(value)
    return found


def test_every_public_class_has_a_case() -> None:
    missing = {name_of(cls) for cls in public_classes() - CASES.keys() - ABSTRACT}
    assert not missing, f"add these to CASES: {sorted(missing)}"


def test_a_module_of_quantization_is_where_it_is_said_to_be() -> None:
    """Pickles name classes by module and name."""
    for cls in CASES:
        assert getattr(importlib.import_module(cls.__module__), cls.__name__) is cls


@every_case()
def test_copies_and_pickles(cls: Any) -> None:
    case = CASES[cls]
    module = case.make(3)
    assert type(module) is cls
    want = seen(case, case.make(3))
    assert same(seen(case, case.make(3)), want)
    assert case.stateless or not same(seen(case, case.make(7)), want)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(other) is cls
        assert other.training == module.training
        assert repr(other) == repr(module)
        assert list(other.state_dict()) == list(module.state_dict())
        assert same(seen(case, other), want)
    assert same(seen(case, module), want)


def states(state: dict[str, Tensor], folder: Path) -> Iterator[dict[str, Tensor]]:
    """The state dict as it is, from files of both kinds, and without metadata."""
    yield state
    torch.save(state, folder / "state.pt")
    yield torch.load(folder / "state.pt", weights_only=True)
    safetensors = pytest.importorskip("safetensors.torch")
    dense = {key: value.detach().contiguous() for key, value in state.items()}
    safetensors.save_file(dense, folder / "state.safetensors")
    yield safetensors.load_file(folder / "state.safetensors")


@every_case(stateful=True)
def test_state_dicts(cls: Any, tmp_path: Path) -> None:
    case = CASES[cls]
    state = case.make(3).state_dict()
    assert {type(value) for value in state.values()} == {Tensor}
    want = seen(case, case.make(3))
    for loaded in states(state, tmp_path):
        fresh = case.make(7)
        fresh.load_state_dict(loaded, strict=True)
        assert same(seen(case, fresh), want)


@every_case(stateful=True)
def test_a_state_dict_that_lacks_an_entry_is_an_error(cls: Any) -> None:
    case = CASES[cls]
    state = case.make(3).state_dict()
    optional = ("num_batches_tracked", "eps", "enabled")
    for key in [key for key in state if not key.endswith(optional)]:
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(RuntimeError, match=key.rpartition(".")[2]):
            case.make(7).load_state_dict(rest, strict=True)


@pytest.mark.parametrize("cls", ABSTRACT, ids=name_of)
def test_bases_are_there_to_be_derived_from(cls: Any) -> None:
    assert "forward" not in vars(cls) or cls.forward.__isabstractmethod__
