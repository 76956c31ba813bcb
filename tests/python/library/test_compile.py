"""torch.compile of converted models: one graph, the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from graph_support import NAMES, converted, same_bits


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", NAMES)
def test_one_graph_and_the_same_bits(name: str, backend: str) -> None:
    model, x = converted(name)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        want = model(x)
        assert same_bits(compiled(x), want)
        assert same_bits(compiled(x), want)
        assert same_bits(compiled(x[:2]), model(x[:2]))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="needs g++ or clang++, which torch.compile runs",
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own module uses it
@pytest.mark.parametrize("name", ["linear", "residual", "functions", "encoder", "lstm"])
def test_inductor(name: str) -> None:
    model, x = converted(name)
    with torch.no_grad():
        want = model(x)
        got = torch.compile(model, fullgraph=True)(x)
    if name == "encoder":  # its float parts (layer norm, softmax) are inductor's
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    else:
        assert same_bits(got, want)


def test_new_weights_are_seen() -> None:
    model, x = converted("linear")
    other, _ = converted("linear")
    with torch.no_grad():
        for module in other.modules():
            if type(module).__name__ == "Linear":
                weight, bias = module.weight(), module.bias()  # type: ignore[operator]
                flipped = torch.flip(weight.int_repr(), [0])
                module.set_weight_bias(weight._with_int(flipped), bias)  # type: ignore[operator]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    before = compiled(x)
    assert same_bits(before, model(x))
    model.load_state_dict(other.state_dict())
    assert not torch.equal(before, model(x))
    assert same_bits(compiled(x), model(x))


def test_a_new_scale_is_seen() -> None:
    model, x = converted("linear")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(x)
    model.body[0].scale *= 2  # type: ignore[index, operator]
    assert same_bits(compiled(x), model(x))


def test_a_model_that_is_float_in_part() -> None:
    class Model(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x * self.scale).softmax(-1)

    inner, x = converted("linear")
    model = Model(inner)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert same_bits(compiled(x), model(x))
