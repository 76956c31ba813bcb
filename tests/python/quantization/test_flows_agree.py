"""The two graph flows, `quantize_fx` and `quantize_pt2e` with `octavo.lower`, on one float model;
eager mode is compared with the first in `fx/test_fx_parity.py`. Results of both export and compile.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

import octavo
import octavo.quantization as tq
from fx_models import ZOO, batch, calibrated, flat, sqnr, zoo_model
from octavo.quantization.quantize_fx import convert_fx, prepare_fx
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)

# torch's own export of a float LSTM.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm")

Shapes = tuple[tuple[int, ...], ...]


def by_fx(model: nn.Module, shapes: Shapes) -> fx.GraphModule:
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    return convert_fx(calibrated(prepared, shapes))  # type: ignore[arg-type]


def by_export(model: nn.Module, shapes: Shapes, dynamic: Any = None) -> fx.GraphModule:
    graph = torch.export.export(model, batch(shapes), dynamic_shapes=dynamic).module()
    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    prepared: Any = calibrated(prepare_pt2e(graph, quantizer), shapes)
    return octavo.lower(convert_pt2e(prepared))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_graph_flows_agree(name: str) -> None:
    model, shapes = zoo_model(name)
    traced, exported = by_fx(model, shapes), by_export(model, shapes)
    x = batch(shapes, 5)
    assert torch.equal(flat(traced(*x)), flat(exported(*x)))
    assert sqnr(model(*x), exported(*x)) > 25


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"two_inputs"}))
def test_graph_flows_agree_in_any_batch(name: str) -> None:
    """Exported with a batch of any size; two_inputs multiplies along it."""
    model, shapes = zoo_model(name)
    size = torch.export.Dim("size", min=1, max=64)
    dynamic = tuple({0: size} for _ in shapes)
    traced, exported = by_fx(model, shapes), by_export(model, shapes, dynamic)
    for n in (1, 3):
        x = batch(tuple((n, *shape[1:]) for shape in shapes), 5)
        assert torch.equal(flat(traced(*x)), flat(exported(*x)))


@pytest.mark.parametrize(
    ("kind", "sizes", "shape"),
    [
        (nn.Linear, (6, 5), (7, 6)),
        (nn.Linear, (6, 5), (7, 5, 6)),
        (nn.Conv1d, (4, 5, 1), (3, 4, 9)),
        (nn.Conv1d, (4, 5, 1), (4, 5)),
        (nn.ConvTranspose1d, (4, 5, 1), (4, 5)),
    ],
)
def test_batch_norms_along_the_second_dimension(kind: Any, sizes: Any, shape: Any) -> None:
    """That is not always the one of the channels, even where it is as long."""
    torch.manual_seed(0)
    model = nn.Sequential(kind(*sizes), nn.BatchNorm1d(5)).train()
    for seed in range(3):
        model(*batch((shape,), seed))
    with torch.no_grad():
        model[1].weight.uniform_(0.3, 3)
        model[1].bias.normal_()
    model.eval()
    (x,) = batch((shape,), 0)  # it was calibrated with this too
    traced, exported = by_fx(model, (shape,))(x), by_export(model, (shape,))(x)
    assert torch.equal(traced, exported)
    assert sqnr(model(x), traced) > 25  # 2 and less along the wrong one


@pytest.mark.parametrize("flow", [by_fx, by_export], ids=["fx", "export"])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_result_exports_and_compiles(name: str, flow: Any) -> None:
    model, shapes = zoo_model(name)
    int8, x = flow(model, shapes), batch(shapes, 5)
    with torch.no_grad():
        want = flat(int8(*x))
        program = torch.export.export(int8, x, strict=False)
        assert torch.equal(flat(program.module()(*x)), want)
        if any(isinstance(module, nn.LSTM) for module in int8.modules()):
            return  # torch compiles no LSTM, and the default QConfig leaves it float
        compiled = torch.compile(int8, fullgraph=True, backend="aot_eager")
        assert torch.equal(flat(compiled(*x)), want)
