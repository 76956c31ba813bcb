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

import octavo.quantization as tq

STEPS, ROWS = 3, 8


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
    result = {
        "together": states(together),
        "apart": states(apart),
        "alone": alone,
        "message": message,
        "ignored": ignored,
    }
    torch.save(result, directory / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
