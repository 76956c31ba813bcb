"""Models that nobody wrote for quantization, and data for them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.demo.data import Digits, load


class DigitsCNN(nn.Module):
    """Float32 [N, 1, 16, 16] to logits [N, 10]: residual, in-place ReLU, functions, no stubs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)  # called twice
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        y = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(y)) + x)
        x = F.max_pool2d(x, 2).flatten(1)
        logits: Tensor = self.head(self.drop(x))
        return logits


@functools.cache
def digits() -> Digits:
    return load(0)


@functools.cache
def trained_cnn() -> DigitsCNN:
    """The same trained network for every test; they must not change it."""
    torch.manual_seed(1)
    model = DigitsCNN()
    data = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(data.train_labels)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    """The share of held-out digits that a model gets right."""
    data = digits()
    with torch.no_grad():
        return float((model(data.test_images).argmax(1) == data.test_labels).float().mean())


def calibration() -> list[Tensor]:
    return list(digits().train_images[:256].split(64))


class Classifier(nn.Module):
    """A small transformer: token ids [N, T] and a mask [N, T] to logits [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.query = nn.Linear(32, 32)
        self.key = nn.Linear(32, 32)
        self.value = nn.Linear(32, 32)
        self.norm1 = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.act = nn.GELU()
        self.down = nn.Linear(64, 32)
        self.norm2 = nn.LayerNorm(32)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embed(ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], -torch.inf)
        x = self.norm1(x + scores.softmax(-1) @ self.value(x))
        x = self.norm2(x + self.down(self.act(self.up(x))))
        return {"logits": self.head(x.mean(1))}


def tokens(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    result = []
    for _ in range(count):
        ids = torch.randint(0, 50, (8, 12), generator=generator)
        mask = torch.arange(12)[None] < torch.randint(6, 13, (8, 1), generator=generator)
        result.append({"ids": ids, "mask": mask})
    return result
