"""Runs a saved int8 model over a data set with Ray Data, on a cluster of this machine only.

    pip install "ray[data]"
    python examples/batch_inference_ray.py

A small network is trained on scikit-learn's scans of digits, quantized and saved; the scans, each
shifted in several ways, go into Parquet files. Then the same files are read by one plain process
and by one or more Ray workers, each of which loads the int8 model once. The table has images per
second, and whether the logits are the same to the bit.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, track
from shared import Results, file_bytes, parser, prepare
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import octavo

SIZE = 32
CLASSES = 10
BATCH = 128
HELD_OUT = 600
ROWS_IN_A_FILE = 512
Columns = dict[str, np.ndarray[Any, Any]]


class Net(nn.Sequential):
    """[N, 1, 32, 32] to logits [N, 10]; about 10 million multiplications for an image."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(128 * 16, CLASSES))


# --- A model in a file, and data in files ---------------------------------------------------------


def scans() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits, uint8 [N, 1, 32, 32], and their labels."""
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32) / 16)[:, None]
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return (images * 255).round().to(torch.uint8), torch.from_numpy(digits.target)


def pixels(images: Tensor) -> Tensor:
    """Bytes as the float32 numbers that the network takes."""
    return images.to(torch.float32) / 255


def shifted(images: Tensor, right: int, down: int) -> Tensor:
    """Images moved by some pixels; zeros come in."""
    padded = F.pad(images, (2, 2, 2, 2))
    return padded[..., 2 - down : 2 - down + SIZE, 2 - right : 2 - right + SIZE]


def train(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A float network that reads digits wherever they are."""
    model = Net().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in track(range(epochs), "training"):
        for batch in torch.randperm(len(labels)).split(64):
            right, down = torch.randint(-2, 3, (2,)).tolist()
            optimizer.zero_grad()
            logits = model(pixels(shifted(images[batch], right, down)))
            F.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
    return model.eval()


def write_model(model: nn.Module, images: Tensor, path: Path) -> None:
    """Quantizes the network, calibrated with scans, and writes int8 weights and scales."""
    int8, _ = octavo.quantize(model, [pixels(part) for part in images[:512].split(64)])
    octavo.save(int8, path)


def write_images(images: Tensor, labels: Tensor, copies: int, folder: Path) -> int:
    """Parquet files with the columns id, label and image (bytes); returns the number of rows."""
    import pyarrow
    import pyarrow.parquet

    shifts = [(right, down) for right in (0, -2, 2, -1, 1) for down in (0, -2, 2, -1, 1)][:copies]
    every = torch.cat([shifted(images, *shift) for shift in shifts])
    target = labels.repeat(len(shifts))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    for number, rows in enumerate(torch.arange(len(every)).split(ROWS_IN_A_FILE)):
        columns = {
            "id": pyarrow.array(rows.numpy()),
            "label": pyarrow.array(target[rows].numpy()),
            "image": pyarrow.array([image.numpy().tobytes() for image in every[rows]]),
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{number:04}.parquet")
    return len(every)


# --- What every worker runs -----------------------------------------------------------------------


class Predictor:
    """Loads an int8 model when it is made, and runs it on one batch of rows after the other.

    Args:
        path: a file of ``octavo.save``.
        threads: for this worker. All workers together should not have more than there are cores.
    """

    def __init__(self, path: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = octavo.load(path, Net())

    def __call__(self, batch: Columns) -> Columns:
        begin = time.time()
        rows = len(batch["id"])
        data = np.frombuffer(b"".join(batch["image"]), np.uint8).reshape(rows, 1, SIZE, SIZE)
        with torch.inference_mode():
            logits = self.model(pixels(torch.from_numpy(data.copy()))).numpy()
        return {
            "id": batch["id"],
            "logits": logits,
            "worker": np.full(rows, os.getpid()),
            "begin": np.full(rows, begin),
            "end": np.full(rows, time.time()),
        }


def in_this_process(folder: Path, model: Path, threads: int) -> Iterator[Columns]:
    """The results of one process without Ray, batch by batch."""
    import pyarrow.parquet

    predictor = Predictor(str(model), threads)
    for file in sorted(folder.glob("*.parquet")):
        for part in pyarrow.parquet.ParquetFile(file).iter_batches(BATCH):
            ids, images = part.column("id").to_numpy(), part.column("image")
            yield predictor({"id": ids, "image": images.to_numpy(zero_copy_only=False)})


def with_ray(folder: Path, model: Path, workers: int, threads: int) -> Iterator[Columns]:
    """The results of some Ray workers, in the order in which they come."""
    import pyarrow.parquet
    import ray

    # A table is a block, and blocks are what is shared out. ray.data.read_parquet reads in tasks of
    # its own, for data that do not fit into memory; small files become one block there.
    files = sorted(folder.glob("*.parquet"))
    tables = [pyarrow.parquet.read_table(file, columns=["id", "image"]) for file in files]
    results = ray.data.from_arrow(tables).map_batches(
        Predictor,
        fn_constructor_args=(str(model), threads),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    yield from results.iter_batches(batch_size=None, batch_format="numpy")


def start_ray(workers: int) -> str:
    """A cluster on the loopback interface, without dashboard, log lines and usage statistics.

    ``num_cpus`` is what Ray schedules by, not what it measures: a CPU for each worker, and one for
    tasks that prepare data. Where workers hold all of them, such tasks wait for ever.

    Returns:
        The address of its only node.
    """
    # Read when Ray is imported. The first is what Ray has on macOS and Windows: it listens on
    # 127.0.0.1 only. An address given to ray.init would be replaced by that of a network.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by itself: everything else goes first
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    ray.init(
        address="local",  # never one that runs already
        num_cpus=workers + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
    )
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 300  # all workers have the model before the first batch
    return str(ray.util.get_node_ip_address())


def stop_ray() -> None:
    """Ends the cluster and all of its processes."""
    import ray

    ray.shutdown()


# --- Measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a run over all images gave.

    Attributes:
        logits: by id.
        rate: images per second, while all workers work.
        seconds: in all, with the start of workers and the loading of models.
        workers: that had a part in it.
    """

    logits: np.ndarray[Any, Any]
    rate: float
    seconds: float
    workers: int


def measured(name: str, count: int, parts: Callable[[], Iterable[Columns]]) -> Outcome:
    """Runs over all images and puts the results in order."""
    begin = time.perf_counter()
    found = []
    with Progress() as progress:
        task = progress.add_task(name, total=count)
        for part in parts():
            found.append(part)
            progress.advance(task, len(part["id"]))
    seconds = time.perf_counter() - begin
    table = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    assert np.array_equal(np.sort(table["id"]), np.arange(count)), "rows were lost or doubled"
    # The first batch of a process is slower; time counts when each worker has done its own.
    workers = np.unique(table["worker"])
    ready = max(table["end"][table["worker"] == one].min() for one in workers)
    later = table["begin"] >= ready
    span = table["end"].max() - ready
    rate = float(later.sum() / span) if later.any() else float("nan")
    return Outcome(table["logits"][np.argsort(table["id"])], rate, seconds, len(workers))


def different(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> int:
    """How many numbers differ in any bit."""
    return int((a.view(np.int32) != b.view(np.int32)).sum())


def ways_of(
    folder: Path, path: Path, workers: int, cores: int, quick: bool
) -> dict[str, Callable[[], Iterable[Columns]]]:
    """By name, what is measured; the last one asks for more threads than there are cores."""
    result: dict[str, Callable[[], Iterable[Columns]]] = {}
    for threads in dict.fromkeys((1, cores)):
        name = f"one process, threads: {threads}"
        result[name] = functools.partial(in_this_process, folder, path, threads)
    pairs = [(1, 1), (workers, max(1, cores // workers))]
    if not quick:
        pairs += [(1, cores), (workers, cores)]
    for number, threads in dict.fromkeys(pairs):
        name = f"Ray, workers: {number}, threads: {threads}"
        result[name] = functools.partial(with_ray, folder, path, number, threads)
    return result


def rows_of(outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """The table: each way beside the first."""
    first = next(iter(outcomes.values()))
    return [
        {
            "way": name,
            "workers": outcome.workers,
            "images/s": outcome.rate,
            "ratio": outcome.rate / first.rate,
            "seconds in all": outcome.seconds,
            "logits that differ": different(outcome.logits, first.logits),
        }
        for name, outcome in outcomes.items()
    ]


def work(arguments: argparse.Namespace, results: Results) -> None:
    """Trains, quantizes, writes files, runs over them in several ways, and reports."""
    images, labels = scans()
    path, folder = arguments.output / "int8.pt", arguments.output / "images"
    model = train(images[HELD_OUT:], labels[HELD_OUT:], 2 if arguments.quick else 6)
    write_model(model, images[HELD_OUT:], path)
    count = write_images(images, labels, 3 if arguments.quick else 25, folder)
    results.say(f"{count} images in {len(list(folder.iterdir()))} files")

    ways = ways_of(folder, path, arguments.workers, arguments.threads, arguments.quick)
    results.value("address", start_ray(arguments.workers))
    try:
        outcomes = {name: measured(name, count, parts) for name, parts in ways.items()}
    finally:
        stop_ray()
    torch.set_num_threads(arguments.threads)
    results.table(
        "Images per second",
        rows_of(outcomes),
        "images/s: while all workers work; seconds in all: with their start; "
        "ratio, logits that differ: to the first row",
    )
    tested, target = slice(0, HELD_OUT), labels[:HELD_OUT].numpy()  # unshifted, not trained with
    with torch.inference_mode():
        float_logits = model(pixels(images[tested])).numpy()
    int8_logits = next(iter(outcomes.values())).logits[tested]
    scores = {"float32": float_logits, "int8": int8_logits}
    sizes = {
        "float32": sum(value.nbytes for value in model.state_dict().values()),
        "int8": file_bytes(path),
    }
    results.table(
        "The model",
        [
            {
                "model": name,
                "accuracy %": float(100 * (logits.argmax(1) == target).mean()),
                "bytes": sizes[name],
            }
            for name, logits in scores.items()
        ],
    )
    results.value("images", count)


def main() -> None:
    """Reads arguments, works, and writes results."""
    made = parser(__doc__, "batch_inference_ray")
    made.add_argument("--workers", type=int, default=2, help="of Ray, where there are several")
    arguments = made.parse_args()
    if arguments.workers < 1:
        raise SystemExit(f"--workers must be 1 or more, got {arguments.workers}")
    if importlib.util.find_spec("ray") is None:
        raise SystemExit('This example takes Ray Data: pip install "ray[data]"')
    prepare(arguments)
    results = Results("batch_inference_ray", arguments)
    work(arguments, results)
    results.write()


if __name__ == "__main__":
    main()
