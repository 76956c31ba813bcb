"""Small models of the shapes that graphs have, and what tests ask of a quantized graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from octavo.nn import quantized as nnq


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([activation()] if activation else []))


class Residual(nn.Module):
    """Residual blocks as torchvision's ResNet has them: in place, a ReLU called twice."""

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)

        def forward(self, x: Tensor) -> Tensor:
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            out += x
            return self.relu(out)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(self.Block(8), self.Block(8))
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(F.relu(self.stem(x))))
        return self.fc(torch.flatten(self.mean(x), 1))


class Inverted(nn.Module):
    """An inverted residual as MobileNetV2 has it, ReLU6 and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, stride=2, activation=nn.ReLU6)
        self.block = nn.Sequential(
            conv_bn(8, 16, 1, activation=nn.ReLU6),
            conv_bn(16, 16, groups=16, activation=nn.ReLU6),
            conv_bn(16, 8, 1, activation=None),
        )
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)
        return self.fc(self.dropout(x))


class UNet(nn.Module):
    """Down, up again, concatenated; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = conv_bn(3, 8)
        self.deep = conv_bn(8, 16)
        self.grow = nn.ConvTranspose2d(16, 8, 2, 2)
        self.join = conv_bn(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.down(x)
        deep = self.deep(F.max_pool2d(skip, 2))
        joined = self.join(torch.cat([skip, self.grow(deep)], dim=1))
        wide = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(joined), wide


class SqueezeExcite(nn.Module):
    """Channels weighted by a sigmoid of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8, activation=nn.SiLU)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)
        self.out = conv_bn(8, 4, activation=nn.Hardswish)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        weights = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return self.out(x * torch.sigmoid(self.expand(weights)))


class DenseConcat(nn.Module):
    """Every layer takes all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv_bn(3 + 4 * i, 4) for i in range(3)])
        self.norm = nn.BatchNorm2d(15)
        self.out = nn.Conv2d(15, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.out(F.relu(self.norm(torch.cat(features, 1))))


class Shared(nn.Module):
    """Modules that are called twice; a ReLU after one call of a convolution only."""

    def __init__(self) -> None:
        super().__init__()
        self.block = conv_bn(4, 4)
        self.conv = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        once = self.block(x)
        plain = self.conv(self.block(once))
        return self.relu(self.conv(once)), plain, self.relu(torch.softmax(plain, 1))


class TwoInputs(nn.Module):
    """Two inputs, constants of the model, numbers, and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.randn(8))
        self.register_buffer("shift", torch.randn(1, 8))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        h = torch.relu(self.a(x)) + self.b(y)
        h = 0.5 * (h * self.weight + self.shift + 3)
        u, v = h.chunk(2, -1)
        return {
            "out": h,
            "parts": (u @ v.transpose(0, 1), torch.sum(v, 1)),
            "view": h.view(h.size(0), 2, -1),
        }


class Functions(nn.Module):
    """Layers as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(8))
        self.weight = nn.Parameter(torch.randn(5, 8) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1)).mean([2, 3])
        return F.linear(F.layer_norm(x, (8,)), self.weight)


class Recurrent(nn.Module):
    """An LSTM between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.lstm(F.relu(self.enter(x)))
        return self.out(y[:, -1]) + self.out(h[-1])


class Attention(nn.Module):
    """A block of a transformer, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * 0.35).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.mlp(x)


class FusedAttention(nn.Module):
    """torch's function for attention: in heads, with a factor of its own, and causal."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            layer(z).view(n, t, 2, 8).transpose(1, 2)
            for layer, z in ((self.q, y), (self.k, x), (self.v, x))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)
        x = x + self.out(mixed)
        z = F.scaled_dot_product_attention(x, y, value=x, scale=0.1)
        return self.last(F.scaled_dot_product_attention(z, z, z, is_causal=True))


class MaskedAttention(nn.Module):
    """Attention with a mask of 0 and -1e9, which no observer may see; queries from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out, self.dropout = nn.Linear(16, 16), nn.Dropout(0.1)
        self.register_buffer("mask", torch.full((7, 7), -1e9).triu(1))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.q(y), self.k(x), self.v(x)
        scores = torch.matmul(q, k.transpose(-1, -2)) / 4.0
        weights = self.dropout(F.softmax(scores + self.mask, dim=-1))
        return self.out(weights @ v) + y, weights


class ByHand(nn.Module):
    """Activation functions written out with numbers, and functionals that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 1) for n in (3, 4, 4))
        self.ops = nnq.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a((x - 0.5) / 0.25)
        x = self.b(x * F.relu6(x + 3) / 6)
        gate = torch.sigmoid(self.c(x))
        x = self.ops.add(self.ops.mul(gate, x), (1 - gate) * torch.tanh(x))
        return -1.5 * self.ops.add_relu(x, x) + 0.1


class Tied(nn.Module):
    """One residual block applied again and again, its layers followed by other things each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.norm(self.conv(x)))
        x = self.norm(self.conv(x)) + x
        x = F.relu(self.conv(x) + x)
        y = self.conv(x)
        pooled = y.mean((2, 3))
        return self.norm(y), F.relu(self.fc(pooled)), self.fc(F.relu(self.fc(pooled)))


class Joins(nn.Module):
    """Concatenations of inputs, of values with scales of their own, and of parts of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 4, 1), nn.Conv2d(20, 6, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        x = self.a(torch.cat((x, y), 1))
        gate = torch.sigmoid(x)
        wide = torch.cat([x, gate, 2 * x, F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1)], 1)
        first, second = self.b(wide).split(3, 1)
        flipped = torch.cat([second, first, x[:, 1:3]], dim=1)
        return {"flipped": flipped, "pair": torch.stack([first, second], 1)}


class Signal(nn.Module):
    """One dimension: norms, PReLU and leaky ReLU, down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(4, 8, 3, 2, 1), nn.BatchNorm1d(8), nn.PReLU())
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose1d(8, 4, 2, 2)
        self.elu, self.pool = nn.ELU(), nn.AdaptiveAvgPool1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm(self.down(x)), 0.1)
        y = torch.cat([self.elu(self.up(y)), F.interpolate(y, scale_factor=2)[:, :4]], 1)
        return self.pool(y).permute(0, 2, 1).reshape(x.shape[0], -1)


_IMAGE = ((2, 3, 16, 16),)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "residual": (Residual, _IMAGE),
    "inverted": (Inverted, _IMAGE),
    "unet": (UNet, _IMAGE),
    "squeeze_excite": (SqueezeExcite, _IMAGE),
    "dense_concat": (DenseConcat, _IMAGE),
    "shared": (Shared, ((2, 4, 8, 8),)),
    "two_inputs": (TwoInputs, ((5, 8), (5, 6))),
    "functions": (Functions, _IMAGE),
    "recurrent": (Recurrent, ((2, 5, 6),)),
    "attention": (Attention, ((2, 7, 16),)),
    "fused_attention": (FusedAttention, ((2, 7, 16), (2, 7, 16))),
    "masked_attention": (MaskedAttention, ((2, 7, 16), (2, 7, 16))),
    "by_hand": (ByHand, _IMAGE),
    "tied": (Tied, ((2, 4, 8, 8),)),
    "joins": (Joins, ((2, 3, 8, 8), (2, 3, 8, 8))),
    "signal": (Signal, ((2, 4, 16),)),
}


def warmed(model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> nn.Module:
    """The model in eval mode, its batch norms with something to fold."""
    g = torch.Generator().manual_seed(7)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(*(torch.randn(shape, generator=g) for shape in shapes))
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.uniform_(0.5, 1.5, generator=g)
                module.bias.normal_(generator=g)
    return model.eval()


def zoo_model(name: str) -> tuple[nn.Module, tuple[tuple[int, ...], ...]]:
    make, shapes = ZOO[name]
    torch.manual_seed(0)
    return warmed(make(), shapes), shapes


def batch(shapes: tuple[tuple[int, ...], ...], seed: int = 0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=g) for shape in shapes)


def calibrated(prepared: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> nn.Module:
    with torch.no_grad():
        for seed in range(4):
            prepared(*batch(shapes, seed))
    return prepared


def flat(outputs: Any) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree_leaves(outputs)]).detach()


def sqnr(want: Any, got: Any) -> float:
    """Decibels of nested outputs, taken as one."""
    signal, noise = flat(want).pow(2).sum(), (flat(want) - flat(got)).pow(2).sum()
    return float(10 * torch.log10(signal / noise))


def calls(model: fx.GraphModule, kind: type | tuple[type, ...]) -> list[fx.Node]:
    """The calls of modules of a class."""
    return [
        node
        for node in model.graph.nodes
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), kind)
    ]


def dequantizations(model: fx.GraphModule) -> list[fx.Node]:
    return [n for n in model.graph.nodes if "dequantize" in str(n.target) and n.op != "call_module"]


def assert_no_redundant_pairs(model: fx.GraphModule) -> None:
    """Nothing is quantized twice, dequantized twice, or quantized from what was just quantized."""
    quantizations = calls(model, nnq.Quantize)
    sources = [node.args[0] for node in quantizations]
    assert len(set(sources)) == len(sources)
    for node in quantizations:
        assert "dequantize" not in str(node.args[0].target)
    sources = [node.args[0] for node in dequantizations(model)]
    assert len(set(sources)) == len(sources)
    assert all(node.users for node in (*quantizations, *dequantizations(model)))
