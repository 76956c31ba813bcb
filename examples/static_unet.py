"""Segments coins with a U-Net in int8: static quantization, in eager mode, by FX and in one call.

Trains a U-Net in float on scenes that are put together from scikit-image's photographs, quantizes
it after training in three ways, and compares the results with float (and with ``torch.ao``, where
torch still has it): mean intersection over union on scenes of which no coin and no background was
seen before, time of a call, size on disk. Writes tables, ``results.json``, the int8 weights and a
picture of the masks.

    python examples/static_unet.py --quick
"""

from __future__ import annotations

import copy
import importlib
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared import (
    Results,
    Workload,
    best_engine,
    file_bytes,
    float_calls,
    milliseconds,
    parser,
    prepare,
    progress,
    torch_engine,
)
from static_unet_parts.picture import save_picture
from static_unet_parts.scenes import Scenes, test_row
from static_unet_parts.training import Batch, masks_of, mean_iou, train
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from octavo.nn.quantized import FloatFunctional
from octavo.quantization.quantize_fx import convert_fx, prepare_fx

# ---------------------------------------------------------------- the network, as anybody writes it


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Grey images (N, 1, H, W) to a score for each pixel, above 0 where a coin is.

    H and W are multiples of 8. Four levels: features of each are kept on the way down, and
    concatenated with those that come up from below (Ronneberger et al., 2015).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(
            DoubleConv(inputs, outputs)
            for inputs, outputs in zip([1, *widths[:2]], widths[:3], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = DoubleConv(widths[2], widths[3])
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(wide, w, 2, stride=2) for wide, w in upward)
        self.up = nn.ModuleList(DoubleConv(wide, w) for wide, w in upward)
        self.score = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([skips.pop(), grow(x)], 1))
        score: Tensor = self.score(x)
        return score


# ---------------------------------------------------- eager mode: the model says what is quantized


class EagerUNet(UNet):
    """The same network for eager mode: stubs at both ends, and a module for each concatenation.

    ``quantization`` and ``functional`` are for ``torch.ao``, whose classes have the same names.
    """

    def __init__(
        self, width: int = 32, quantization: Any = tq, functional: type = FloatFunctional
    ) -> None:
        super().__init__(width)
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.join = nn.ModuleList(functional() for _ in self.up)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for grow, join, block in zip(self.grow, self.join, self.up, strict=True):
            x = block(join.cat([skips.pop(), grow(x)], 1))
        score: Tensor = self.dequant(self.score(x))
        return score


def fused(model: EagerUNet, quantization: Any = tq) -> nn.Module:
    """A copy in eval mode in which each convolution, batch norm and ReLU are one module."""
    triples = [
        [f"{name}.{first + offset}" for offset in range(3)]
        for name, module in model.named_modules()
        if isinstance(module, DoubleConv)
        for first in (0, 3)
    ]
    result: nn.Module = quantization.fuse_modules(copy.deepcopy(model).eval(), triples)
    return result


def eager_unet(trained: UNet, width: int) -> nn.Module:
    """The trained network, written for eager mode and fused; still float."""
    model = EagerUNet(width)
    model.load_state_dict(trained.state_dict())  # stubs and functionals have no state
    return fused(model)


def quantize_eager(model: nn.Module, calibration: list[Tensor]) -> nn.Module:
    """The int8 form of what ``eager_unet`` gives: settings, observers, data, conversion."""
    model = copy.deepcopy(model)
    # Observes activations with histograms, and weights by channel: of a convolution these are
    # dimension 0 of its weight, of a transposed convolution dimension 1.
    model.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(model)
    with torch.inference_mode():
        for images in progress(calibration, len(calibration), "eager: calibrating"):
            prepared(images)
    int8: nn.Module = tq.convert(prepared)
    return int8


# --------------------------------------------------------- FX and one call: the model as it stands


def quantize_with_fx(model: UNet, calibration: list[Tensor]) -> nn.Module:
    """The int8 form of a network without stubs: FX traces it, fuses it and finds ``torch.cat``."""
    prepared = prepare_fx(
        copy.deepcopy(model).eval(), tq.get_default_qconfig_mapping(), (calibration[0],)
    )
    with torch.inference_mode():
        for images in progress(calibration, len(calibration), "FX: calibrating"):
            prepared(images)
    int8: nn.Module = convert_fx(prepared)
    return int8


def quantize_in_one_call(model: UNet, calibration: list[Tensor]) -> nn.Module:
    """The same in one call, which also compares the result with float."""
    int8, _ = octavo.quantize(model, calibration)
    return int8


# --------------------------------------------------------------------------- torch.ao, to compare


def quantize_with_torch_ao(
    trained: UNet, width: int, calibration: list[Tensor], engine: str | None
) -> tuple[nn.Module | None, str]:
    """What torch's own static quantization makes of it; None where torch has none (any more).

    The second value says what runs, or why there is nothing.

    Args:
        trained: the float network.
        width: its channels in the first level.
        calibration: images.
        engine: of torch, the current one; None where it has none.
    """
    try:
        ao: Any = importlib.import_module("torch.ao.quantization")
        ao_nn: Any = importlib.import_module("torch.ao.nn.quantized")
    except ImportError as error:
        return None, f"torch {torch.__version__} has no torch.ao.quantization: {error}"
    if engine is None:
        return None, f"torch {torch.__version__} has no engine for it"
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of torch, that what is compared here is deprecated
        model = EagerUNet(width, ao, ao_nn.FloatFunctional)
        model.load_state_dict(trained.state_dict())
        ready = fused(model, ao)
        ready.qconfig = ao.get_default_qconfig(engine)
        how = _treat_transposed(ready, ao)
        prepared = ao.prepare(ready)
        for images in progress(calibration, len(calibration), "torch.ao: calibrating"):
            prepared(images)
        return ao.convert(prepared), f"engine {engine}; {how}"


def _treat_transposed(model: Any, ao: Any) -> str:
    """Makes ``torch.ao`` quantize transposed convolutions, if it can; says what was done.

    It takes no weights by channel for these, and with one scale for the whole weight some of its
    engines give wrong results on some CPUs. Then these layers are left float.
    """
    one_scale = ao.QConfig(model.qconfig.activation, ao.default_weight_observer)
    layer = nn.Sequential(ao.QuantStub(), copy.deepcopy(model.grow[0]), ao.DeQuantStub()).eval()
    layer.qconfig = one_scale
    prepared = ao.prepare(layer)
    data = torch.rand(4, model.grow[0].in_channels, 16, 16)
    wanted = prepared(data)
    ratio = tq.numeric_suite.sqnr(wanted, ao.convert(prepared)(data))
    if ratio > 20:
        for grow in model.grow:
            grow.qconfig = one_scale
        return "transposed convolutions with one scale for the whole weight"
    for level, grow in enumerate(model.grow):
        grow.qconfig = None
        model.grow[level] = nn.Sequential(ao.DeQuantStub(), grow, ao.QuantStub())
    return f"transposed convolutions in float, as in int8 they have an SQNR of {ratio:.0f} dB"


# ------------------------------------------------------------------------------------ measurements


def accuracy(models: dict[str, nn.Module], test: list[Batch], strip: Batch) -> list[dict[str, Any]]:
    """Mean IoU of each model, and how many of its pixels are not as the first one has them."""
    wanted = masks_of(next(iter(models.values())), test)
    pixels = sum(mask.numel() for mask in wanted)
    rows = []
    for name, model in models.items():
        masks = masks_of(model, progress(test, len(test), f"testing: {name}"))
        changed = sum(int((a != b).sum()) for a, b in zip(masks, wanted, strict=True))
        rows.append(
            {
                "model": name,
                "mean IoU": mean_iou(masks, test),
                "mean IoU, photograph": mean_iou(masks_of(model, [strip]), [strip]),
                "pixels unlike float, %": 100 * changed / pixels,
            }
        )
    return rows


def latency(models: dict[str, nn.Module], quick: bool) -> list[dict[str, Any]]:
    """Milliseconds of a call by batch and size, float in both memory formats.

    Args:
        models: ``"float"`` has its batch norms folded into its convolutions, as int8 ones have.
        quick: fewer sizes, for a shorter time.
    """
    cases = [(1, 128), (4, 64)] if quick else [(1, 128), (1, 256), (1, 512), (8, 128), (8, 256)]
    rows = []
    for batch, size in progress(cases, len(cases), "timing"):
        images = torch.rand(batch, 1, size, size)
        calls: dict[str, Any] = {name: partial(model, images) for name, model in models.items()}
        calls |= float_calls(models["float"], images)
        times = milliseconds(calls, quick=quick)
        row: dict[str, Any] = {"images": f"{batch} x {size} x {size}"}
        row |= {f"{name}, ms": time for name, time in times.items()}
        row["eager against float"] = _fastest_float(row) / times["eager"]
        rows.append(row)
    return rows


def _fastest_float(row: dict[str, Any]) -> float:
    return float(min(row["float, ms"], row["float, channels last, ms"]))


def reloads(model: nn.Module, width: int, path: Path, images: Tensor) -> bool:
    """Saves int8 weights, loads them into a new network, and compares the bits of its scores."""
    torch.save(model.state_dict(), path)
    again = tq.load_quantized(fused(EagerUNet(width)), path)
    with torch.inference_mode():
        return torch.equal(model(images), again(images))


# ---------------------------------------------------------------------------------- the whole run


@dataclass(frozen=True)
class Plan:
    """How much of everything there is.

    Attributes:
        width: channels of the network's first level.
        steps: of training.
        side: of the scenes that networks are scored on, in pixels.
        test_batches: of four such scenes each.
    """

    width: int
    steps: int
    side: int
    test_batches: int


FULL = Plan(width=32, steps=500, side=192, test_batches=16)
QUICK = Plan(width=16, steps=600, side=96, test_batches=4)
CROP = 64  # side of the scenes that networks are trained and calibrated on


def main() -> None:
    """Trains, quantizes, compares."""
    arguments = parser(__doc__, "static_unet").parse_args()
    prepare(arguments)
    results = Results("static_unet", arguments)
    plan = QUICK if arguments.quick else FULL
    output: Path = arguments.output

    trained, calibration = train_float(plan, arguments.seed, results)
    ready = eager_unet(trained, plan.width)
    models = {
        "float": trained,
        "eager": quantize_eager(ready, calibration),
        "FX": quantize_with_fx(trained, calibration),
        "one call": quantize_in_one_call(trained, calibration),
    }

    scenes = Scenes("test", arguments.seed)
    test = [scenes.batch(4, plan.side) for _ in range(plan.test_batches)]
    engine = best_engine()
    with torch_engine(engine):  # which torch.ao's model is made for, and runs with
        torch_ao, how = quantize_with_torch_ao(trained, plan.width, calibration, engine)
        results.say(f"torch.ao: {how}")
        results.value("torch_ao", how)
        if torch_ao is not None:
            models["torch.ao"] = torch_ao
        scores = compare_masks(models, test, output / "static_unet.png", results)
        compare_layers(ready, models["eager"], test, results)
        times = latency({**models, "float": ready}, arguments.quick)
    results.table("time of a call", times)
    sizes = compare_files(trained, models["eager"], plan.width, test[0][0], output, results)
    results.workload(workload(scores, times, sizes, plan.width))
    results.write()


def train_float(plan: Plan, seed: int, results: Results) -> tuple[UNet, list[Tensor]]:
    """The trained network, and images to calibrate with: more scenes of the training set."""
    scenes = Scenes("train", seed)
    validation = [Scenes("validation", seed).batch(4, plan.side)]
    trained = UNet(plan.width)
    results.table("training", train(trained, scenes, validation, plan.steps, CROP))
    return trained, [scenes.batch(8, CROP)[0] for _ in range(8)]


def compare_masks(
    models: dict[str, nn.Module], test: list[Batch], picture: Path, results: Results
) -> list[dict[str, Any]]:
    """The table of scores, which it returns, and the picture of the masks behind them."""
    strip = test_row()
    scores = accuracy(models, test, strip)
    results.table("accuracy", scores)
    save_picture(picture, models["float"], models["eager"], test, strip)
    return scores


def compare_layers(ready: nn.Module, int8: nn.Module, test: list[Batch], results: Results) -> None:
    """The table of the layers whose outputs are furthest from float."""
    layers = tq.compare_layers(ready, int8, [images for images, _ in test[:2]])
    worst = sorted(layers, key=lambda layer: layer.sqnr)[:5]
    results.table(
        "layers that lose most",
        [{"layer": layer.name, "type": layer.type, "SQNR, dB": layer.sqnr} for layer in worst],
    )


def compare_files(
    trained: UNet, int8: nn.Module, width: int, images: Tensor, folder: Path, results: Results
) -> dict[str, int]:
    """Saves the weights of both networks, loads those of int8 again, and returns the sizes."""
    torch.save(trained.state_dict(), folder / "unet_float.pt")
    same = reloads(int8, width, folder / "unet_int8.pt", images)
    results.say(f"reloaded int8 weights give the same bits: {'yes' if same else 'NO'}")
    results.value("reloaded_same_bits", same)
    sizes = {name: file_bytes(folder / f"unet_{name}.pt") for name in ("float", "int8")}
    results.table(
        "size on disk",
        [{"weights": name, "kB": count / 1000} for name, count in sizes.items()],
    )
    return sizes


def workload(
    scores: list[dict[str, Any]], times: list[dict[str, Any]], sizes: dict[str, int], width: int
) -> Workload:
    """This example's row of the README's table: one image of 256 pixels (128 with --quick)."""
    iou = {row["model"]: row["mean IoU"] for row in scores}
    of_256 = [row for row in times if row["images"] == "1 x 256 x 256"]
    row = of_256[0] if of_256 else times[0]
    return Workload(
        name="U-Net, static",
        settings=f"{row['images']}, {width} to {8 * width} channels, eager",
        metric="mean IoU",
        float_score=iou["float"],
        int8_score=iou["eager"],
        torch_ao_score=iou.get("torch.ao"),
        float_ms=_fastest_float(row),
        int8_ms=row["eager, ms"],
        torch_ao_ms=row.get("torch.ao, ms"),
        float_bytes=sizes["float"],
        int8_bytes=sizes["int8"],
        weights="all, in a file",
    )


if __name__ == "__main__":
    main()
