"""The direct entry point of linear layers with a function, against the ordinary way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import octavo
from direct_support import ordinary, same
from module_support import generator, random_q, set_random
from octavo.nn.intrinsic import quantized as nniq
from octavo.ops.weights import FUNCTION_CODE

MODULES: dict[str, Any] = {
    "leaky_relu": lambda k, n: nniq.LinearLeakyReLU(k, n, 0.2),
    "tanh": nniq.LinearTanh,
}


def module_of(function: str, dtype: str = "quint8") -> Any:
    module = set_random(MODULES[function](32, 12), generator(3))
    module._set_output(1 / 100, 9, getattr(octavo, dtype))
    return module


def taken(module: Any, x: Any) -> Any:
    """The result of the direct entry point; fails where it is not taken."""
    args = (module._scale, module._zero_point, module._out_qdtype, False)
    function = (FUNCTION_CODE[module._FUNCTION], module._parameter())
    result = module._packed.function_direct(x, *args, *function)
    assert result is not None
    return result


@pytest.mark.kernel
@pytest.mark.parametrize("function", MODULES)
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
@pytest.mark.parametrize("shape", [(32,), (1, 32), (70, 32), (2, 3, 32)])
def test_linear_function(reading: str, function: str, dtype: str, shape: tuple[int, ...]) -> None:
    module = module_of(function, dtype)
    x = random_q(shape, generator(1), dtype="quint8" if dtype == "qint8" else "qint8")
    same(taken(module, x), ordinary(lambda: module(x)))
    same(module(x), ordinary(lambda: module(x)))


@pytest.mark.parametrize("function", MODULES)
def test_rows_with_gaps_are_read_in_place(reading: str, function: str) -> None:
    module, whole = module_of(function), random_q((8, 40), generator(2))
    x = octavo.QTensor._wrap(whole._int[::2, 3:35], whole._scale, whole._zero_point, whole._qdtype)
    same(taken(module, x), ordinary(lambda: module(x)))


@pytest.mark.parametrize("function", MODULES)
def test_other_layouts_go_the_ordinary_way(reading: str, function: str) -> None:
    module, whole = module_of(function), random_q((64, 64), generator(2))
    for view in (whole._int[:, ::2], whole._int[:32, :8].t(), whole._int[:0, :32]):
        x = octavo.QTensor._wrap(view, whole._scale, whole._zero_point, whole._qdtype)
        with pytest.raises(AssertionError):
            taken(module, x)
        same(module(x), ordinary(lambda x=x: module(x)))  # type: ignore[misc]


def test_wrong_arguments_are_left_to_python(reading: str) -> None:
    module, x = module_of("tanh"), random_q((3, 32), generator(1))
    good: list[Any] = [x, 0.1, 3, octavo.quint8, False, 1, 0.5]
    direct = module._packed.function_direct
    assert direct(*good) is not None
    wrong: list[tuple[int, Any]] = [
        (0, x.int_repr()),
        (0, random_q((3, 31), generator(1))),
        (1, torch.nan),
        (1, 0.0),
        (1, 1),
        (2, 300),
        (3, octavo.qint32),
        (3, torch.uint8),
        (4, True),
        (5, 2),
        (5, -1),
        (5, "tanh"),
        (6, torch.inf),
        (6, 1),
    ]
    for index, value in wrong:
        arguments = list(good)
        arguments[index] = value
        assert direct(*arguments) is None, (index, value)
    assert direct(*good[:-1]) is None
    with pytest.raises(TypeError, match="quantized"):
        module(torch.randn(3, 32))
    with pytest.raises(RuntimeError, match="in_features = 32"):
        module(random_q((3, 31), generator(1)))
