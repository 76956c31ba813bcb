"""Quantization-aware training: a MobileNetV2 with 3-bit weights gets its accuracy back.

A small MobileNetV2 learns handwritten digits (scikit-learn's scans, 899 of them held out) in float.
Then it is quantized three times:

* after training, with the default settings: 8 bits, a scale for each output channel. Nothing is
  lost, and nothing more is needed;
* after training, with weights of 3 bits: accuracy falls;
* with the same settings, but trained on with rounded weights and activations: it comes back.

All three run on the same int8 kernels. torch.ao does the same beside them where torch has it.

    python examples/qat_mobilenet.py            # minutes on two cores; --quick: less than one
    python examples/qat_mobilenet.py --device cuda
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from qat_mobilenet_parts import data, peer, plot, speed
from qat_mobilenet_parts.model import FULL, QUICK, ConvBn, MobileNet
from qat_mobilenet_parts.training import accuracy, epochs, logits_of, steps_of
from safetensors.torch import save_file
from shared import Results, Workload, bars, file_bytes, parser, prepare
from torch import Tensor, nn

import octavo
import octavo.quantization as tq

CALIBRATION_IMAGES = 256
FLOAT_RATE, AWARE_RATE = 0.1, 0.01


# --- Settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """How weights are quantized; activations always have 8 bits.

    Attributes:
        bits: of a weight. Kernels read int8, whatever they are.
        per_channel: each output channel has a scale of its own, or the layer has one.
    """

    bits: int
    per_channel: bool

    def __str__(self) -> str:
        return f"{self.bits} bits, a scale per {'channel' if self.per_channel else 'layer'}"


ORDINARY = Weights(bits=8, per_channel=True)
AGGRESSIVE = Weights(bits=3, per_channel=True)

# The networks in tables.
FLOAT, TRAINED_ON = "float", "float, trained on as long as QAT"
AFTER_ORDINARY = f"int8 after training, {ORDINARY}"
AFTER_AGGRESSIVE = f"int8 after training, {AGGRESSIVE}"
AWARE = f"int8 with QAT, {AGGRESSIVE}"
TORCH_AO_AWARE = f"torch.ao with QAT, {AGGRESSIVE}"


def weight_observer(weights: Weights) -> Any:
    """An observer of weights, symmetric without the lowest level: 3 bits are the levels -3..3.

    ``averaging_constant=1`` makes it forget the weights of the step before.
    """
    top = 2 ** (weights.bits - 1) - 1
    levels = {"dtype": octavo.qint8, "quant_min": -top, "quant_max": top, "averaging_constant": 1.0}
    if weights.per_channel:
        return tq.MovingAveragePerChannelMinMaxObserver.with_args(
            qscheme=octavo.per_channel_symmetric, **levels
        )
    return tq.MovingAverageMinMaxObserver.with_args(qscheme=octavo.per_tensor_symmetric, **levels)


def after_training_qconfig(weights: Weights) -> tq.QConfig:
    """For quantization after training: observers that only look."""
    activation = tq.HistogramObserver.with_args(dtype=octavo.quint8)
    return tq.QConfig(activation=activation, weight=weight_observer(weights))


def aware_qconfig(weights: Weights) -> tq.QConfig:
    """For training: modules that look, and pass on what is rounded to the levels they found."""
    activation = tq.FakeQuantize.with_args(
        observer=tq.MovingAverageMinMaxObserver, dtype=octavo.quint8
    )
    weight = tq.FakeQuantize.with_args(observer=weight_observer(weights))
    return tq.QConfig(activation=activation, weight=weight)


def fusable(model: nn.Module) -> list[list[str]]:
    """The names of what becomes one module: a convolution, its batch norm and, where there is one,
    its ReLU6.
    """
    return [
        [f"{name}.{child}" for child, _ in module.named_children()]
        for name, module in model.named_modules()
        if isinstance(module, ConvBn)
    ]


# --- Quantization after training --------------------------------------------------------------


def fuse(model: MobileNet) -> nn.Module:
    """A float copy on the CPU with every batch norm folded into its convolution."""
    return tq.fuse_modules(copy.deepcopy(model).cpu().eval(), fusable(model))


def quantize_after_training(model: MobileNet, qconfig: tq.QConfig, images: Tensor) -> nn.Module:
    """The int8 form of a float network: fuse, prepare, calibrate, convert."""
    float_model = fuse(model)
    float_model.qconfig = qconfig
    prepared = tq.prepare(float_model)
    logits_of(prepared, images)  # calibration: observers see what passes
    return tq.convert(prepared)


# --- Quantization-aware training --------------------------------------------------------------


def prepare_for_training(model: MobileNet, qconfig: tq.QConfig) -> nn.Module:
    """A copy that rounds weights and activations as its int8 form will, and can be trained."""
    trainable = copy.deepcopy(model).train()
    trainable = tq.fuse_modules_qat(trainable, fusable(model))
    trainable.qconfig = qconfig
    return tq.prepare_qat(trainable)


def settle(prepared: nn.Module, epoch: int, count: int) -> None:
    """Called after each epoch: lets statistics, and then scales, stand still for the others.

    At first, batch norms use the statistics of each batch, and observers follow the activations.
    The int8 network has batch norms folded into its weights and one scale for each activation; what
    is trained in the end must be exactly that.
    """
    if epoch + 1 == count // 3:
        prepared.apply(octavo.nn.intrinsic.qat.freeze_bn_stats)
    if epoch + 1 == count // 2:
        prepared.apply(tq.disable_observer)


def to_int8(prepared: nn.Module) -> nn.Module:
    """The int8 form of a trained network, on the CPU."""
    return tq.convert(copy.deepcopy(prepared).cpu().eval())


# --- What the example shows -------------------------------------------------------------------


class Score(NamedTuple):
    """Right answers in percent."""

    validation: float
    test: float


@dataclass
class Curves:
    """Accuracy on the test images after each epoch, in percent; nothing is chosen by it."""

    float: list[float] = field(default_factory=list)
    trained_on: list[float] = field(default_factory=list)
    aware: list[float] = field(default_factory=list)


class Run:
    """One run of the example: data, and what is trained on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.quick: bool = arguments.quick
        self.device = torch.device(arguments.device)
        self.shape = QUICK if self.quick else FULL
        self.epochs, self.aware_epochs = (8, 6) if self.quick else (25, 10)
        cpu = torch.device("cpu")
        digits = data.load(arguments.seed)
        self.counts = {name: len(getattr(digits, name)) for name in ("train", "validation", "test")}
        self.train = digits.train.to(self.device)
        self.validation, self.test = digits.validation.to(cpu), digits.test.to(cpu)
        self.test_on_device = self.test.to(self.device)
        self.calibration = digits.train.to(cpu).images[:CALIBRATION_IMAGES]
        self.curves = Curves()

    def train_epochs(
        self,
        text: str,
        model: nn.Module,
        count: int,
        rate: float,
        curve: list[float],
        after: Callable[[int], None] | None = None,
    ) -> None:
        """Trains a model in place, under a progress bar; ``curve`` gets its accuracies."""
        with bars() as progress:
            task = progress.add_task(text, total=steps_of(self.train, count))
            step = functools.partial(progress.advance, task)
            for epoch in epochs(model.train(), self.train, count, rate, step):
                if after is not None:
                    after(epoch)
                curve.append(accuracy(model, self.test_on_device))

    def score(self, model: nn.Module) -> Score:
        """How much a network on the CPU gets right."""
        return Score(accuracy(model, self.validation), accuracy(model, self.test))

    def float_network(self) -> MobileNet:
        """Trains the float network."""
        model = MobileNet(self.shape).to(self.device, memory_format=torch.channels_last)
        self.train_epochs("float", model, self.epochs, FLOAT_RATE, self.curves.float)
        return model.eval()

    def float_network_trained_on(self, model: MobileNet) -> MobileNet:
        """The float network after as many more epochs as the quantized one gets."""
        longer = copy.deepcopy(model)
        self.train_epochs(
            "float, on", longer, self.aware_epochs, AWARE_RATE, self.curves.trained_on
        )
        return longer.eval()

    def aware_network(self, model: MobileNet) -> nn.Module:
        """The network trained on with rounded weights and activations, from the float one."""
        prepared = prepare_for_training(model, aware_qconfig(AGGRESSIVE))
        count = self.aware_epochs
        after = functools.partial(settle, prepared, count=count)
        self.train_epochs("QAT", prepared, count, AWARE_RATE, self.curves.aware, after)
        return prepared.eval()


def sweep(run: Run, model: MobileNet, results: Results) -> None:
    """Quantizes after training with fewer and fewer bits: where does it stop being good enough?"""
    rows = []
    for bits in (8, 4, 3) if run.quick else (8, 6, 5, 4, 3):
        row: dict[str, Any] = {"bits of a weight": bits}
        for per_channel in (True, False):
            qconfig = after_training_qconfig(Weights(bits, per_channel))
            int8 = quantize_after_training(model, qconfig, run.calibration)
            name = "channel" if per_channel else "layer"
            row[f"test accuracy, a scale per {name}"] = accuracy(int8, run.test)
        rows.append(row)
    results.table("After training, without any more of it", rows)


def rounding(model: nn.Module, results: Results) -> None:
    """What rounding does to the weights themselves: the reason for the loss."""
    kinds: dict[str, list[Tensor]] = {}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            kind = "depthwise 3x3" if getattr(module, "groups", 1) > 1 else "1x1 and others"
            kinds.setdefault(kind, []).append(module.weight.detach())
    rows = []
    for weights in (ORDINARY, AGGRESSIVE, Weights(AGGRESSIVE.bits, per_channel=False)):
        row: dict[str, Any] = {"weights": str(weights)}
        for kind, tensors in kinds.items():
            pairs = [(w, tq.FakeQuantize(observer=weight_observer(weights))(w)) for w in tensors]
            noise = sum(float((w - rounded).square().sum()) for w, rounded in pairs)
            signal = sum(float(w.square().sum()) for w in tensors)
            zeros = sum(int((rounded == 0).sum()) for _, rounded in pairs)
            row[f"{kind}: signal to noise, dB"] = 10 * math.log10(signal / noise)
            row[f"{kind}: rounded to 0, %"] = 100 * zeros / sum(w.numel() for w in tensors)
        rows.append(row)
    results.table("What rounding does to trained weights", rows)


def values_of(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """The values that a module in a model gives."""
    seen: list[Tensor] = []

    def see(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output.dequantize() if isinstance(output, octavo.QTensor) else output)

    handle = model.get_submodule(name).register_forward_hook(see)
    logits_of(model, images)
    handle.remove()
    return torch.cat(seen)


def agreement(prepared: nn.Module, int8: nn.Module, images: Tensor) -> dict[str, Any]:
    """How much of what was trained the int8 network is.

    ``prepared`` computes in float what ``int8`` computes in integers: the same, but for ties in
    rounding, and for the average pool, whose result ``int8`` rounds too.
    """
    trained = copy.deepcopy(prepared).cpu().eval()
    answers = [logits_of(network, images).argmax(1) for network in (trained, int8)]
    row: dict[str, Any] = {
        "images": len(images),
        "same answer": int((answers[0] == answers[1]).sum()),
    }
    last = f"features.{len(int8.features) - 1}.0"  # type: ignore[arg-type]
    for title, name in {"last convolution": last, "logits": "classifier"}.items():
        step = float(int8.get_submodule(name).scale)  # type: ignore[arg-type]
        difference = values_of(trained, name, images) - values_of(int8, name, images)
        steps = (difference / step).abs().round()
        row[f"{title}: same level, %"] = 100 * float((steps == 0).float().mean())
        row[f"{title}: most steps apart"] = int(steps.max())
    return row


def same_after_loading(model: MobileNet, int8: nn.Module, path: Path, images: Tensor) -> bool:
    """Whether a saved network, loaded into the float architecture, gives the same bits."""
    loaded = tq.load_quantized(fuse(model), path)
    return torch.equal(logits_of(loaded, images), logits_of(int8, images))


def save(model: MobileNet, int8: nn.Module, folder: Path) -> tuple[Path, Path]:
    """Writes the weights of both networks, float with its batch norms folded, into files."""
    float_path, int8_path = folder / "float.safetensors", folder / "int8.safetensors"
    for path, network in ((float_path, fuse(model)), (int8_path, int8)):
        save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path)
    return float_path, int8_path


def compare_torch_ao(
    run: Run, model: MobileNet, results: Results
) -> tuple[dict[str, Score], nn.Module | None]:
    """Scores of torch.ao's networks, and the one that was trained with rounding.

    Nothing and None in a quick run, and where this torch has no such thing, which is said.
    """
    if run.quick:
        return {}, None
    try:
        torch_ao = peer.TorchAo.find()
    except peer.NotInTorchError as error:
        results.say(f"not compared: {error}")
        return {}, None
    count = run.aware_epochs
    with peer.computing(torch_ao):
        scores = {}
        for weights in (ORDINARY, AGGRESSIVE):
            after = torch_ao.quantize_after_training(model, weights, run.calibration)
            scores[f"torch.ao after training, {weights}"] = run.score(after)
        prepared = torch_ao.prepare_for_training(model, AGGRESSIVE, run.device)
        settled = functools.partial(torch_ao.settle, prepared, count=count)
        run.train_epochs("torch.ao QAT", prepared, count, AWARE_RATE, [], settled)
        int8 = torch_ao.to_int8(prepared)
        scores[TORCH_AO_AWARE] = run.score(int8)
    return scores, int8


def main() -> None:
    """Trains, quantizes, compares, and writes tables, files and a picture."""
    arguments = _arguments()
    prepare(arguments)
    results = Results("qat_mobilenet", arguments)
    run = Run(arguments)
    results.value("images", run.counts)
    results.value("training device", str(run.device))
    results.say(", ".join(f"{count} images for {name}" for name, count in run.counts.items()))

    # Float, the same for longer, and quantization-aware from the first.
    model = run.float_network()
    longer = run.float_network_trained_on(model)
    prepared = run.aware_network(model)
    model, longer = model.cpu(), longer.cpu()

    # To int8: after training, and with it.
    after_ordinary = quantize_after_training(model, tq.get_default_qconfig(), run.calibration)
    after_aggressive = quantize_after_training(
        model, after_training_qconfig(AGGRESSIVE), run.calibration
    )
    aware = to_int8(prepared)
    networks = {
        FLOAT: model,
        TRAINED_ON: longer,
        AFTER_ORDINARY: after_ordinary,
        AFTER_AGGRESSIVE: after_aggressive,
        AWARE: aware,
    }
    scores = {name: run.score(network) for name, network in networks.items()}
    torch_ao_scores, torch_ao = compare_torch_ao(run, model, results)
    scores |= torch_ao_scores

    show_accuracy(run, scores, results)
    show_curves(run, scores, arguments.output, results)
    show_rounding(run, model, prepared, aware, results)
    sizes = compare_files(model, aware, arguments.output, run.test.images, results)
    times = speed.latencies(fuse(model), aware, torch_ao, run.test.images, run.quick)
    results.table("Speed and size", speed.rows(times, sizes), note=speed.NOTE)
    results.workload(workload(run, scores, times, sizes))
    results.write()


def show_accuracy(run: Run, scores: dict[str, Score], results: Results) -> None:
    """The main table."""
    rows = [
        {
            "network": name,
            "validation, %": round(score.validation, 2),
            "test accuracy, %": round(score.test, 2),
            "wrong": round(len(run.test) * (1 - score.test / 100)),
            "points from float": round(score.test - scores[FLOAT].test, 2),
        }
        for name, score in scores.items()
    ]
    results.table(f"Accuracy on {len(run.test)} test images", rows)


def show_curves(run: Run, scores: dict[str, Score], folder: Path, results: Results) -> None:
    """The picture: accuracy over epochs."""
    start, curves = run.epochs, run.curves
    lines = {
        "float": (1, curves.float),
        "float, trained on": (start, [curves.float[-1], *curves.trained_on]),
        f"QAT: {AGGRESSIVE}": (start, [scores[AFTER_AGGRESSIVE].test, *curves.aware]),
    }
    levels = {
        f"after training: {ORDINARY}": scores[AFTER_ORDINARY].test,
        f"after training: {AGGRESSIVE}": scores[AFTER_AGGRESSIVE].test,
    }
    plot.draw(folder / "qat_mobilenet.png", lines, levels, "A small MobileNetV2 on digits")
    results.value("curves", dataclasses.asdict(curves))


def show_rounding(
    run: Run, model: MobileNet, prepared: nn.Module, aware: nn.Module, results: Results
) -> None:
    """Tables of what rounding costs, why, and that it is the same in training and in int8."""
    sweep(run, model, results)
    rounding(fuse(model), results)
    agreed = agreement(prepared, aware, run.test.images)
    results.table("What was trained, and the int8 network that convert makes of it", [agreed])


def compare_files(
    model: MobileNet, int8: nn.Module, folder: Path, images: Tensor, results: Results
) -> dict[str, int]:
    """Saves both networks, loads int8 again, and returns the sizes of the files."""
    float_path, int8_path = save(model, int8, folder)
    same = same_after_loading(model, int8, int8_path, images)
    results.value("same bits after loading", same)
    return {"float": file_bytes(float_path), "int8": file_bytes(int8_path)}


def workload(
    run: Run,
    scores: dict[str, Score],
    times: dict[int, dict[str, float]],
    sizes: dict[str, int],
) -> Workload:
    """This example's row of the README's table: QAT beside the better of both float networks."""
    torch_ao_score = scores.get(TORCH_AO_AWARE)
    return Workload(
        name="MobileNetV2, QAT",
        settings=f"digits, 32x32, batch 1; {AGGRESSIVE}",
        metric=f"accuracy on {len(run.test)} images, %",
        float_score=max(scores[name].test for name in (FLOAT, TRAINED_ON)),
        int8_score=scores[AWARE].test,
        float_ms=times[1]["float"],
        int8_ms=times[1]["int8"],
        float_bytes=sizes["float"],
        int8_bytes=sizes["int8"],
        weights="whole network, batch norms folded",
        torch_ao_score=None if torch_ao_score is None else torch_ao_score.test,
        torch_ao_ms=times[1].get("torch.ao"),
    )


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, "qat_mobilenet")
    made.add_argument(
        "--device", default="auto", help="to train on: auto takes CUDA where there is one"
    )
    arguments = made.parse_args()
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return arguments


if __name__ == "__main__":
    main()
