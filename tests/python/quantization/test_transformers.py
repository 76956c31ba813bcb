"""Models of the transformers package, which nobody edited, of a few layers with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from fx_models import sqnr
from octavo.lowering import lowering_report
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.quantization.quantize_fx import (
    TracingError,
    convert_fx,
    prepare_fx,
    prepare_traceable_fx,
)
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
OF_DISTILBERT: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}


def tokens() -> Tensor:
    return torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(1))


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=100, **SMALL))  # type: ignore[no-any-return]


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(vocab_size=100, **OF_DISTILBERT)
    return transformers.DistilBertModel(config)  # type: ignore[no-any-return]


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)
    return transformers.ViTModel(config)  # type: ignore[no-any-return]


MODELS = {"bert": (bert, tokens), "distilbert": (distilbert, tokens), "vit": (vit, images)}


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A float model, its input, and the hidden states that it gives."""
    build, example = MODELS[name]
    torch.manual_seed(0)
    model, x = build().eval(), example()
    return model, x, hidden(model, x)


def hidden(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_quantize_dynamic(name: str) -> None:
    model, x, want = made(name)
    int8 = tq.quantize_dynamic(model, {nn.Linear})
    assert sqnr(want, hidden(int8, x)) > 45


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("mode", "least"), [("static", 25), ("dynamic", 45)])
def test_exported(name: str, mode: str, least: float) -> None:
    """Every Linear and convolution of the graph runs on an int8 kernel."""
    model, x, want = made(name)
    config = get_default_octavo_quantization_config(is_dynamic=mode == "dynamic")
    exported: Any = torch.export.export(model, (x,), strict=False).module()
    prepared = prepare_pt2e(exported, OctavoQuantizer().set_global(config))
    hidden(prepared, x)
    int8 = octavo.lower(convert_pt2e(prepared))
    assert sqnr(want, hidden(int8, x)) > least
    left = [row.op for row in lowering_report(int8).left_float]
    if mode == "static":
        assert not any("linear" in operator or "conv" in operator for operator in left)
    else:
        assert not any("linear" in operator for operator in left)


@pytest.mark.parametrize(("name", "layers"), [("bert", 13), ("distilbert", 12), ("vit", 13)])
def test_traceable_parts(name: str, layers: int) -> None:
    """torch.fx cannot trace such a model as a whole; all Linear layers are quantized in parts."""
    model, x, want = made(name)
    mapping = tq.get_default_qconfig_mapping()
    with pytest.raises(TracingError, match=r"(?s)at .*: .*call prepare_traceable_fx\(\)"):
        prepare_fx(model, mapping, (x,))
    with pytest.warns(UserWarning, match="the modules in them are prepared one by one"):
        prepared = prepare_traceable_fx(model, mapping, (x,))
    hidden(prepared, x)
    int8 = convert_fx(prepared)
    kinds = (nnq.Linear, nniq.LinearReLU)
    assert sum(isinstance(module, kinds) for module in int8.modules()) == layers
    assert not [module for module in int8.modules() if type(module) is nn.Linear]
    assert sqnr(want, hidden(int8, x)) > 30
