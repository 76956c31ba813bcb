"""Converted models of all kinds that graphs are recorded of, and how results are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo.nn.quantized as nnq
import octavo.quantization as tq

DYNAMIC = {
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.LSTM,
    nn.GRU,
    nn.LSTMCell,
    nn.GRUCell,
    nn.RNNCell,
    nn.MultiheadAttention,
}


class _Static(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.quant, self.body, self.dequant = tq.QuantStub(), body, tq.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.body(self.quant(x)))


def static(body: nn.Module, x: Tensor, qconfig: Any = None) -> nn.Module:
    """``body`` between stubs, calibrated with ``x`` and converted."""
    model = _Static(body).eval()
    model.qconfig = tq.get_default_qconfig() if qconfig is None else qconfig  # type: ignore[assignment]
    prepared = tq.prepare(model)
    prepared(x)
    return tq.convert(prepared)


def dynamic(body: nn.Module) -> nn.Module:
    return tq.quantize_dynamic(body.eval(), DYNAMIC)


class _Functions(nn.Module):
    """Functions of quantized tensors, called in all ways."""

    def forward(self, q: Any) -> Any:
        q = torch.relu(q)
        q = F.relu(q).relu()
        q = torch.cat([q, q], 1)
        q = F.max_pool2d(q, 2)
        q = F.interpolate(q, scale_factor=2)
        q = F.interpolate(q, size=(6, 6), mode="bilinear", align_corners=False)
        q = F.relu6(F.hardtanh(q, -1, 1))
        q = torch.clamp(q, 0, 5)
        q = F.adaptive_avg_pool2d(F.avg_pool2d(q, 2), (2, 2))
        q = q.permute(0, 2, 3, 1).reshape(q.shape[0], -1).view(q.shape[0], -1, 4)
        q = torch.sigmoid(q.transpose(1, 2).contiguous()).mean(2, keepdim=True)
        q = torch.flatten(q, 1).flatten(1)[:, 1:3]
        return F.dropout(q.unsqueeze(1).squeeze(1), 0.5, False)


class _Functionals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("sum", "sum_relu", "product", "joined", "scaled", "shifted", "both"):
            setattr(self, name, nnq.FloatFunctional())

    def forward(self, q: Any) -> Any:
        a = self.sum.add(q, q)
        b = self.sum_relu.add_relu(a, q)
        c = self.product.mul(a, b)
        d = self.joined.cat([a, c], 1)
        e = self.shifted.add_scalar(self.scaled.mul_scalar(d, 2.0), 0.25)
        return self.both.add(e, d)


class _Mean(nn.Module):
    def forward(self, q: Any) -> Any:
        return q.mean([2, 3])


class _Block(nn.Module):
    """conv + add + relu, which convert() fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.add = nnq.FloatFunctional()

    def forward(self, q: Any) -> Any:
        return self.add.add_relu(self.relu(self.bn(self.first(q))), q)


class _Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, outputs: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(outputs, 3)

    def forward(self, x: Tensor) -> Any:
        y, state = self.layer(x)
        return self.head(y), state


class _Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(12, 10), nn.GRUCell(10, 6), nn.RNNCell(6, 4)

    def forward(self, x: Tensor) -> Any:
        h, c = self.lstm(x)
        return self.rnn(self.gru(h)), c


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)


class _Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag = nn.Embedding(20, 6), nn.EmbeddingBag(20, 5, mode="sum")

    def forward(self, indices: Tensor) -> Any:
        return self.words(indices), self.bag(indices)


def _tables() -> nn.Module:
    model = _Tables().eval()
    model.words.qconfig = tq.float_qparams_weight_only_qconfig  # type: ignore[assignment]
    model.bag.qconfig = tq.float_qparams_weight_only_qconfig_4bit  # type: ignore[assignment]
    return tq.convert(tq.prepare(model))


def _image(*shape: int) -> Tensor:
    return torch.randn(shape)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


Made = tuple[nn.Module, Tensor]


def _of(body: Callable[[], nn.Module], *shape: int) -> Callable[[], Made]:
    def make() -> Made:
        x = _image(*shape)
        return static(body(), x), x

    return make


def _dynamic_of(body: Callable[[], nn.Module], *shape: int) -> Callable[[], Made]:
    return lambda: (dynamic(body()), _image(*shape))


IMAGE, SEQUENCE = (2, 8, 12, 12), (4, 5, 12)

_MODELS: dict[str, Callable[[], Made]] = {
    "linear": _of(lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)), 4, 5, 12),
    "conv": _of(
        lambda: nn.Sequential(
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16),
            nn.ReLU6(),
            nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(8, 4, 3, padding="same", dilation=2, bias=False),
        ),
        *IMAGE,
    ),
    "conv1d": _of(lambda: nn.Sequential(nn.Conv1d(8, 16, 3), nn.ReLU(), nn.MaxPool1d(2)), 2, 8, 30),
    "conv3d": _of(lambda: nn.Sequential(nn.Conv3d(4, 6, 3), nn.MaxPool3d(2)), 2, 4, 6, 6, 6),
    "conv_transpose": _of(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, padding=1),
        ),
        *IMAGE,
    ),
    "residual": _of(lambda: nn.Sequential(_Block(), _Block()), *IMAGE),
    "pooling": _of(
        lambda: nn.Sequential(
            nn.MaxPool2d(3, 2, 1),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d((2, None)),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
        ),
        *IMAGE,
    ),
    "upsample": _of(
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample((9, 9), mode="bilinear")),
        *IMAGE,
    ),
    "activations": _of(
        lambda: nn.Sequential(
            nn.Hardswish(),
            nn.ELU(),
            nn.LeakyReLU(),
            nn.SiLU(),
            nn.GELU(),
            nn.Sigmoid(),
            nn.Tanh(),
            nn.PReLU(),
            nn.PReLU(8),
            nn.Softmax(1),
            nn.ReLU6(),
            nn.Dropout(),
        ),
        *IMAGE,
    ),
    "normalizations": _of(
        lambda: nn.Sequential(
            nn.BatchNorm2d(8),
            nn.GroupNorm(4, 8),
            nn.InstanceNorm2d(8, affine=True),
            nn.LayerNorm([12, 12]),
        ),
        *IMAGE,
    ),
    "functions": _of(_Functions, *IMAGE),
    "functionals": _of(_Functionals, *IMAGE),
    "mean": _of(_Mean, *IMAGE),
    "dynamic_linear": _dynamic_of(
        lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)), *SEQUENCE
    ),
    "dynamic_conv": _dynamic_of(
        lambda: nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2)
        ),
        *IMAGE,
    ),
    "lstm": _dynamic_of(
        lambda: _Recurrent(nn.LSTM(12, 10, 2, bidirectional=True, batch_first=True), 20), *SEQUENCE
    ),
    "lstm_projected": _dynamic_of(
        lambda: _Recurrent(nn.LSTM(12, 10, proj_size=4, batch_first=True), 4), *SEQUENCE
    ),
    "gru": _dynamic_of(lambda: _Recurrent(nn.GRU(12, 10, batch_first=True), 10), *SEQUENCE),
    "cells": _dynamic_of(_Cells, 4, 12),
    "attention": _dynamic_of(_Attention, *SEQUENCE),
    "encoder": _dynamic_of(_encoder, *SEQUENCE),
    "embedding": lambda: (_tables(), torch.randint(0, 20, (4, 7))),
}

NAMES = sorted(_MODELS)

# Those with modules of torch.nn between quantized ones.
WITH_TORCH_MODULES = {
    *("activations", "conv", "conv1d", "conv3d", "linear", "pooling", "residual", "upsample")
}


class _Box:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class _Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        box: Any = self.inner(_Box(x))
        return box.x + 1


@functools.cache
def strict_export_enters_torch_modules() -> bool:
    """Whether this torch's strict export traces into modules of torch.nn, as they must be where
    they are called with anything but a tensor. Torch up to 2.9 does not."""
    try:
        torch.export.export(_Boxed(), (torch.zeros(1),), strict=True)
    except torch._dynamo.exc.Unsupported:
        return False
    return True


def converted(name: str) -> Made:
    """The model of that name with random weights, and an input whose first dimension is a batch."""
    torch.manual_seed(0)
    return _MODELS[name]()


def same_bits(got: Any, want: Any) -> bool:
    """Whether two results hold equal tensors of the same dtypes."""
    ours, theirs = (torch.utils._pytree.tree_leaves(result) for result in (got, want))
    return len(ours) == len(theirs) and all(
        type(a) is Tensor and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(ours, theirs, strict=True)
    )
