"""torch.export of converted models: the same bits, and no quantized tensor in the graph."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.nn.quantized as nnq
from graph_support import (
    NAMES,
    WITH_TORCH_MODULES,
    converted,
    same_bits,
    strict_export_enters_torch_modules,
)
from octavo._tensor.graph import GraphQTensor


def check_plain(program: torch.export.ExportedProgram) -> None:
    """All that the graph holds and computes are plain tensors and numbers, and our operators are
    in it."""
    operators = 0
    for node in program.graph.nodes:
        for value in torch.utils._pytree.tree_leaves(node.meta.get("val")):
            assert not isinstance(value, octavo.QTensor), node
        if node.op == "call_function" and str(node.target).startswith("octavo."):
            operators += 1
            for argument in torch.utils._pytree.tree_leaves((node.args, node.kwargs)):
                assert not isinstance(argument, (octavo.QTensor, GraphQTensor)), node
    assert operators
    for constant in (*program.constants.values(), *program.state_dict.values()):
        assert type(constant) in (Tensor, nn.Parameter)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits(name: str, strict: bool) -> None:
    if strict and name in WITH_TORCH_MODULES and not strict_export_enters_torch_modules():
        pytest.skip("needs a torch whose strict export enters modules of torch.nn")
    model, x = converted(name)
    program = torch.export.export(model, (x,), strict=strict)
    check_plain(program)
    assert same_bits(program.module()(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_any_batch(name: str) -> None:
    model, x = converted(name)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
    check_plain(program)
    run = program.module()
    for other in (x, x[:2], torch.cat([x, x, x[:1]])):
        assert same_bits(run(other), model(other))


def test_weights_are_plain_int8_in_the_graph() -> None:
    model, x = converted("conv")
    program = torch.export.export(model, (x,), strict=False)
    weights = [c for c in program.constants.values() if c.dtype == torch.int8]
    assert [tuple(w.shape) for w in weights] == [
        tuple(m.weight.shape) for m in model.modules() if isinstance(m, nnq.Conv2d)
    ]


def test_hardsigmoid_as_a_function() -> None:
    """In a graph of its own: torch.compile does not offer this function to tensor-likes."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = octavo.quantize_per_tensor(x, 0.05, 10, octavo.quint8)
            y: octavo.QTensor = nn.functional.hardsigmoid(q)  # type: ignore[assignment]
            return y.dequantize()

    x = torch.randn(3, 4)
    program = torch.export.export(Model(), (x,), strict=False)
    assert same_bits(program.module()(x), Model()(x))


def test_errors_name_the_module_while_tracing() -> None:
    model, x = converted("linear")
    with pytest.raises(RuntimeError, match=r"Linear 'body\.0'.*in_features = 12"):
        torch.export.export(model, (x[..., :7],), strict=False)


def test_a_quantized_output_is_refused_by_export() -> None:
    model = nnq.Quantize(0.1, 3, octavo.quint8)
    with pytest.raises(Exception, match=r"GraphQTensor"):
        torch.export.export(model, (torch.randn(3),), strict=False)


def test_shapes_on_the_meta_device() -> None:
    for name in NAMES:
        model, x = converted(name)
        empty = copy.deepcopy(model).to("meta")
        got = torch.utils._pytree.tree_leaves(empty(x.to("meta")))
        want = torch.utils._pytree.tree_leaves(model(x))
        for a, b in zip(got, want, strict=True):
            assert a.is_meta
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name
