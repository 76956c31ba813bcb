"""One process of test_distributed: ``distributed_worker.py <rank> <world size> <directory>``.

It observes its part of the data in several ways and saves what its observers hold afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import octavo
import octavo.quantization as tq

STEPS, ROWS = 3, 8
CAPTURES = ("fx", "export")


class Watched(nn.Module):
    """A layer whose input every kind of observer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.observers = nn.ModuleDict(
            {
                "minmax": tq.MinMaxObserver(),
                "average": tq.MovingAverageMinMaxObserver(0.25),
                "channels": tq.PerChannelMinMaxObserver(ch_axis=1),
                "channel_average": tq.MovingAveragePerChannelMinMaxObserver(0.25, ch_axis=1),
                "histogram": tq.HistogramObserver(bins=64),
                "fake": tq.FakeQuantize(),
                "fused": tq.default_fused_act_fake_quant(),
                "fused_channels": tq.default_fused_per_channel_wt_fake_quant(ch_axis=1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        for observer in self.observers.values():
            observer(x)
        result: Tensor = self.fc(x)
        return result


class Unmergeable(tq.ObserverBase):
    """An observer of a user's, with statistics of its own."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__(torch.uint8)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        torch.maximum(self.largest, x.abs().max(), out=self.largest)
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.largest / 128, torch.tensor([128])


class Largest(Unmergeable):
    """The same, which knows how to merge."""

    def all_reduce(self, process_group: Any) -> None:
        distributed.all_reduce(self.largest, distributed.ReduceOp.MAX, group=process_group)


def learnable_step() -> tq.LearnableFakeQuantize:
    """A fake-quantize with a learnable scale, which starts from estimates."""
    return tq.LearnableFakeQuantize(
        tq.MinMaxObserver,
        -128,
        127,
        dtype=octavo.qint8,
        qscheme=torch.per_tensor_symmetric,
    )


def int8_states(capture: str, batches: list[Tensor], merged: bool) -> dict[str, Any]:
    """The state dict of a small network, calibrated in steps and converted, and its output."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    config = octavo.StaticQuantConfig(act_algo="minmax")
    prepared = octavo.prepare(net, config, torch.zeros(2, 6), capture=capture)
    for batch in batches:
        prepared(batch.nan_to_num())
    if merged:
        tq.all_reduce_observers(prepared)
    int8 = octavo.convert(prepared)
    state = {key: value.clone() for key, value in int8.state_dict().items()}
    return {**state, "output": int8(torch.linspace(-9, 9, 12).reshape(2, 6))}


def data(step: int, world: int) -> Tensor:
    """The batch of all ranks; its parts differ much, and one holds a NaN."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(world * ROWS, 6, generator=generator)
    x[:ROWS] *= 4 + step
    x[-1, 0] = torch.nan
    return x


def states(model: nn.Module) -> dict[str, Any]:
    """Buffers, qparams and counts of the observers of a model."""
    found: dict[str, Any] = {}
    for name, observer in model.observers.items():  # type: ignore[operator, union-attr]
        found[name] = {k: v.clone() for k, v in observer.state_dict().items()}
        found[name]["qparams"] = observer.calculate_qparams()
    return found


def main(rank: int, world: int, directory: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world
    )
    part = slice(rank * ROWS, (rank + 1) * ROWS)

    together = Watched()
    parallel = DistributedDataParallel(together)
    for step in range(STEPS):
        parallel(data(step, world)[part]).nansum().backward()
    if rank == 1:  # an empty batch must not leave the others waiting
        parallel(torch.empty(0, 6)).sum().backward()
    else:
        parallel(data(0, world)[:1]).nansum().backward()

    apart = Watched()
    for step in range(STEPS):
        apart(data(step, world)[part])
    alone = states(apart)
    tq.all_reduce_observers(apart)

    unseen = nn.ModuleDict({"channels": tq.PerChannelMinMaxObserver()})
    if rank == 0:
        unseen["channels"](torch.ones(3, 2))
    try:
        tq.all_reduce_observers(unseen)
        message = ""
    except ValueError as error:
        message = str(error)
    ignored = apart.observers["minmax"].nonfinite_count

    largest = nn.ModuleDict({"first": tq.MinMaxObserver(), "own": Largest()})
    foreign = nn.ModuleDict({"first": tq.MinMaxObserver(), "own": Unmergeable()})
    for observers in (largest, foreign):
        for observer in observers.values():
            observer(data(0, world)[part].nan_to_num())
    before = foreign["first"].min_val.clone()
    tq.all_reduce_observers(largest)
    try:
        tq.all_reduce_observers(foreign)
        refused = ""
    except TypeError as error:
        refused = str(error)
    assert torch.equal(before, foreign["first"].min_val), "merged before it refused"

    learnable = {name: learnable_step() for name in ("estimated", "learned")}
    for module in learnable.values():
        module(data(0, world)[part].nan_to_num())
    learnable["learned"].enable_param_learning()
    with torch.no_grad():
        learnable["learned"].scale.fill_(0.5)
    tq.all_reduce_observers(nn.ModuleDict(learnable))
    result = {
        "together": states(together),
        "apart": states(apart),
        "alone": alone,
        "message": message,
        "ignored": ignored,
        "largest": largest["own"].largest,
        "refused": refused,
        "learnable": {name: module.calculate_qparams() for name, module in learnable.items()},
        "workflow": {
            capture: int8_states(capture, [data(step, world)[part] for step in range(STEPS)], True)
            for capture in CAPTURES
        },
    }
    torch.save(result, directory / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
