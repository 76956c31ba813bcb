"""Calibrates and trains a quantized network in several processes, each with its part of the data.

Start it with torchrun, or let it start as many processes itself:

    torchrun --nproc-per-node 2 examples/distributed_calibration.py
    python examples/distributed_calibration.py --launch 2

The data are scikit-learn's scans of digits. For calibration they are dealt out by class, so that no
process sees what the others see; what the merged observers know is compared with one process that
saw everything. Training takes DistributedDataParallel, and all processes have to end up with the
same int8 model.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from shared import Results, parser, prepare
from sklearn.datasets import load_digits
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import octavo.quantization as tq
from octavo.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

BATCH = 64
EXAMPLE = torch.zeros(1, 1, 16, 16)

NOTE = (
    "qparams, tensors: how many are equal to the bit; scale, zero: largest difference; same: "
    "answers; agree: int8 models of all ranks. own shard: what a rank finds by itself; "
    "merged: all_reduce_observers after the last batch; each step: inside of "
    "DistributedDataParallel, against one process that saw the ranks' batches of a step as one; "
    "other order: one process that saw the last batch first"
)
# Each kind of observer that decides on the scales of activations.
KINDS: dict[str, Any] = {
    "minmax": tq.MinMaxObserver,
    "average": tq.MovingAverageMinMaxObserver,
    "histogram": tq.HistogramObserver,
    "percentile": tq.PercentileObserver,
    "mse": tq.MSEObserver,
}


class Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Sequential):
    """[N, 1, 16, 16] to logits [N, 10]; nothing in it is made for quantization."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            Block(16),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            Block(32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


@dataclass(frozen=True)
class Digits:
    """Images float32 [N, 1, 16, 16] in 0..1 and labels [N]; the same on every rank."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(seed: int, held_out: int = 600) -> Digits:
    """1,797 scans at twice their size, shuffled and split."""
    scans = load_digits()
    images = torch.from_numpy(scans.images.astype(np.float32) / 16)[:, None]
    images = F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], torch.from_numpy(scans.target)[order]
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


# --- Training -------------------------------------------------------------------------------------


def train(
    model: nn.Module, digits: Digits, epochs: int, learning_rate: float, show: Callable[..., Any]
) -> None:
    """Trains on every rank's part of each batch; gradients are averaged over the ranks.

    Observers and fake-quantize modules see the batches of all ranks in each step. Batch norms do
    not: see :func:`average_batch_norms`.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    parallel = DistributedDataParallel(model.train())
    optimizer = torch.optim.SGD(parallel.parameters(), learning_rate, momentum=0.9, nesterov=True)
    steps = len(digits.labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * steps)
    for epoch in show(range(epochs)):
        same = torch.Generator().manual_seed(epoch)  # every rank draws the same order
        order = torch.randperm(len(digits.labels), generator=same)
        for batch in order[: steps * BATCH].view(steps, BATCH):
            mine = batch[rank::world]
            optimizer.zero_grad()
            loss = F.cross_entropy(parallel(digits.images[mine]), digits.labels[mine])
            loss.backward()
            optimizer.step()
            schedule.step()


def average_batch_norms(model: nn.Module) -> int:
    """Makes the running statistics of batch norms their mean over the ranks.

    DistributedDataParallel copies rank 0's before each step; after the last one every rank has
    added its own batch, and converted models would differ. (SyncBatchNorm is for GPUs only.)

    Returns how many tensors were different before.
    """
    different = 0
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for value in (module.running_mean, module.running_var):
            assert value is not None
            different += not same_on_all_ranks([value])
            distributed.all_reduce(value)
            value /= distributed.get_world_size()
    return different


# --- Calibration ----------------------------------------------------------------------------------


def dealt_out(digits: Digits, world: int, limit: int) -> list[list[Tensor]]:
    """For each rank its batches: all images of some classes, and as many for each rank.

    Where observers work jointly in every step, each rank has to make the same number of steps.
    """
    by_class = torch.argsort(digits.labels[:limit], stable=True)
    size = len(by_class) // world
    parts = by_class[: size * world].split(size)
    return [list(digits.images[part].split(BATCH // world)) for part in parts]


def observed_by(kind: Any, model: nn.Module) -> nn.Module:
    """A copy of the model with observers of a kind for activations."""
    qconfig = tq.QConfig(activation=kind, weight=tq.default_per_channel_weight_observer)
    return prepare_fx(model, tq.QConfigMapping().set_global(qconfig), (EXAMPLE,))


def run(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Shows batches to a prepared model."""
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return model


def in_this_process(kind: Any, model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """What every program without processes does."""
    return run(observed_by(kind, model), batches)


def merged_at_the_end(kind: Any, model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Each rank observes its own batches; one call puts together what they know."""
    prepared = run(observed_by(kind, model), batches)
    tq.all_reduce_observers(prepared)
    return prepared


def jointly_in_each_step(kind: Any, model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Inside of DistributedDataParallel, observers see the batches of all ranks as one."""
    prepared = observed_by(kind, model)
    run(DistributedDataParallel(prepared), batches)
    return prepared


# --- What is compared -----------------------------------------------------------------------------


def observers_of(model: nn.Module) -> dict[str, Any]:
    """Those of a prepared graph that have a scale, by name."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, tq.ObserverBase)}
    return {name: module for name, module in found.items() if hasattr(module, "min_val")}


def difference(prepared: nn.Module, reference: nn.Module, digits: Digits) -> dict[str, Any]:
    """How a calibrated model and the int8 model made of it differ from the reference."""
    ours, theirs = observers_of(prepared), observers_of(reference)
    pairs = [(ours[n].calculate_qparams(), theirs[n].calculate_qparams()) for n in theirs]
    equal = sum(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    int8, other = convert_fx(prepared), convert_fx(reference)
    state, expected = int8.state_dict(), other.state_dict()
    tensors = sum(torch.equal(state[key], expected[key]) for key in expected)
    with torch.inference_mode():
        read = int8(digits.test_images).argmax(1) == other(digits.test_images).argmax(1)
    return {
        "qparams": f"{equal}/{len(pairs)}",
        "scale %": max(float(100 * (a[0] / b[0] - 1).abs().max()) for a, b in pairs),
        "zero": max(int((a[1] - b[1]).abs().max()) for a, b in pairs),
        "tensors": f"{tensors}/{len(expected)}",
        "same %": float(100 * read.float().mean()),
        "accuracy %": accuracy(int8, digits),
    }


def moved_counts(prepared: nn.Module, reference: nn.Module) -> dict[str, Any]:
    """How the histograms of two models differ, in the worst of their observers."""
    equal, total, bins, mass = 0, 0.0, 0.0, 0.0
    theirs = observers_of(reference)
    for name, mine in observers_of(prepared).items():
        other = theirs[name]
        equal += torch.equal(mine.min_val, other.min_val) & torch.equal(mine.max_val, other.max_val)
        counts, wanted = mine.histogram.double(), other.histogram.double()
        total = max(total, float((counts.sum() / wanted.sum() - 1).abs()))
        moved = counts / counts.sum() - wanted / wanted.sum()
        bins = max(bins, float(moved.abs().sum() / 2))
        mass = max(mass, float(moved.cumsum(0).abs().max()))
    return {
        "equal extremes": f"{equal}/{len(theirs)}",
        "total off by %": 100 * total,
        "in another bin %": 100 * bins,
        "past some border %": 100 * mass,
    }


@torch.inference_mode()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Percent of the held-out digits that are read correctly."""
    read = model(digits.test_images).argmax(1)
    return float(100 * (read == digits.test_labels).float().mean())


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of dtypes, shapes and bits."""
    result = hashlib.sha256()
    for tensor in tensors:
        result.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        result.update(tensor.detach().contiguous().numpy().tobytes())
    return result.hexdigest()


def same_on_all_ranks(tensors: Iterable[Tensor]) -> bool:
    """Whether all ranks hold the same bits."""
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, digest(tensors))
    return len(set(found)) == 1


# --- The parts of the program ---------------------------------------------------------------------


def compare_calibration(
    model: nn.Module, digits: Digits, limit: int, show: Callable[..., Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of two tables: the scales that each way finds against one process, and histograms."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    shards = dealt_out(digits, world, limit)
    mine, everything = shards[rank], [batch for shard in shards for batch in shard]
    steps = [torch.cat(parts) for parts in zip(*shards, strict=True)]
    rows, histograms = [], []

    def compare(name: str, prepared: nn.Module, reference: nn.Module) -> None:
        agree = same_on_all_ranks(convert_fx(prepared).state_dict().values())
        row = {"observers": name, **difference(prepared, reference, digits)}
        rows.append({**row, "agree": "yes" if agree else "no"})
        if name.startswith("histogram"):
            histograms.append({"observers": name, **moved_counts(prepared, reference)})

    for name, kind in show(list(KINDS.items())):
        one = in_this_process(kind, model, everything)
        compare(f"{name}, own shard", in_this_process(kind, model, mine), one)
        compare(f"{name}, merged", merged_at_the_end(kind, model, mine), one)
        jointly = jointly_in_each_step(kind, model, mine)
        compare(f"{name}, each step", jointly, in_this_process(kind, model, steps))
        if name != "minmax":  # which does not depend on the order
            backwards = in_this_process(kind, model, everything[::-1])
            compare(f"{name}, other order", backwards, one)
    return rows, histograms


def train_quantized(
    model: nn.Module, digits: Digits, epochs: int, show: Callable[..., Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """The int8 model of quantization-aware training on all ranks, and whether they agree."""
    torch.manual_seed(0)
    mapping = tq.get_default_qat_qconfig_mapping()
    prepared = prepare_qat_fx(copy.deepcopy(model).train(), mapping, (EXAMPLE,))
    train(prepared, digits, epochs, 0.01, show)
    fakes = [m for m in prepared.modules() if isinstance(m, tq.FakeQuantizeBase)]
    agree = sum(same_on_all_ranks(fake.state_dict().values()) for fake in fakes)
    before = same_on_all_ranks(convert_fx(prepared.eval()).state_dict().values())
    different = average_batch_norms(prepared)
    int8 = convert_fx(prepared.eval())
    return int8, {
        "fake-quantize modules": len(fakes),
        "of them equal on all ranks": agree,
        "batch norm statistics that differ": different,
        "int8 models equal before averaging these": before,
        "int8 models equal after": same_on_all_ranks(int8.state_dict().values()),
    }


def work(arguments: argparse.Namespace) -> None:
    """What each process does."""
    prepare(arguments)
    rank = distributed.get_rank()
    results = Results("distributed_calibration", arguments) if rank == 0 else None
    digits = load(arguments.seed)

    def bar(title: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
        return lambda items: track(items, title, total=len(items), disable=rank != 0)

    model = Net()
    train(model, digits, 5 if arguments.quick else 12, 0.05, bar("float training"))
    average_batch_norms(model)
    assert same_on_all_ranks(model.state_dict().values()), "ranks trained different models"
    model.eval()
    limit = 256 if arguments.quick else len(digits.labels)
    rows, histograms = compare_calibration(model, digits, limit, bar("calibrating"))
    int8, checks = train_quantized(model, digits, 2 if arguments.quick else 4, bar("training"))
    if results is None:
        return
    results.table("Calibration, against one process that saw all data", rows, NOTE)
    results.table("Histograms, against one process that saw all data", histograms)
    results.table(
        "Quantization-aware training", [{"check": k, "found": v} for k, v in checks.items()]
    )
    merged = next(row for row in rows if row["observers"] == "histogram, merged")
    scores = {
        "float32": accuracy(model, digits),
        "int8, calibrated on all ranks": merged["accuracy %"],
        "int8, trained on all ranks": accuracy(int8, digits),
    }
    results.table("Accuracy", [{"model": k, "accuracy %": v} for k, v in scores.items()])
    torch.save(int8.state_dict(), arguments.output / "int8.pt")
    results.value("processes", distributed.get_world_size())
    results.value("training", checks)
    results.value("accuracy", scores)
    results.write()


def launched(processes: int, own: Sequence[str]) -> int:
    """Starts this program again in so many processes, and returns their exit status.

    Together they get as many threads as the machine has cores.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), __file__, *own]
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> None:
    """Reads arguments and starts processes, or works in one of them."""
    made = parser(__doc__, "distributed_calibration")
    start = argparse.ArgumentParser(add_help=False)
    for each in (made, start):
        each.add_argument(
            "--launch", type=int, nargs="?", const=2, metavar="N", help="start N (2) processes"
        )
    arguments = made.parse_args()
    if arguments.launch:
        raise SystemExit(launched(arguments.launch, start.parse_known_args()[1]))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise SystemExit(
            "This example runs in several processes. Start it with\n"
            "    torchrun --nproc-per-node 2 examples/distributed_calibration.py\n"
            "or let it start them: python examples/distributed_calibration.py --launch 2"
        )
    distributed.init_process_group("gloo")
    try:
        work(arguments)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
