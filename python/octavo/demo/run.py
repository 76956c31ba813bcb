"""``octavo demo``: trains, quantizes, measures, saves, reloads, and judges its own promises."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

import octavo
from octavo import backend
from octavo.demo import conversion, data, isas, measure, peer_torch_ao, reload, report, training
from octavo.demo.data import Digits
from octavo.demo.measure import Contender
from octavo.demo.model import DigitsNet, channels_last
from octavo.demo.report import Promise, Report

FLOAT, INT8 = "float32", "octavo int8"
_CALIBRATION_IMAGES = 256
_SMALL_BATCH, _LARGE_BATCH = 1, 64
_ACCURACY_MARGIN = 0.5
_SIZE_RATIO = 3.5


@dataclass(frozen=True)
class Options:
    """The command line of ``octavo demo``, see there.

    ``min_speedup`` None means 1.0, or no judgement where only the scalar kernels run.
    """

    quick: bool = False
    threads: int | None = None
    seed: int = 0
    out: Path | None = None
    json_file: Path | None = None
    min_speedup: float | None = None
    check_isas: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return 3 if self.quick else 12

    @property
    def rounds(self) -> int:
        """Times that each latency is measured."""
        return 7 if self.quick else 31


def run(options: Options, out: Console | None = None) -> int:
    """Runs the demo and prints its tables.

    Returns:
        0 where every promise is kept, else 1.
    """
    out = out or report.console()
    threads_before = torch.get_num_threads()
    try:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.out is None:
            with tempfile.TemporaryDirectory(prefix="octavo-demo-") as folder:
                result = _measure(options, Path(folder), out)
        else:
            options.out.mkdir(parents=True, exist_ok=True)
            result = _measure(options, options.out, out)
    finally:
        torch.set_num_threads(threads_before)
    report.show(result, out)
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(result.to_json(), indent=2) + "\n")
    for promise in result.broken:
        out.print(
            f"octavo demo: promise broken: {promise.name}: {promise.measured}",
            style="bold red",
            highlight=False,
        )
    return 1 if result.broken else 0


def _measure(options: Options, folder: Path, out: Console) -> Report:
    digits = data.load(options.seed)
    result = Report(
        octavo=octavo.__version__,
        torch=torch.__version__,
        isa=backend.current(),
        threads=torch.get_num_threads(),
        seed=options.seed,
        images={"training": len(digits.train_labels), "held out": len(digits.test_labels)},
    )
    model = _trained(options, digits, out)
    with out.status("Fusing, calibrating, converting"):
        calibration = digits.train_images[:_CALIBRATION_IMAGES]
        fused = conversion.fuse(model)
        int8 = conversion.quantize(fused, calibration)
        peers, result.left_out = peer_torch_ao.build(model, calibration)
    contenders = [Contender(FLOAT, fused), Contender(INT8, int8)]
    contenders += [Contender(peer.name, peer.run, peer.select) for peer in peers]

    with out.status("Measuring accuracy"):
        for contender in contenders:
            contender.select()
            result.accuracy[contender.name] = measure.accuracy(
                contender.run, digits.test_images, digits.test_labels
            )
        result.layers = measure.layers(fused, int8, digits.test_images[:_LARGE_BATCH])
    with out.status("Measuring latency"):
        for batch in (_SMALL_BATCH, _LARGE_BATCH):
            result.latency[batch] = measure.latency(
                contenders, _first(digits.test_images, batch), options.rounds
            )
    with out.status("Saving, and loading in a new process"):
        result.sizes = {
            FLOAT: measure.save(fused.state_dict(), folder, "digits_float32"),
            INT8: measure.save(int8.state_dict(), folder, reload.MODEL),
        }
        reload.write_case(int8, digits.test_images, folder)
        result.reload = reload.compare_in_new_process(folder)
    if options.check_isas:
        with out.status("Running on every ISA"):
            result.isa_runs = isas.check(int8, digits.test_images[:_LARGE_BATCH])
            result.isas_not_run = isas.not_runnable()
    result.promises = _judge(result, options)
    return result


def _first(images: Tensor, count: int) -> Tensor:
    return images[:count].contiguous(memory_format=torch.channels_last)


def _trained(options: Options, digits: Digits, out: Console) -> DigitsNet:
    torch.manual_seed(options.seed)
    model = channels_last(DigitsNet())
    columns = (
        TextColumn("Training the float network"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as progress:
        steps = options.epochs * training.steps_per_epoch(digits)
        task = progress.add_task("training", total=steps, loss=float("nan"))
        training.train(
            model,
            digits,
            options.epochs,
            lambda loss: progress.update(task, advance=1, loss=loss),
        )
    return model


def _judge(result: Report, options: Options) -> list[Promise]:
    drop = result.accuracy[FLOAT] - result.accuracy[INT8]
    ratio = result.sizes[FLOAT].safetensors / result.sizes[INT8].safetensors
    promises = [
        Promise(
            f"int8 accuracy within {_ACCURACY_MARGIN} points of float",
            drop <= _ACCURACY_MARGIN,
            f"{result.accuracy[INT8]:.2f} % against {result.accuracy[FLOAT]:.2f} %",
        ),
        Promise(f"file at least {_SIZE_RATIO}x smaller", ratio >= _SIZE_RATIO, f"{ratio:.2f}x"),
        _judge_speed(result, options),
        Promise(
            "reloaded in a new process: the same bits",
            all(result.reload.values()),
            ", ".join(f"{k}: {'equal' if v else 'different'}" for k, v in result.reload.items()),
        ),
    ]
    if options.check_isas:
        names = list(dict.fromkeys(run.isa for run in result.isa_runs))
        promises.append(
            Promise(
                "the same bits on every ISA, 1 and 2 threads",
                not any(run.differs for run in result.isa_runs),
                ", ".join(names),
            )
        )
    return promises


def _judge_speed(result: Report, options: Options) -> Promise:
    found = result.latency[_LARGE_BATCH]
    speedup = found[FLOAT].median / found[INT8].median
    measured = f"{speedup:.2f}x"
    name = f"int8 faster than float32 at batch {_LARGE_BATCH}"
    wanted = options.min_speedup
    if wanted is None:
        wanted = 0.0 if result.isa == "scalar" else 1.0
    elif wanted > 0.0:
        name = f"int8 more than {wanted:g} times as fast as float32 at batch {_LARGE_BATCH}"
    return Promise(name, speedup > wanted if wanted > 0.0 else None, measured)
